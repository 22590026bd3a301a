"""MNIST's idx files: what is read, what is not held, and what is refused."""

import contextlib
import gzip
import hashlib
import io
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.errors import DataError
from skerry.tasks.builtin import idx, rows
from skerry.tasks.builtin.deal import Deal
from skerry.tasks.builtin.folder import DataFile, Folder
from skerry.tasks.builtin.mnist import MEAN, TEST, TRAIN, Files, Mnist

Bytes = npt.NDArray[np.uint8]
WriteIdx = Callable[[Path, Bytes], DataFile]

IMAGES = np.arange(700 * 28 * 28, dtype=np.uint32).reshape(700, 28, 28).astype(np.uint8)
DIGITS = (np.arange(700) * 7 % 10).astype(np.uint8)


@pytest.fixture
def mnist(tmp_path: Path, write_idx: WriteIdx) -> Mnist:
    """A data set of 700 training and 350 held-out images, which knows their checksums."""
    train = Files(write_idx(tmp_path / "i.gz", IMAGES), write_idx(tmp_path / "l.gz", DIGITS))
    test = Files(write_idx(tmp_path / "ti.gz", IMAGES[:350]), write_idx(tmp_path / "tl.gz", DIGITS[:350]))
    return Mnist(Folder("mnist", "the moon", tmp_path), train, test)


def test_parts_together_are_the_whole(mnist: Mnist) -> None:
    for held_out, examples in ((False, 700), (True, 350)):
        seen = []
        for part in range(7):
            owners = mnist.owners(Deal(part, 7, "iid", seed=3), held_out=held_out)
            x, y = mnist.read(np.flatnonzero(owners == part), held_out=held_out)
            assert x.shape == (examples // 7, 1, 28, 28)
            assert x.dtype == np.uint8
            seen += [(image.tobytes(), digit) for image, digit in zip(x, y.tolist(), strict=True)]
        whole = zip(IMAGES[:examples], DIGITS[:examples].tolist(), strict=True)
        assert sorted(seen) == sorted((image.tobytes(), digit) for image, digit in whole)


@given(st.sets(st.integers(0, 699)))
def test_any_rows_can_be_taken_from_the_stream(chosen: set[int]) -> None:
    wanted = np.array(sorted(chosen), np.int64)
    taken = rows.take_rows(io.BytesIO(IMAGES.tobytes()), 28 * 28, wanted, "images")
    assert (taken == IMAGES.reshape(700, -1)[wanted]).all()


def test_a_small_part_does_not_hold_the_whole(tmp_path: Path, write_idx: WriteIdx) -> None:
    """Peak of what numpy and Python hold while 70 of 20,000 images are read: their own bytes and one block."""
    images = np.zeros((20_000, 28, 28), np.uint8)
    write_idx(tmp_path / "i.gz", images)
    tracemalloc.start()
    idx.read_images(tmp_path / "i.gz", np.arange(0, 20_000, 286))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * rows.BLOCK_BYTES < images.nbytes / 10


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "ends 4 bytes too early"),
        (bytes((0, 0, 8, 1)) + bytes(2), "ends 2 bytes too early"),
        (bytes((0, 0, 8, 3)) + bytes(12), "begins with 00000803, an idx file of 1 dimensions with 00000801"),
        (bytes((0, 0, 13, 1)) + bytes(4), "begins with 00000d01"),
        (bytes((0, 0, 8, 1, 255, 255, 255, 255)), "states 4294967295 examples, at most"),
        (bytes((0, 0, 8, 1, 0, 0, 0, 9)) + bytes(5), "ends 4 bytes too early"),
    ],
)
def test_labels_of_another_form_are_refused(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(DataError) as caught:
        idx.read_labels(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("sizes", [(9, 0, 28), (9, 28, 1 << 20), (9, 1 << 31, 1 << 31)])
def test_images_of_senseless_size_are_refused(sizes: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(bytes((0, 0, 8, 3)) + b"".join(size.to_bytes(4, "big") for size in sizes)))
    with pytest.raises(DataError, match="pixels a side"):
        idx.read_images(path, np.arange(9))


def test_fewer_images_than_labels_are_refused(tmp_path: Path, write_idx: WriteIdx) -> None:
    write_idx(tmp_path / "i.gz", IMAGES[:5])
    with pytest.raises(DataError, match="holds 5 images"):
        idx.read_images(tmp_path / "i.gz", np.arange(6))


def test_a_file_that_is_cut_off_or_no_gzip_is_refused(tmp_path: Path, write_idx: WriteIdx) -> None:
    write_idx(tmp_path / "i.gz", IMAGES)
    whole = (tmp_path / "i.gz").read_bytes()
    for content in (whole[: len(whole) // 2], b"<html>not found</html>", whole[:100] + bytes(50) + whole[150:]):
        (tmp_path / "i.gz").write_bytes(content)
        with pytest.raises(DataError, match=r"i\.gz: is no intact gzip file"):
            idx.read_images(tmp_path / "i.gz", np.arange(700))


@given(st.binary(max_size=200), st.integers(0, 3))
def test_no_bytes_do_more_than_be_refused(content: bytes, dimensions: int) -> None:
    """Whatever stands behind the magic number."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.gz"
        path.write_bytes(gzip.compress(bytes((0, 0, 8, dimensions)) + content, compresslevel=0))
        with contextlib.suppress(DataError):
            idx.read_labels(path)
        with contextlib.suppress(DataError):
            idx.read_images(path, np.arange(2))


def test_another_file_than_the_published_one_is_refused_by_name_and_place(mnist: Mnist) -> None:
    assert mnist.folder.path is not None
    (mnist.folder.path / "l.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(DataError) as caught:
        mnist.owners(Deal(), held_out=False)
    for word in ("l.gz: its sha256 is", "that of l.gz is", "the moon"):
        assert word in str(caught.value)


def test_the_real_images_are_those_that_were_published(real_data: Callable[[str], Path]) -> None:
    mnist = Mnist(Folder("mnist", "", real_data("mnist")))
    for held_out, examples, mean in ((False, 60_000, MEAN), (True, 10_000, 33.79)):
        owners = mnist.owners(Deal(), held_out=held_out)
        assert len(owners) == examples
        x, y = mnist.read(np.arange(examples), held_out=held_out)
        assert x.mean() == pytest.approx(mean, abs=0.01)
        assert sorted(set(y.tolist())) == list(range(10))
    assert y[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def test_the_published_checksums_are_those_of_the_authors(real_data: Callable[[str], Path]) -> None:
    """MD5, as other programs state it, of the four files."""
    folder = real_data("mnist") / "mnist"
    for file, md5 in (
        (TRAIN.images, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        (TRAIN.labels, "d53e105ee54ea40749a09fcbcd1e9432"),
        (TEST.images, "9fb629c4189551a2d022fa330f9573f3"),
        (TEST.labels, "ec29112dd5afa0611ce80d1b7f02629c"),
    ):
        assert hashlib.md5((folder / file.name).read_bytes()).hexdigest() == md5
        file.verify(folder / file.name, "")
