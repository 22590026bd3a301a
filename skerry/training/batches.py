"""An endless stream of training batches over one data set."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from skerry.tasks.data import Dataset

Batch = tuple[npt.NDArray[Any], npt.NDArray[np.int64]]


class Shuffler(Protocol):
    """What draws the order of examples: a numpy Generator, or anything lighter."""

    def permutation(self, x: int, /) -> npt.NDArray[np.int64]:
        """Return the numbers from 0 to x - 1 in random order."""


class Batches(Iterator[Batch]):
    """Batches of equal size, every example once per epoch in a new order; an epoch's rest joins the next one's start.

    Equal sizes, so that every step costs the same time and every example weighs the same. A data set smaller than
    `batch_examples` is one batch.
    """

    def __init__(self, dataset: Dataset, batch_examples: int, rng: Shuffler) -> None:
        assert batch_examples >= 1
        assert len(dataset) >= 1
        self._dataset = dataset
        self._rng = rng
        self._batch_examples = min(batch_examples, len(dataset))
        self._order = rng.permutation(len(dataset))

    @property
    def batch_examples(self) -> int:
        """How many examples each batch has."""
        return self._batch_examples

    def __next__(self) -> Batch:
        """Return the next (x, y)."""
        if len(self._order) < self._batch_examples:
            self._order = np.concatenate([self._order, self._rng.permutation(len(self._dataset))])
        chosen, self._order = self._order[: self._batch_examples], self._order[self._batch_examples :]
        return self._dataset.rows(chosen)
