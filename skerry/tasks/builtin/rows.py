"""Chosen rows of a long stream of equal rows, without holding the others."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from skerry.errors import DataError

BLOCK_BYTES = 256 << 10


class Readable(Protocol):
    """A binary file, compressed or not."""

    def read(self, size: int, /) -> bytes:
        """Return `size` bytes, fewer only at the end."""


def read_exactly(file: Readable, size: int, origin: str) -> bytes:
    """Return the next `size` bytes.

    Raises:
        DataError: the file ends before.
    """
    data = file.read(size)
    if len(data) != size:
        raise DataError(f"{origin}: ends {size - len(data)} bytes too early: the file is cut off")
    return data


def take_rows(file: Readable, row_bytes: int, chosen: npt.NDArray[np.int64], origin: str) -> npt.NDArray[np.uint8]:
    """Return uint8 of shape (len(chosen), row_bytes): the rows whose numbers stand in `chosen`, which must rise.

    Holds what it returns and one block; reads up to the last chosen row.

    Raises:
        DataError: the file ends before.
    """
    taken = np.empty((len(chosen), row_bytes), np.uint8)
    end = int(chosen[-1]) + 1 if len(chosen) else 0
    step = max(1, BLOCK_BYTES // row_bytes)
    for start in range(0, end, step):
        stop = min(start + step, end)
        block = np.frombuffer(read_exactly(file, (stop - start) * row_bytes, origin), np.uint8).reshape(-1, row_bytes)
        first, last = np.searchsorted(chosen, (start, stop))
        taken[first:last] = block[chosen[first:last] - start]
    return taken
