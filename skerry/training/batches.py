"""An endless stream of training batches over one data set."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from skerry.tasks.data import Dataset
from skerry.training.shuffle import Shuffle
from skerry.vector import Float32


class Batch(NamedTuple):
    """What one training step takes beside the model."""

    x: npt.NDArray[Any]  # (examples, *input shape)
    y: npt.NDArray[Any]  # (examples, *label shape)
    noise: Float32 | None = None  # (examples, noise_values), uniform in [0, 1); None where the task takes none


class Batches(Iterator[Batch]):
    """Batches of equal size, every example once per epoch in a new order; an epoch's rest joins the next one's start.

    Equal sizes, so that every step costs the same time and every example weighs the same. A data set smaller than
    `batch_examples` is one batch.
    """

    def __init__(self, dataset: Dataset, batch_examples: int, rng: Shuffle, noise_values: int = 0) -> None:
        """`noise_values`: random numbers per example that the task's step takes, see `Manifest.noise_values`."""
        assert batch_examples >= 1
        assert len(dataset) >= 1
        self._dataset = dataset
        self._rng = rng
        self._noise_values = noise_values
        self._batch_examples = min(batch_examples, len(dataset))
        self._order = rng.permutation(len(dataset))

    @property
    def batch_examples(self) -> int:
        """How many examples each batch has."""
        return self._batch_examples

    def __next__(self) -> Batch:
        """Return the next batch."""
        if len(self._order) < self._batch_examples:
            self._order = np.concatenate([self._order, self._rng.permutation(len(self._dataset))])
        chosen, self._order = self._order[: self._batch_examples], self._order[self._batch_examples :]
        return Batch(*self._dataset.rows(chosen), self._noise())

    def _noise(self) -> Float32 | None:
        if not self._noise_values:
            return None
        return self._rng.uniform(self._batch_examples * self._noise_values).reshape(self._batch_examples, -1)
