"""A task small enough for thousands of runs: four kinds of points, a linear model of 32 numbers, learned by formula.

Everything about it is the product's, but for the engine: numpy instead of ONNX graphs, which take longer to call.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skerry.tasks.bundle import Bundle, pack
from skerry.tasks.data import Dataset
from skerry.tasks.manifest import Defaults, Input, Label, Manifest, PartName
from skerry.tasks.model_file import to_safetensors
from skerry.training.trainer import EngineName, Evaluation, StepResult, Trainer
from skerry.vector import Float32, Layout, Tensor
from testbed.simulation.trainers import Trainers

FEATURES, CLASSES, EXAMPLES = 7, 4, 32
LAYOUT = Layout((Tensor("weight", (CLASSES, FEATURES), 0), Tensor("bias", (CLASSES,), CLASSES * FEATURES)))


def write_bundle(path: Path) -> Path:
    """Write the task's bundle, whose graphs nobody runs."""
    parts = {
        PartName.STEP: b"a formula",
        PartName.EVALUATE: b"a formula",
        PartName.PREDICT: b"a formula",
        PartName.PARAMETERS: to_safetensors(LAYOUT, np.zeros(LAYOUT.size, np.float32)),
    }
    manifest = Manifest(
        name="points",
        input=Input(shape=(FEATURES,)),
        label=Label(classes=CLASSES),
        layout=LAYOUT,
        parts={name: hashlib.sha256(data).hexdigest() for name, data in parts.items()},
        defaults=Defaults(batch_examples=8, learning_rate=0.1),
    )
    path.write_bytes(pack(manifest, parts))
    return path


def write_rows(path: Path, number: int) -> Path:
    """Write the rows of device `number`: of all kinds, but one of them more often."""
    draws = np.random.default_rng(number)
    kinds = np.where(draws.random(EXAMPLES) < 0.3, number % CLASSES, draws.integers(0, CLASSES, EXAMPLES))
    x = draws.standard_normal((EXAMPLES, FEATURES)) + 2.0 * np.eye(CLASSES, FEATURES)[kinds]
    np.savez(path, x=x.astype(np.float32), y=kinds)
    return path


class FormulaTrainers(Trainers):
    """Opens the one trainer that there is."""

    def __call__(self, bundle: Bundle, engine: EngineName, threads: int, providers: Sequence[str], /) -> Trainer:
        """See `skerry.training.trainer.OpenTrainer`."""
        return FormulaTrainer()


class FormulaTrainer:
    """Softmax regression."""

    layout = LAYOUT
    runs_on = "a formula"

    def step(
        self, parameters: Float32, x: npt.NDArray[Any], y: npt.NDArray[Any], noise: Float32 | None = None
    ) -> StepResult:
        """Return loss and gradient of one batch."""
        logits = self.predict(parameters, x)
        shares = _shares(logits)
        loss = -float(np.log(shares[np.arange(len(y)), y]).mean())
        shares[np.arange(len(y)), y] -= 1.0
        shares /= len(y)
        gradient = np.concatenate([(shares.T @ x).ravel(), shares.sum(axis=0)]).astype(np.float32)
        return StepResult(loss, gradient, None)

    def evaluate(self, parameters: Float32, dataset: Dataset) -> Evaluation:
        """Return the mean loss over the data set, and how often the largest logit is right."""
        x, y = dataset.rows(slice(None))
        logits = self.predict(parameters, x)
        right = int((logits.argmax(axis=1) == y).sum())
        return Evaluation(len(y), right, float(-np.log(_shares(logits)[np.arange(len(y)), y]).mean()))

    def predict(self, parameters: Float32, x: npt.NDArray[Any]) -> Float32:
        """Return the logits."""
        weight, bias = parameters[: CLASSES * FEATURES].reshape(CLASSES, FEATURES), parameters[CLASSES * FEATURES :]
        return np.asarray(x @ weight.T + bias, np.float32)


def _shares(logits: Float32) -> Float32:
    """Return each row's softmax."""
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True), np.float32)
