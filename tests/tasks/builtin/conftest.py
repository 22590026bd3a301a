"""Data sets small enough to read, in every format; the real ones where they are on this machine."""

import gzip
import hashlib
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from skerry.tasks.builtin.folder import DataFile
from skerry.tasks.manifest import Input, Label, Manifest


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Return the folder of the real data sets, or skip the test where the one that it needs is not there."""

    def find(data_set: str) -> Path:
        beside = Path(__file__).resolve().parents[4] / "shared" / "datasets"
        folder = Path(os.environ.get("SKERRY_DATA", beside))
        if not (folder / data_set).is_dir():
            pytest.skip(f"the data set {data_set} is not in {folder}: set SKERRY_DATA")
        return folder

    return find


@pytest.fixture(scope="session")
def published() -> Callable[..., DataFile]:
    """Return the description of a file that says what it is."""

    def describe(path: Path, name: str | None = None) -> DataFile:
        return DataFile(name or path.name, f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}")

    return describe


@pytest.fixture(scope="session")
def write_idx(published: Callable[[Path], DataFile]) -> Callable[[Path, npt.NDArray[np.uint8]], DataFile]:
    def write(path: Path, array: npt.NDArray[np.uint8]) -> DataFile:
        head = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        path.write_bytes(gzip.compress(head + array.tobytes(), mtime=0))
        return published(path)

    return write


@pytest.fixture
def image_manifest(make_manifest: Callable[..., Manifest]) -> Callable[[tuple[int, ...]], Manifest]:
    return lambda shape: make_manifest(input=Input(shape=shape), label=Label(classes=10))


@pytest.fixture
def text_manifest(make_manifest: Callable[..., Manifest]) -> Callable[[tuple[str, ...], int], Manifest]:
    def make(names: tuple[str, ...], length: int) -> Manifest:
        return make_manifest(
            input=Input(shape=(length,), dtype="int64", values_below=len(names)),
            label=Label(classes=len(names), shape=(length,), names=names),
        )

    return make
