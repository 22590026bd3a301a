"""A torch module as functions of one flat vector: what is traced into graphs, and what the graphs are compared with."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from skerry.tasks.manifest import Label
from skerry.training.export_error import ExportError
from skerry.training.losses import loss_sums, mean_loss
from skerry.training.noise import Noise
from skerry.training.recurrence import LayerByLayer
from skerry.vector import Float32, Layout, Tensor

TensorFunction = Callable[..., tuple[torch.Tensor, ...]]


class FunctionalModel:
    """`model` with its parameters and float buffers taken from a flat vector at every call.

    Trainable parameters come first; frozen parameters and persistent float buffers are the untrainable tail. Buffers
    of other types keep the values that they have in `model`.
    """

    def __init__(self, model: torch.nn.Module, label: Label) -> None:
        """Read the layout off `model`; `label` says which loss it is trained by.

        Raises:
            ExportError: a tensor is not float32, or nothing is trainable.
        """
        self.model = model
        self.label = label
        persistent = model.state_dict(keep_vars=True)
        parameters = dict(model.named_parameters())
        buffers = {
            name: buffer for name, buffer in model.named_buffers() if name in persistent and buffer.is_floating_point()
        }
        head = {name: tensor for name, tensor in parameters.items() if tensor.requires_grad}
        tail = {name: tensor for name, tensor in parameters.items() if not tensor.requires_grad} | buffers
        for name, tensor in (head | tail).items():
            if tensor.dtype != torch.float32:
                raise ExportError(f"{name} is {tensor.dtype}: every parameter and float buffer must be float32")
        if not head:
            raise ExportError("the model has no trainable parameter")
        self._tensors = head | tail
        self._trainable = len(head)
        self._constants = {name: b for name, b in model.named_buffers() if name not in buffers}
        self.layout = _layout(head, tail)

    def vector(self) -> Float32:
        """Return the present values, float32 of shape (layout.size,)."""
        flat: Float32 = torch.cat([tensor.detach().reshape(-1) for tensor in self._tensors.values()]).numpy()
        return flat.copy()

    def noise_values(self, x: torch.Tensor, y: torch.Tensor) -> int:
        """Return how many random numbers per example a step takes, counted in one on `x` and `y`."""
        noise = Noise(None, len(x))
        with noise:
            self._step(torch.from_numpy(self.vector()), x, y)
        return noise.values

    def step(
        self, parameters: torch.Tensor, x: torch.Tensor, y: torch.Tensor, noise: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Return loss, flat gradient and, if there is a tail, its values after this batch; in training mode.

        Dropout takes its masks from `noise`, see `Noise`.
        """
        with Noise(noise, x.shape[0]):
            return self._step(parameters, x, y)

    def _step(self, parameters: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        tensors = self._split(parameters)
        # Not torch.func.grad: traced through it, some models lose their free batch dimension without an error.
        head = [tensor.detach().requires_grad_() for tensor in tensors[: self._trainable]]
        tail = [tensor.clone() for tensor in tensors[self._trainable :]]  # batch norm and the like write into them
        self.model.train()
        with torch.enable_grad():
            loss = mean_loss(self.label, self._call([*head, *tail], x), y)
            gradients = torch.autograd.grad(loss, head, allow_unused=True)
        unused = [name for name, gradient in zip(self._tensors, gradients, strict=False) if gradient is None]
        if unused:
            raise ExportError(f"the loss does not depend on {', '.join(unused)}: remove it from the model or freeze it")
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        return (loss.detach(), flat, torch.cat([t.reshape(-1) for t in tail])) if tail else (loss.detach(), flat)

    def evaluate(self, parameters: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the sum of losses, how many predictions are right, and how many were scored; in evaluation mode."""
        (logits,) = self.predict(parameters, x)
        return loss_sums(self.label, logits, y)

    def predict(self, parameters: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return logits; in evaluation mode."""
        self.model.eval()
        return (self._call(self._split(parameters), x),)

    def _split(self, parameters: torch.Tensor) -> list[torch.Tensor]:
        sizes = [tensor.size for tensor in self.layout.tensors]
        pieces = torch.split(parameters, sizes)
        return [piece.reshape(tensor.shape) for piece, tensor in zip(pieces, self.layout.tensors, strict=True)]

    def _call(self, tensors: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        given: dict[str, Any] = dict(zip(self._tensors, tensors, strict=True))
        given |= {name: buffer.clone() for name, buffer in self._constants.items()}
        with _unfused():
            return torch.func.functional_call(self.model, given, (x,))


@contextmanager
def _unfused() -> Iterator[None]:
    """Keep torch from running attention, a transformer layer or a recurrent stack as one operator, as no graph does."""
    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), LayerByLayer():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_enabled)


def _layout(head: dict[str, torch.Tensor], tail: dict[str, torch.Tensor]) -> Layout:
    tensors, offset = [], 0
    for name, tensor in (head | tail).items():
        tensors.append(Tensor(name, tuple(tensor.shape), offset, trainable=name in head))
        offset += tensor.numel()
    return Layout(tuple(tensors))
