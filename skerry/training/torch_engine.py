"""The engine for machines that have torch: the bundle's forward graphs run by torch, the gradient by autograd.

It does not use the step graph's own gradient, so it is also an independent check of it.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from skerry.errors import DataError
from skerry.tasks.bundle import Bundle
from skerry.tasks.data import Dataset
from skerry.tasks.manifest import PartName
from skerry.training import made_up
from skerry.training.onnx_engine import OnnxTrainer
from skerry.training.torch_graph import TorchGraph
from skerry.training.trainer import EVALUATION_EXAMPLES_MAX, Evaluation, StepResult, evaluation_of, slices
from skerry.vector import Float32, Layout

CHECKED_EXAMPLES = 3
ERROR_MAX = 0.01  # of a gradient, against the bundle's own: rounding stays far below, a wrong rule does not
SMALL_NORM = 1e-4  # of a tensor's gradient, of the whole one's: below, it is rounding


class TorchTrainer:
    """A Trainer on torch's CPU kernels."""

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        """Read the graphs of `bundle`; the number of threads is one for the whole process.

        Raises:
            UnsupportedOperator: a graph has an operator that only the onnx engine knows.
            DataError: the gradient of its loss is not the bundle's, see `_check_gradient`.
        """
        torch.set_num_threads(threads)
        self._layout, self._label = bundle.manifest.layout, bundle.manifest.label
        self._has_buffers = self._layout.size > self._layout.trainable_size
        outputs = ("loss", "buffers") if self._has_buffers else ("loss",)
        self._loss = TorchGraph(bundle.part(PartName.STEP), outputs)
        self._evaluate = TorchGraph(bundle.part(PartName.EVALUATE), ("loss_sum", "correct", "examples"))
        self._predict = TorchGraph(bundle.part(PartName.PREDICT), ("logits",))
        self._check_gradient(bundle)

    @property
    def layout(self) -> Layout:
        """How the model lies in its vector."""
        return self._layout

    @property
    def runs_on(self) -> str:
        """Engine and processor."""
        return "torch: CPU"

    def step(
        self, parameters: Float32, x: npt.NDArray[Any], y: npt.NDArray[Any], noise: Float32 | None = None
    ) -> StepResult:
        """Return loss and gradient of one batch."""
        vector = _tensor(parameters).requires_grad_()
        inputs = {"parameters": vector, "x": _tensor(x), "y": _tensor(y)}
        if noise is not None:
            inputs["noise"] = _tensor(noise)
        loss, *buffers = self._loss(inputs)
        (gradient,) = torch.autograd.grad(loss, vector)
        return StepResult(
            float(loss.detach()),
            gradient[: self._layout.trainable_size].numpy(),
            buffers[0].detach().numpy() if buffers else None,
        )

    def evaluate(self, parameters: Float32, dataset: Dataset) -> Evaluation:
        """Return accuracy and loss on `dataset`, a slice at a time."""
        vector = _tensor(parameters)
        sums = []
        with torch.no_grad():
            for x, y in slices(dataset):
                outputs = self._evaluate({"parameters": vector, "x": _tensor(x), "y": _tensor(y)})
                sums.append(tuple(output.item() for output in outputs))
        return evaluation_of(sums, self._label)

    def predict(self, parameters: Float32, x: npt.NDArray[Any]) -> Float32:
        """Return logits of shape (examples, *label.logits_shape)."""
        vector = _tensor(parameters)
        starts = range(0, len(x), EVALUATION_EXAMPLES_MAX)
        with torch.no_grad():
            pieces = [_tensor(x[start : start + EVALUATION_EXAMPLES_MAX]) for start in starts]
            logits = [self._predict({"parameters": vector, "x": piece})[0] for piece in pieces]
        joined: Float32 = torch.cat(logits).numpy()
        return joined

    def _check_gradient(self, bundle: Bundle) -> None:
        """Compare the gradient of one step with the bundle's own.

        A graph says how its values come about, not where its author stopped a gradient: by `detach`, by `no_grad`, or
        for the padding of an embedding. Autograd would go on there without an error.

        Raises:
            DataError: they differ.
        """
        made = made_up.batch(bundle.manifest, CHECKED_EXAMPLES, seed=0)
        features = bundle.manifest.input
        if features.values_below is not None:
            # Padding is one of the first numbers or of the last.
            numbers = np.arange(made.x.size) - made.x.size // 4
            made = made._replace(x=(numbers % features.values_below).reshape(made.x.shape))
        parameters = bundle.initial_parameters()
        ours, theirs = (trainer.step(parameters, *made).gradient for trainer in (self, OnnxTrainer(bundle)))
        floor = SMALL_NORM * np.linalg.norm(theirs)
        for tensor in self._layout.tensors:
            if tensor.trainable:
                place = slice(tensor.offset, tensor.offset + tensor.size)
                allowed = ERROR_MAX * np.linalg.norm(theirs[place]) + floor
                if not np.linalg.norm(ours[place] - theirs[place]) <= allowed:  # nan is not, either
                    raise DataError(
                        f"{bundle.path}: the torch engine's gradient of {tensor.name} is not the bundle's: the model "
                        "stops gradients (by detach, no_grad, padding_idx), which its graphs do not show: "
                        "use the onnx engine"
                    )


def _tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    """Return the values of `array`, without a copy where torch can take them as they are."""
    return torch.from_numpy(array) if array.flags.writeable else torch.tensor(array)
