"""The device's own head: some tensors of the model, tuned on its data on top of the newest regional body.

The regional model, its updates and the order of the training data know nothing of it: what a device uploads is the
same, bit by bit, with and without one. The idea is that of FedPer (Arivazhagan et al. 2019, arXiv:1912.00818) with a
difference: there the shared model has no head; here it keeps one that everybody trains, and the own head begins there.
"""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import numpy as np

from skerry.errors import ConfigError
from skerry.training.batches import Batch
from skerry.training.trainer import Trainer
from skerry.vector import Float32, Indices, Layout


class OwnTensors:
    """Which entries of the model's vector belong to the own head."""

    def __init__(self, layout: Layout, patterns: Sequence[str], task: str) -> None:
        """Choose the trainable tensors that any of `patterns` names; * and ? stand for characters.

        Raises:
            ConfigError: a pattern names none; says which tensors there are.
        """
        trainable = [tensor for tensor in layout.tensors if tensor.trainable]
        for pattern in patterns:
            if not any(fnmatchcase(tensor.name, pattern) for tensor in trainable):
                names = ", ".join(tensor.name for tensor in trainable)
                raise ConfigError(f"personal.layers: {pattern!r} names no tensor of task {task!r}; there are: {names}")
        chosen = [tensor for tensor in trainable if any(fnmatchcase(tensor.name, one) for one in patterns)]
        self.names = tuple(tensor.name for tensor in chosen)
        self.entries: Indices = np.concatenate(
            [np.arange(tensor.offset, tensor.offset + tensor.size, dtype=np.int64) for tensor in chosen]
        )

    def with_head(self, regional: Float32, head: Float32) -> Float32:
        """Return a copy of `regional`, shape (layout.size,), with the own tensors' values from `head`."""
        parameters = regional.copy()
        parameters[self.entries] = head
        return parameters


class Tuning:
    """One round of tuning, step by step: plain SGD on the own tensors, the body stays as it is."""

    def __init__(
        self, trainer: Trainer, batches: Iterator[Batch], own: OwnTensors, start: Float32, learning_rate: float
    ) -> None:
        """`start`, shape (layout.size,), is changed in place."""
        self._trainer, self._batches, self._own, self._learning_rate = trainer, batches, own, learning_rate
        self.parameters = start

    def step(self) -> None:
        """Tune on the next batch."""
        result = self._trainer.step(self.parameters, *next(self._batches))
        entries = self._own.entries
        self.parameters[entries] -= np.float32(self._learning_rate) * result.gradient[entries]

    @property
    def head(self) -> Float32:
        """A copy of the own tensors' values."""
        return self.parameters[self._own.entries]

    @property
    def is_finite(self) -> bool:
        """Whether the head holds numbers to go on with."""
        return bool(np.isfinite(self.parameters[self._own.entries]).all())
