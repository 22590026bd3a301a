"""How well a model does on the device's own held-out rows: counts and a sum, a few rows at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from skerry.protocol.messages import LOSS_SUM_MAX, ModelVersion
from skerry.tasks.data import Dataset
from skerry.training.trainer import Trainer
from skerry.vector import Float32

SLICE_EXAMPLES = 64  # in one call: bounds memory, and how long other work of the thread waits


@dataclass(frozen=True, slots=True)
class Score:
    """What one model reached."""

    examples: int = 0  # predictions that were scored
    correct: int | None = 0  # None where predictions are neither right nor wrong
    loss_sum: float = 0.0

    def __add__(self, other: "Score") -> "Score":
        correct = None if self.correct is None or other.correct is None else self.correct + other.correct
        return Score(self.examples + other.examples, correct, self.loss_sum + other.loss_sum)

    @property
    def reported_loss_sum(self) -> float:
        """The sum as telemetry takes it, in [0, LOSS_SUM_MAX]: a model that diverged has none, or an infinite one."""
        return min(max(self.loss_sum, 0.0), LOSS_SUM_MAX) if self.loss_sum == self.loss_sum else LOSS_SUM_MAX

    def about(self) -> dict[str, Any]:
        """Return the figures that people want."""
        examples = max(self.examples, 1)
        loss = {"loss": self.loss_sum / examples}
        return loss if self.correct is None else {"correct": self.correct, "accuracy": self.correct / examples, **loss}


@dataclass(frozen=True, slots=True)
class HeldOutScores:
    """The newest evaluation: of a regional model, and of the own head on top of it."""

    version: ModelVersion | None = None  # None: there was none yet
    regional: Score = Score()
    personal: Score | None = None

    @property
    def reported_correct(self) -> int:
        """By the regional model, as telemetry takes it: 0 where predictions are neither right nor wrong."""
        return self.regional.correct or 0

    @property
    def reported_personal_correct(self) -> int | None:
        """With the own head, as telemetry takes it; None where there is none."""
        return None if self.personal is None else self.personal.correct or 0


def sample(dataset: Dataset, examples_max: int) -> Dataset:
    """Return at most so many rows, evenly spread and always the same ones, so that figures compare over time."""
    if len(dataset) <= examples_max:
        return dataset
    chosen = np.linspace(0, len(dataset) - 1, examples_max).astype(np.int64)
    return Dataset(dataset.x[chosen], dataset.y[chosen], dataset.input)


def slices(dataset: Dataset) -> Iterator[Dataset]:
    """Yield consecutive rows, few enough for one call."""
    for start in range(0, len(dataset), SLICE_EXAMPLES):
        rows = slice(start, start + SLICE_EXAMPLES)
        yield Dataset(dataset.x[rows], dataset.y[rows], dataset.input)


def score(trainer: Trainer, parameters: Float32, dataset: Dataset) -> Score:
    """Return what the model reaches on a few rows."""
    found = trainer.evaluate(parameters, dataset)
    return Score(found.examples, found.correct, found.loss * found.examples)
