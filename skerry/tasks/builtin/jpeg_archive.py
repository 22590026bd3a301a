"""Small JPEG images of one size in one npz file: a shared head, bodies one after the other, labels.

`header + body[offsets[i]:offsets[i + 1]]` is image i; the first `n_train` are for training. Needs Pillow.
"""

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skerry.errors import DataError
from skerry.extras import require
from skerry.tasks import npz_file
from skerry.tasks.builtin.folder import readable
from skerry.tasks.builtin.rows import read_exactly

IMAGES_MAX = 1 << 20
IMAGE_BYTES_MAX = 64 << 10


def read_labels(path: Path, *, held_out: bool) -> npt.NDArray[np.int64]:
    """Return int64 of shape (examples,).

    Raises:
        DataError: not readable, or of another form.
    """
    arrays = npz_file.read_arrays(
        path,
        {
            "labels": lambda *form: _check(path, "labels", form, 1),
            "n_train": lambda *form: _check(path, "n_train", form, 0),
        },
    )
    train = int(arrays["n_train"])
    if not 0 <= train <= len(arrays["labels"]):
        raise DataError(f"{path}: n_train is {train}, there are {len(arrays['labels'])} labels")
    labels = arrays["labels"].astype(np.int64)
    return labels[train:] if held_out else labels[:train]


def read_images(path: Path, chosen: npt.NDArray[np.int64], side: int, *, held_out: bool) -> npt.NDArray[np.uint8]:
    """Return uint8 of shape (len(chosen), 3, side, side); `chosen` must rise, and counts within the split.

    Holds what it returns, the offsets and one compressed image.

    Raises:
        ConfigError: Pillow is not installed.
        DataError: not readable, not intact, or an image of another form.
    """
    arrays = npz_file.read_arrays(
        path,
        {
            "header": lambda *form: _check(path, "header", form, 1),
            "offsets": lambda *form: _check(path, "offsets", form, 1),
            "n_train": lambda *form: _check(path, "n_train", form, 0),
        },
    )
    head, offsets = arrays["header"].tobytes(), arrays["offsets"].astype(np.int64)
    rows = chosen + int(arrays["n_train"]) if held_out else chosen
    if len(rows) and rows[-1] + 1 >= len(offsets):
        raise DataError(f"{path}: has {max(0, len(offsets) - 1)} images, its labels say that there are more")
    sizes = np.diff(offsets)
    if len(sizes) and (offsets[0] != 0 or sizes.min() < 0 or sizes.max() > IMAGE_BYTES_MAX):
        raise DataError(f"{path}: offsets must rise from 0, by at most {IMAGE_BYTES_MAX} bytes an image")
    images = np.empty((len(rows), 3, side, side), np.uint8)
    at = 0
    with readable(path):
        try:
            with zipfile.ZipFile(path) as archive, archive.open("body.npy") as file:
                _skip_array_head(file, path)
                for place, row in enumerate(rows.tolist()):
                    start, end = int(offsets[row]), int(offsets[row + 1])
                    file.seek(start - at, io.SEEK_CUR)
                    images[place] = _decoded(head + read_exactly(file, end - start, str(path)), side, path, row)
                    at = end
        except (KeyError, zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
            raise DataError(f"{path}: is no intact archive of images: {error}") from error
    return images


def _check(path: Path, name: str, form: tuple[tuple[int, ...], np.dtype[Any]], dimensions: int) -> None:
    shape, dtype = form
    if len(shape) != dimensions or dtype.kind not in "ui" or (shape and shape[0] > IMAGES_MAX + 1):
        raise DataError(f"{path}: {name} is {dtype} of shape {shape}, must be integers of {dimensions} dimensions")


def _skip_array_head(file: Any, path: Path) -> None:
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise DataError(f"{path}: body is an array of format {version}, must be (1, 0)")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if len(shape) != 1 or dtype != np.uint8:
        raise DataError(f"{path}: body is {dtype} of shape {shape}, must be bytes")


def _decoded(jpeg: bytes, side: int, path: Path, row: int) -> npt.NDArray[np.uint8]:
    require("data", f"{path}: reading JPEG images", ", or put the original batches beside the file, which need nothing")
    from PIL import Image

    try:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
            if image.size != (side, side) or image.mode != "RGB":
                raise DataError(f"{path}: image {row}: {image.size} {image.mode}, must be {side} x {side} RGB")
            return np.asarray(image, np.uint8).transpose(2, 0, 1)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: image {row}: is no intact JPEG image: {error}") from error
