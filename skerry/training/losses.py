"""The losses of tasks, in torch: what a step minimises and an evaluation sums. See `skerry.tasks.manifest.Label`."""

from collections.abc import Callable
from typing import Literal

import torch
from torch.nn import functional

from skerry.tasks.manifest import IGNORED, Label

Loss = Literal["cross_entropy", "mse", "bce_with_logits"]
Sums = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # loss, right predictions, scored predictions; each a scalar


def mean_loss(label: Label, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the mean loss over the scored predictions of a batch, 0 where there is none."""
    loss, _, scored = loss_sums(label, logits, y)
    return loss / scored.clamp(min=1).to(loss.dtype)


def loss_sums(label: Label, logits: torch.Tensor, y: torch.Tensor) -> Sums:
    """Return float32 loss and int64 counts, summed over the scored predictions of a batch.

    `logits` have shape (examples, *label.logits_shape), `y` (examples, *label.shape).
    """
    return _SUMS[label.loss](logits, y)


def _cross_entropy(logits: torch.Tensor, y: torch.Tensor) -> Sums:
    classes = logits.shape[-1]
    logits, y = logits.reshape(-1, classes), y.reshape(-1)
    scored = y != IGNORED
    picked = functional.log_softmax(logits, 1).gather(1, y.clamp(min=0).unsqueeze(1)).squeeze(1)
    loss = -torch.where(scored, picked, 0.0).sum()
    right = logits.argmax(1) == y  # no class has the number IGNORED
    return loss, right.to(torch.int64).sum(), scored.to(torch.int64).sum()


def _mse(logits: torch.Tensor, y: torch.Tensor) -> Sums:
    count = torch.ones_like(y, dtype=torch.int64).sum()
    return (logits - y).square().sum(), torch.zeros_like(count), count


def _bce_with_logits(logits: torch.Tensor, y: torch.Tensor) -> Sums:
    loss = functional.binary_cross_entropy_with_logits(logits, y, reduction="sum")
    right = (logits > 0) == (y > 0.5)
    return loss, right.to(torch.int64).sum(), torch.ones_like(y, dtype=torch.int64).sum()


_SUMS: dict[Loss, Callable[[torch.Tensor, torch.Tensor], Sums]] = {
    "cross_entropy": _cross_entropy,
    "mse": _mse,
    "bce_with_logits": _bce_with_logits,
}
