"""The engine for machines that have torch: the bundle's forward graphs run by torch, the gradient by autograd.

It does not use the step graph's own gradient, so it is also an independent check of it.
"""

from typing import Any

import numpy.typing as npt
import torch

from skerry.tasks.bundle import Bundle
from skerry.tasks.data import Dataset
from skerry.tasks.manifest import PartName
from skerry.training.torch_graph import TorchGraph
from skerry.training.trainer import EVALUATION_EXAMPLES_MAX, Evaluation, StepResult, evaluation_of, slices
from skerry.vector import Float32, Layout


class TorchTrainer:
    """A Trainer on torch's CPU kernels."""

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        """Read the graphs of `bundle`; the number of threads is one for the whole process.

        Raises:
            UnsupportedOperator: a graph has an operator that only the onnx engine knows.
        """
        torch.set_num_threads(threads)
        self._layout, self._label = bundle.manifest.layout, bundle.manifest.label
        self._has_buffers = self._layout.size > self._layout.trainable_size
        outputs = ("loss", "buffers") if self._has_buffers else ("loss",)
        self._loss = TorchGraph(bundle.part(PartName.STEP), outputs)
        self._evaluate = TorchGraph(bundle.part(PartName.EVALUATE), ("loss_sum", "correct", "examples"))
        self._predict = TorchGraph(bundle.part(PartName.PREDICT), ("logits",))

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
        vector = torch.tensor(parameters, requires_grad=True)
        inputs = {"parameters": vector, "x": torch.from_numpy(x), "y": torch.from_numpy(y)}
        if noise is not None:
            inputs["noise"] = torch.from_numpy(noise)
        loss, *buffers = self._loss(inputs)
        (gradient,) = torch.autograd.grad(loss, vector)
        return StepResult(
            float(loss.detach()),
            gradient[: self._layout.trainable_size].numpy(),
            buffers[0].detach().numpy() if buffers else None,
        )

    def evaluate(self, parameters: Float32, dataset: Dataset) -> Evaluation:
        """Return accuracy and loss on `dataset`, a slice at a time."""
        vector = torch.tensor(parameters)
        sums = []
        with torch.no_grad():
            for x, y in slices(dataset):
                outputs = self._evaluate({"parameters": vector, "x": torch.from_numpy(x), "y": torch.from_numpy(y)})
                sums.append(tuple(output.item() for output in outputs))
        return evaluation_of(sums, self._label)

    def predict(self, parameters: Float32, x: npt.NDArray[Any]) -> Float32:
        """Return logits of shape (examples, *label.logits_shape)."""
        vector = torch.tensor(parameters)
        starts = range(0, len(x), EVALUATION_EXAMPLES_MAX)
        with torch.no_grad():
            pieces = [torch.from_numpy(x[start : start + EVALUATION_EXAMPLES_MAX]) for start in starts]
            logits = [self._predict({"parameters": vector, "x": piece})[0] for piece in pieces]
        joined: Float32 = torch.cat(logits).numpy()
        return joined
