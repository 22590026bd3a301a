"""One cycle of local steps on a device. Pure: no clock, no I/O; whoever steps it decides when to stop."""

from collections.abc import Iterator

import numpy as np

from skerry.algorithms.merge import Merge
from skerry.algorithms.optimizer import Optimizer
from skerry.algorithms.schedule import Constant, Schedule
from skerry.algorithms.uplink import Uplink
from skerry.training.batches import Batch
from skerry.training.trainer import Trainer
from skerry.vector import Float32

NO_SCHEDULE = Constant()


class LocalRun:
    """Training from one base model, step by step, with newer base models merged in between.

    Vectors are float32 of shape (layout.size,). `start`, `residual` and what is merged are read, never written, and
    must stay as they are while it runs. The optimizer's momentum starts at zero. `uploads` counts the device's uploads
    so far; the uplink's push may depend on it. `first_step` counts the device's local steps before this run; the
    schedule goes on from there.
    """

    def __init__(
        self,
        trainer: Trainer,
        batches: Iterator[Batch],
        *,
        optimizer: Optimizer,
        uplink: Uplink,
        merge: Merge,
        start: Float32,
        residual: Float32,
        learning_rate: float,
        uploads: int = 0,
        schedule: Schedule = NO_SCHEDULE,
        first_step: int = 0,
    ) -> None:
        layout = trainer.layout
        assert start.shape == residual.shape == (layout.size,)
        self._trainer = trainer
        self._batches = batches
        self._optimizer = optimizer.start(layout.trainable_size)
        self._uplink = uplink
        self._merge = merge
        self._parameters = start.astype(np.float32)
        self._base = start.astype(np.float32, copy=False)
        self._residual = residual
        self.learning_rate = learning_rate  # before the schedule; may be set between two steps
        self._uploads = uploads
        self._schedule, self._first_step = schedule, first_step
        self._head = slice(0, layout.trainable_size)
        self._tail = slice(layout.trainable_size, layout.size)
        self._losses = 0.0
        self.steps = 0  # taken so far
        self.highest_rate = 0.0  # learning rate of any step so far, schedule included; 0 before the first

    @property
    def mean_loss(self) -> float:
        """Mean loss of the steps taken, each before its own change; nan before the first."""
        return self._losses / self.steps if self.steps else float("nan")

    @property
    def parameters(self) -> Float32:
        """The model as it stands; changes with the next step."""
        return self._parameters

    def step(self) -> float:
        """Train on the next batch and return its loss, which may be infinite or nan if training diverges."""
        result = self._trainer.step(self._parameters, *next(self._batches))
        learning_rate = self.learning_rate * self._schedule.factor(self._first_step + self.steps)
        self._push(learning_rate)  # part of this step's loss: its gradient, too, is taken before the step
        self._optimizer.step(self._parameters[self._head], result.gradient, learning_rate)
        if result.buffers is not None:
            self._parameters[self._tail] = result.buffers
        self.steps += 1
        self.highest_rate = max(self.highest_rate, learning_rate)
        self._losses += result.loss
        return result.loss

    def _push(self, learning_rate: float) -> None:
        """Let the uplink draw the first steps towards what it has not sent yet."""
        self._uplink.push(
            self.steps,
            self._parameters,
            self._base,
            self._residual,
            self._trainer.layout,
            learning_rate,
            self._uploads,
        )

    def merge(self, newer: Float32) -> bool:
        """Let a newer regional model in, between two steps; return whether the merge rule took it.

        If so, `newer` is the base from now on, so that `difference` holds what this device trained, and nothing else.
        """
        merged = self._merge.mid_cycle(self._parameters, self._base, newer)
        if merged is None:
            return False
        self._parameters = merged
        self._base = newer.astype(np.float32, copy=False)
        return True

    def learned(self) -> Float32:
        """Return what is to be sent: parameters - base, or under the uplink `whole_model` the parameters."""
        return self._parameters.copy() if self._uplink.whole else self.difference()

    def difference(self) -> Float32:
        """Return parameters - base, the whole vector: what this run has learnt."""
        return self._parameters - self._base
