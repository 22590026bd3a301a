"""Where files are looked for, and what is said when they are not there or not the published ones."""

from collections.abc import Callable
from pathlib import Path

import pytest

from skerry.errors import DataError
from skerry.tasks.builtin.folder import DataFile, Folder

FILE = DataFile("images.gz", "md5:" + "0" * 32, bytes_max=10)


def test_the_folder_itself_comes_before_the_one_named_like_the_data_set(
    tmp_path: Path, published: Callable[[Path], DataFile]
) -> None:
    folder = Folder("mnist", "the moon", tmp_path)
    (tmp_path / "mnist").mkdir()
    inner, outer = tmp_path / "mnist" / "images.gz", tmp_path / "images.gz"
    inner.write_bytes(b"1")
    assert folder.need(published(inner)) == inner
    outer.write_bytes(b"1")
    assert folder.need(published(outer)) == outer
    assert folder.find(DataFile("other.gz"), DataFile("images.gz")) == outer
    assert folder.find(DataFile("other.gz")) is None


def test_a_missing_file_is_named_with_the_places_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        Folder("mnist", "the moon", tmp_path).need(FILE)
    assert str(caught.value) == (
        f"data set mnist: no images.gz in {tmp_path} or {tmp_path / 'mnist'}: get it from the moon; "
        "see docs/tasks/mnist.md"
    )


def test_a_missing_folder_is_another_thing() -> None:
    for path, said in ((None, "no folder named"), (Path("/nowhere"), "no folder /nowhere")):
        with pytest.raises(DataError) as caught:
            Folder("mnist", "the moon", path).need(FILE)
        for word in (said, "the moon", "dir= in the data source", "--data-dir", "SKERRY_DATA", "docs/tasks/mnist.md"):
            assert word in str(caught.value)


def test_a_file_that_is_another_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images.gz").write_bytes(b"1")
    with pytest.raises(DataError) as caught:
        Folder("mnist", "the moon", tmp_path).need(FILE)
    for word in (str(tmp_path / "images.gz"), "md5 is c4ca4238a0b923820dcc509a6f75849b", "000000", "the moon"):
        assert word in str(caught.value)
    (tmp_path / "images.gz").write_bytes(b"1" * 11)
    with pytest.raises(DataError, match=r"images\.gz: 11 bytes, images\.gz has at most 10"):
        Folder("mnist", "the moon", tmp_path).need(FILE)
