"""CIFAR-10 in its three formats: the same images from each, and only those that are asked for."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from skerry.errors import ConfigError, DataError
from skerry.tasks.builtin.cifar10 import (
    BINARY,
    JPEG,
    PYTHON,
    BinaryBatches,
    Cifar10,
    JpegArchive,
    PythonBatches,
)
from skerry.tasks.builtin.deal import Deal
from skerry.tasks.builtin.folder import DataFile, Folder

PER_BATCH = 6
IMAGES = np.random.default_rng(3).integers(0, 256, (3 * PER_BATCH, 3, 32, 32), np.uint8)
LABELS = np.arange(3 * PER_BATCH) * 7 % 10  # two training batches, one held out
TRAIN, TEST = slice(0, 2 * PER_BATCH), slice(2 * PER_BATCH, None)

Published = Callable[..., DataFile]


def python_2_pickle(images: npt.NDArray[np.uint8], labels: list[int]) -> bytes:
    """Return a batch as Python 2 wrote it: protocol 2, str as bytes."""
    content, rows = images.tobytes(), len(labels)
    return (
        b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03(" + b"".join(b"K" + bytes((label,)) for label in labels) + b"e"
        b"U\x04dataq\x04cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87Rq\x07"
        b"(K\x01K" + bytes((rows,)) + b"M\x00\x0c\x86cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01\x87Rq\x09"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + len(content).to_bytes(4, "little") + content + b"tbu."
    )


@pytest.fixture
def python_batches(tmp_path: Path, published: Published) -> PythonBatches:
    (tmp_path / PYTHON).mkdir()
    files = []
    for number in range(3):
        rows = slice(number * PER_BATCH, (number + 1) * PER_BATCH)
        path = tmp_path / PYTHON / f"batch_{number}"
        path.write_bytes(python_2_pickle(IMAGES[rows], LABELS[rows].tolist()))
        files.append(published(path, f"{PYTHON}/{path.name}"))
    return PythonBatches(Folder("cifar10", "the moon", tmp_path), tuple(files[:2]), tuple(files[2:]))


@pytest.fixture
def binary_batches(tmp_path: Path) -> BinaryBatches:
    (tmp_path / BINARY).mkdir()
    rows = np.concatenate([LABELS.astype(np.uint8)[:, np.newaxis], IMAGES.reshape(-1, 3072)], axis=1)
    files = []
    for number in range(3):
        name = f"{BINARY}/batch_{number}.bin"
        (tmp_path / name).write_bytes(rows[number * PER_BATCH : (number + 1) * PER_BATCH].tobytes())
        files.append(DataFile(name))
    return BinaryBatches(Folder("cifar10", "the moon", tmp_path), tuple(files[:2]), tuple(files[2:]), PER_BATCH)


def archive_of(path: Path, sizes: tuple[int, int] = (32, 32), colours: str = "RGB", **changes: Any) -> None:
    """Write flat images of growing brightness, which JPEG keeps well; the head is what all of them begin with."""
    from PIL import Image

    bodies = []
    for number in range(len(LABELS)):
        buffer = io.BytesIO()
        Image.new(colours, sizes, (10 * number,) * len(colours) if len(colours) > 1 else 10 * number).save(
            buffer, "JPEG", quality=75
        )
        bodies.append(buffer.getvalue())
    arrays: dict[str, Any] = {
        "header": np.frombuffer(bodies[0][:100], np.uint8),
        "body": np.frombuffer(b"".join(body[100:] for body in bodies), np.uint8),
        "offsets": np.cumsum([0, *(len(body) - 100 for body in bodies)]).astype(np.uint32),
        "labels": LABELS.astype(np.uint8),
        "n_train": np.array(2 * PER_BATCH),
    }
    np.savez(path, **(arrays | changes))


@pytest.fixture
def jpegs(tmp_path: Path, published: Published) -> JpegArchive:
    pytest.importorskip("PIL")
    archive_of(tmp_path / "cifar10_jpeg.npz")
    return JpegArchive(Folder("cifar10", "the moon", tmp_path), published(tmp_path / "cifar10_jpeg.npz"))


@pytest.mark.parametrize("form", ["python_batches", "binary_batches"])
def test_the_original_batches_give_every_byte(form: str, request: pytest.FixtureRequest) -> None:
    cifar = Cifar10(request.getfixturevalue(form))
    for held_out, rows in ((False, TRAIN), (True, TEST)):
        for deal in (Deal(), Deal(1, 3, seed=2), Deal(0, 2, "shards", labels=5)):
            mine = np.flatnonzero(cifar.owners(deal, held_out=held_out) == deal.part)
            x, y = cifar.read(mine, held_out=held_out)
            assert x.dtype == np.uint8
            assert (x == IMAGES[rows][mine]).all()
            assert (y == LABELS[rows][mine]).all()


def test_jpeg_images_come_out_in_their_places(jpegs: JpegArchive) -> None:
    cifar = Cifar10(jpegs)
    for held_out, first in ((False, 0), (True, 2 * PER_BATCH)):
        rows = np.array([1, 2, 5])
        x, y = cifar.read(rows, held_out=held_out)
        assert x.shape == (3, 3, 32, 32)
        np.testing.assert_allclose(x.mean(axis=(1, 2, 3)), 10 * (rows + first), atol=2)
        assert (y == LABELS[rows + first]).all()
    assert len(cifar.owners(Deal(), held_out=False)) == 2 * PER_BATCH


def test_the_originals_are_preferred_to_the_lossy_images(tmp_path: Path) -> None:
    folder = Folder("cifar10", "the moon", tmp_path)
    with pytest.raises(
        DataError, match=r"no .*data_batch_1 or .*\.bin or cifar10_jpeg\.npz in .*: get it from the moon"
    ):
        Cifar10.open(folder)
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / JPEG.name).touch()
    assert isinstance(Cifar10.open(folder).format, JpegArchive)
    (tmp_path / BINARY).mkdir()
    (tmp_path / BINARY / "test_batch.bin").touch()
    assert isinstance(Cifar10.open(folder).format, BinaryBatches)
    (tmp_path / "cifar10" / PYTHON).mkdir()
    (tmp_path / "cifar10" / PYTHON / "data_batch_3").touch()
    assert isinstance(Cifar10.open(folder).format, PythonBatches)
    with pytest.raises(DataError, match="data_batch_1 in"):
        Cifar10.open(folder).owners(Deal(), held_out=False)


def test_a_damaged_batch_is_refused_by_name(python_batches: PythonBatches, binary_batches: BinaryBatches) -> None:
    folder = python_batches.folder.path
    assert folder is not None
    (folder / PYTHON / "batch_1").write_bytes(b"\x80\x02}.")
    with pytest.raises(DataError, match=r"batch_1: its sha256 is .*; get it from the moon"):
        Cifar10(python_batches).owners(Deal(), held_out=False)
    (folder / BINARY / "batch_0.bin").write_bytes(bytes(100))
    with pytest.raises(DataError, match=r"batch_0\.bin: 100 bytes, .* has 18438"):
        Cifar10(binary_batches).owners(Deal(), held_out=False)


def test_labels_that_are_lists_of_lists_are_refused_before_they_are_unfolded(tmp_path: Path) -> None:
    """Some 1,300 bytes of lists that hold the one before fifty times would become 50^12 labels."""
    first = b"U\x010](K\x01eq\x00"
    lists = first + b"".join(b"U\x010](" + b"h%c" % number * 50 + b"eq%c" % (number + 1) for number in range(12))
    entries = lists + b"U\x06labelsh\x0cU\x04dataU\x00"
    (tmp_path / "batch").write_bytes(b"\x80\x02}(" + entries + b"u.")
    with pytest.raises(DataError, match="its labels are no list of numbers"):
        PythonBatches(Folder("cifar10", "the moon", tmp_path), (DataFile("batch"),)).labels(held_out=False)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x02}.", python_2_pickle(IMAGES[:2], [1]), python_2_pickle(IMAGES[:2, :1], [1, 2]), b"cos\nsystem\n."],
    ids=["empty", "no entries", "fewer labels", "smaller images", "code"],
)
def test_a_batch_of_another_form_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "batch").write_bytes(content)
    with pytest.raises(DataError, match="batch: "):
        PythonBatches(Folder("cifar10", "the moon", tmp_path), (DataFile("batch"),)).labels(held_out=False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"offsets": np.array([0, 5], np.uint32)}, "has 1 images, its labels say that there are more"),
        ({"offsets": np.arange(19, dtype=np.uint32)[::-1]}, "offsets must rise"),
        ({"offsets": np.arange(19, dtype=np.uint32) * 100_000}, "offsets must rise from 0, by at most 65536"),
        ({"offsets": np.arange(19, dtype=np.float32)}, "offsets is float32"),
        ({"body": np.zeros(3, np.uint8)}, "bytes too early"),
        ({"body": np.zeros(3, np.float32)}, "must be bytes"),
        ({"body": np.zeros(10_000, np.uint8)}, "no intact JPEG image"),
        ({"header": np.zeros(0, np.uint8)}, "no intact JPEG image"),
        ({"n_train": np.array(99)}, "n_train is 99, there are 18 labels"),
        ({"sizes": (16, 16)}, "(16, 16) RGB, must be 32 x 32 RGB"),
        ({"colours": "L"}, "(32, 32) L, must be 32 x 32 RGB"),
    ],
)
def test_an_archive_of_another_form_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    archive_of(tmp_path / "images.npz", **changes)
    archive = JpegArchive(Folder("cifar10", "the moon", tmp_path), DataFile("images.npz"))
    with pytest.raises(DataError) as caught:
        archive.read(np.arange(12), held_out=False)
    assert said in str(caught.value)


def test_without_pillow_the_error_says_what_to_install(jpegs: JpegArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[data\]'"):
        jpegs.read(np.arange(1), held_out=False)


def test_the_real_images_are_those_that_were_published(real_data: Callable[[str], Path]) -> None:
    pytest.importorskip("PIL")
    cifar = Cifar10.open(Folder("cifar10", "", real_data("cifar10")))
    for held_out, examples in ((False, 50_000), (True, 10_000)):
        owners = cifar.owners(Deal(4, 100, "shards"), held_out=held_out)
        assert len(owners) == examples
        x, y = cifar.read(np.flatnonzero(owners == 4), held_out=held_out)
        assert x.shape == (examples // 100, 3, 32, 32)
        assert len(set(y.tolist())) <= 2
        assert 60 < x.mean() < 180
