"""Dropout and the like as functions of noise that is handed in, so that a step depends on its inputs alone.

A device draws the noise, so a run can be repeated, the gate can compare a step with autograd under the same mask, and
both engines drop the same values.
"""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from skerry.training.export_error import ExportError

aten = torch.ops.aten


class Noise(TorchDispatchMode):  # type: ignore[misc]  # torch is Any to mypy
    """While it is active, random draws take consecutive columns of `noise`, float32 of shape (examples, values).

    `None` stands for zeros, of as many columns as are asked for: `values` then tells how many a model takes.
    """

    def __init__(self, noise: torch.Tensor | None, examples: int) -> None:
        """`examples`: in the batch; symbolic while a graph is traced."""
        super().__init__()
        self._noise = noise
        self._examples = examples
        self.values = 0  # taken so far, per example

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer a random draw; hand on everything else."""
        if function is aten.bernoulli_.float:
            tensor, share = args[0], args[1] if len(args) > 1 else 0.5
            return aten.copy_(tensor, (self._uniform(tensor) >= 1.0 - share).to(tensor.dtype))
        if function is aten.native_dropout.default:
            tensor, share, training = args
            if not training:
                return tensor, torch.ones_like(tensor, dtype=torch.bool)
            kept = self._uniform(tensor) >= share
            return tensor * kept * (1.0 / (1.0 - share) if share < 1.0 else 0.0), kept
        if torch.Tag.nondeterministic_seeded in function.tags:
            raise ExportError(f"draws random numbers by {function}: only dropout can, a step depends on its inputs")
        return function(*args, **(kwargs or {}))

    def _uniform(self, like: torch.Tensor) -> torch.Tensor:
        """Return the next columns in the shape of `like`, whose entries are the same number for every example."""
        count = like.numel() // self._examples
        if count * self._examples != like.numel():
            raise ExportError(
                f"drops out entries of a tensor of shape {tuple(like.shape)}, which has no batch dimension"
            )
        start, self.values = self.values, self.values + int(count)
        if self._noise is None:
            return torch.zeros_like(like)
        return self._noise[:, start : self.values].reshape(like.shape)
