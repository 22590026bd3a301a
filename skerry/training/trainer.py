"""What an engine can do with a task: one training step, evaluation, prediction. Stateless: the model is an argument."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy.typing as npt

from skerry.extras import require
from skerry.tasks.bundle import Bundle
from skerry.tasks.data import Dataset
from skerry.tasks.manifest import Label
from skerry.vector import Float32, Layout

EngineName = Literal["onnx", "torch"]
EVALUATION_EXAMPLES_MAX = 32  # in one call of a graph: a usual batch's, so that it takes no more memory than a step


@dataclass(frozen=True, slots=True, eq=False)
class StepResult:
    """What one batch says about the model."""

    loss: float  # mean over the batch
    gradient: Float32  # of the loss, shape (layout.trainable_size,)
    buffers: Float32 | None  # the untrainable tail after this batch; None where the model has none


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How a model does on a data set."""

    examples: int  # predictions that were scored: one of each example, or one for each of its places
    correct: int | None  # of them; None where predictions are neither right nor wrong, see `Label.countable`
    loss: float  # mean over the scored predictions

    @property
    def accuracy(self) -> float | None:
        """Share of scored predictions that were right, in [0, 1]; None where none can be."""
        return None if self.correct is None else self.correct / max(self.examples, 1)


def slices(dataset: Dataset) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Yield x and y of consecutive rows, few enough for one call of a graph."""
    for start in range(0, len(dataset), EVALUATION_EXAMPLES_MAX):
        yield dataset.rows(slice(start, start + EVALUATION_EXAMPLES_MAX))


def evaluation_of(sums: Sequence[tuple[float, int, int]], label: Label) -> Evaluation:
    """Return the evaluation of all slices from each one's (loss sum, correct, examples)."""
    losses, correct, examples = zip(*sums, strict=True)
    scored = int(sum(examples))
    return Evaluation(scored, int(sum(correct)) if label.countable else None, float(sum(losses)) / max(scored, 1))


class Trainer(Protocol):
    """An engine that has loaded one bundle. Arrays are what `skerry.tasks.data.load` gives: normalised, checked."""

    @property
    def layout(self) -> Layout:
        """How the model lies in its vector."""

    @property
    def runs_on(self) -> str:
        """Engine and processor, e.g. `onnx: CUDAExecutionProvider`; with the reason where it is not what was asked."""

    def step(
        self, parameters: Float32, x: npt.NDArray[Any], y: npt.NDArray[Any], noise: Float32 | None = None
    ) -> StepResult:
        """Return loss and gradient of one batch. `parameters` (layout.size,) is left alone.

        `noise` is float32 of shape (examples, manifest.noise_values), uniform in [0, 1); needed where that is not 0.
        """

    def evaluate(self, parameters: Float32, dataset: Dataset) -> Evaluation:
        """Return accuracy and loss on `dataset`, which must not be empty."""

    def predict(self, parameters: Float32, x: npt.NDArray[Any]) -> Float32:
        """Return logits of shape (examples, *label.logits_shape)."""


class OpenTrainer(Protocol):
    """Loads a bundle into an engine, see `open_trainer`; a simulation shares one between its devices."""

    def __call__(self, bundle: Bundle, engine: EngineName, threads: int, providers: Sequence[str], /) -> Trainer:
        """Return the trainer."""


def open_trainer(
    bundle: Bundle, engine: EngineName = "onnx", threads: int = 1, providers: Sequence[str] = ()
) -> Trainer:
    """Load `bundle` into an engine that may use `threads` threads.

    `providers` are onnxruntime's execution providers to try before the CPU's, in order; see `Trainer.runs_on`.

    Raises:
        ConfigError: the engine's package is not installed.
        DataError: the engine cannot run this bundle.
    """
    match engine:
        case "onnx":
            from skerry.training.onnx_engine import OnnxTrainer

            return OnnxTrainer(bundle, threads, providers)
        case "torch":
            require("torch", "the torch engine", ", or use the onnx engine")
            from skerry.training.torch_engine import TorchTrainer

            return TorchTrainer(bundle, threads)
