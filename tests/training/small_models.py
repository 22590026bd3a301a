"""Models that tests make bundles of. Importing this imports torch."""

from typing import Any

import torch
from torch import nn

from skerry.tasks.manifest import Input, Label
from skerry.training.definition import TaskDefinition


def task(model: nn.Module, shape: tuple[int, ...] = (4,), classes: int = 3) -> TaskDefinition:
    return TaskDefinition(name="made", model=model, input=Input(shape=shape), label=Label(classes=classes))


class RunningMean(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    """Centres its outputs by a mean that it keeps up to date while it trains, and counts in an integer buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.register_buffer("mean", torch.full((3,), 0.5))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Any) -> Any:
        out = self.linear(x)
        centred = out - self.mean
        if self.training:
            with torch.no_grad():
                self.mean.mul_(0.75).add_(out.mean(0), alpha=0.25)
                self.batches.add_(1)
        return centred
