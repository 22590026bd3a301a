"""The idx format of MNIST, compressed with gzip: a head of big-endian integers, then bytes.

Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits", section on file formats.
"""

import gzip
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from skerry.errors import DataError
from skerry.tasks.builtin.folder import readable
from skerry.tasks.builtin.rows import Readable, read_exactly, take_rows

EXAMPLES_MAX = 1 << 20
SIDE_MAX = 1024  # of an image, in pixels
UNSIGNED_BYTES = 0x08


def read_labels(path: Path) -> npt.NDArray[np.int64]:
    """Return int64 of shape (examples,), in [0, 255].

    Raises:
        DataError: not readable, not intact, or no list of labels.
    """
    with _opened(path) as file:
        (examples,) = _head(file, 1, path)
        return np.frombuffer(read_exactly(file, examples, str(path)), np.uint8).astype(np.int64)


def read_images(path: Path, chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Return uint8 of shape (len(chosen), height, width): the images whose numbers stand in `chosen`, which must rise.

    Raises:
        DataError: not readable, not intact, no list of images, or an image is not there.
    """
    with _opened(path) as file:
        examples, height, width = _head(file, 3, path)
        if len(chosen) and chosen[-1] >= examples:
            raise DataError(f"{path}: holds {examples} images, its labels say that there are more")
        if not 1 <= height <= SIDE_MAX or not 1 <= width <= SIDE_MAX:
            raise DataError(f"{path}: images of {height} x {width}, must be 1 to {SIDE_MAX} pixels a side")
        return take_rows(file, height * width, chosen, str(path)).reshape(-1, height, width)


@contextmanager
def _opened(path: Path) -> Iterator[Readable]:
    with readable(path):
        try:
            with gzip.open(path) as file:
                yield file
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{path}: is no intact gzip file: {error}") from error


def _head(file: Readable, dimensions: int, path: Path) -> tuple[int, ...]:
    wanted = bytes((0, 0, UNSIGNED_BYTES, dimensions))
    magic = read_exactly(file, 4, str(path))
    if magic != wanted:
        raise DataError(
            f"{path}: begins with {magic.hex()}, an idx file of {dimensions} dimensions with {wanted.hex()}"
        )
    sizes: tuple[int, ...] = struct.unpack(f">{dimensions}I", read_exactly(file, 4 * dimensions, str(path)))
    if sizes[0] > EXAMPLES_MAX:
        raise DataError(f"{path}: states {sizes[0]} examples, at most {EXAMPLES_MAX} are read")
    return sizes
