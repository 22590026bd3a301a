"""Random orders and noise without numpy.random, which would cost a small device two megabytes."""

import random

import numpy as np
import numpy.typing as npt

from skerry.vector import Float32

BYTES_AT_ONCE = 1 << 27  # Python's generator makes no more than 2 ** 31 bits; a multiple of its words of 4 bytes
MANTISSA_BITS = 24  # of float32: so many random bits make every representable step of [0, 1) that is evenly spaced


class Shuffle:
    """Draws the order of examples, and a step's noise; the same for the same seed, others each time for None."""

    def __init__(self, seed: int | None) -> None:
        self._rng = random.Random(seed)  # noqa: S311 - no secret

    def permutation(self, x: int, /) -> npt.NDArray[np.int64]:
        """Return the numbers from 0 to x - 1 in random order: the order of as many random 64-bit keys."""
        keys = np.frombuffer(self._bytes(8 * x), np.uint64)
        return np.argsort(keys, kind="stable").astype(np.int64, copy=False)

    def uniform(self, count: int, /) -> Float32:
        """Return `count` random float32, uniform in [0, 1)."""
        bits = np.frombuffer(self._bytes(4 * count), np.uint32) >> np.uint32(32 - MANTISSA_BITS)
        return bits.astype(np.float32) * np.float32(2.0**-MANTISSA_BITS)

    def _bytes(self, size: int) -> bytes:
        pieces = range(0, size, BYTES_AT_ONCE)
        return b"".join(self._rng.randbytes(min(BYTES_AT_ONCE, size - start)) for start in pieces)
