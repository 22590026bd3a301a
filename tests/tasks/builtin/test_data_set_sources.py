"""`builtin:mnist?...` as a device's owner writes it: folders, parts and splits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from skerry.errors import DataError
from skerry.tasks.builtin import mnist
from skerry.tasks.builtin.folder import DataFile
from skerry.tasks.builtin.mnist import Files
from skerry.tasks.builtin.source import DATA_SETS
from skerry.tasks.data import check_source, load
from skerry.tasks.manifest import Manifest

ImageManifest = Callable[[tuple[int, ...]], Manifest]
IMAGES = (np.arange(90 * 784, dtype=np.uint32) % 251).astype(np.uint8).reshape(90, 28, 28)
DIGITS = (np.arange(90) % 10).astype(np.uint8)


@pytest.fixture
def small_mnist(
    tmp_path: Path,
    write_idx: Callable[[Path, npt.NDArray[np.uint8]], DataFile],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder of 60 + 30 images which stands for the published one."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    train = Files(
        write_idx(folder / mnist.TRAIN.images.name, IMAGES[:60]),
        write_idx(folder / mnist.TRAIN.labels.name, DIGITS[:60]),
    )
    test = Files(
        write_idx(folder / mnist.TEST.images.name, IMAGES[60:]), write_idx(folder / mnist.TEST.labels.name, DIGITS[60:])
    )
    small = replace(DATA_SETS["mnist"], open=lambda folder, _manifest: mnist.Mnist(folder, train, test))
    monkeypatch.setitem(DATA_SETS, "mnist", small)
    return tmp_path


def test_the_folder_is_the_sources_own_or_the_one_for_all(small_mnist: Path, image_manifest: ImageManifest) -> None:
    manifest = image_manifest((1, 28, 28))
    assert len(load("builtin:mnist", manifest, data_dir=small_mnist)) == 60
    assert len(load(f"builtin:mnist?dir={small_mnist}/mnist", manifest, data_dir=Path("/nowhere"))) == 60
    check_source("builtin:mnist?split=all", small_mnist)
    check_source(f"builtin:mnist?dir={small_mnist}")
    for source in ("builtin:mnist", "builtin:mnist?dir=/nowhere"):
        with pytest.raises(DataError, match="get the files from https"):
            load(source, manifest)
        with pytest.raises(DataError, match="get the files from https"):
            check_source(source)


def test_images_stay_bytes_until_a_batch_needs_them(small_mnist: Path, image_manifest: ImageManifest) -> None:
    dataset = load("builtin:mnist", image_manifest((1, 28, 28)), data_dir=small_mnist)
    assert dataset.x.dtype == np.uint8
    x, y = dataset.rows(np.array([3, 1]))
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, IMAGES[[3, 1], np.newaxis])
    assert y.tolist() == [3, 1]


@pytest.mark.parametrize("query", ["", "&partition=shards&labels=3", "&partition=dirichlet&alpha=5&seed=7"])
def test_parts_and_splits_together_are_the_whole(query: str, small_mnist: Path, image_manifest: ImageManifest) -> None:
    manifest = image_manifest((1, 28, 28))

    def rows(split: str, part: int, parts: int) -> list[bytes]:
        source = f"builtin:mnist?part={part}&parts={parts}&split={split}{query}"
        return [row.tobytes() for row in load(source, manifest, data_dir=small_mnist).x]

    for split, images in (("train", IMAGES[:60]), ("test", IMAGES[60:]), ("all", IMAGES)):
        dealt = [row for part in range(4) for row in rows(split, part, 4)]
        assert sorted(dealt) == sorted(image.tobytes() for image in images)
    assert len(load("builtin:mnist", manifest, held_out=True, data_dir=small_mnist)) == 30


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("builtin:mnist?partition=natural", "nobody knows who made"),
        ("builtin:mnist?parts=100", "no rows"),
        ("builtin:mnist?colour=red", "unknown option colour"),
        ("builtin:mnist?part=1", "must be 0 to 0"),
        ("builtin:fashion", "there is: activity, mnist, cifar10, wikitext2, shakespeare"),
    ],
)
def test_what_cannot_be_is_said(source: str, said: str, small_mnist: Path, image_manifest: ImageManifest) -> None:
    if said == "no rows":
        source += "&part=99"
    with pytest.raises(DataError, match=said):
        load(source, image_manifest((1, 28, 28)), data_dir=small_mnist)


def test_a_task_of_another_shape_is_refused(small_mnist: Path, image_manifest: ImageManifest) -> None:
    with pytest.raises(DataError, match=r"x has shape \(60, 1, 28, 28\), task 'tiny' takes \(examples, 784\)"):
        load("builtin:mnist", image_manifest((784,)), data_dir=small_mnist)
