"""Random orders without numpy.random, which would cost a small device two megabytes and does nothing more here."""

import random

import numpy as np
import numpy.typing as npt


class Shuffle:
    """A `skerry.training.batches.Shuffler`; the same order for the same seed, another one each time for None."""

    def __init__(self, seed: int | None) -> None:
        self._rng = random.Random(seed)  # noqa: S311 - an order of examples

    def permutation(self, x: int, /) -> npt.NDArray[np.int64]:
        """Return the numbers from 0 to x - 1 in random order: the order of as many random 64-bit keys."""
        keys = np.frombuffer(self._rng.randbytes(8 * x), np.uint64)
        return np.argsort(keys, kind="stable").astype(np.int64, copy=False)
