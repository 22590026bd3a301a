"""What a result was made with."""

from pathlib import Path

import pytest

from testbed import versions


def test_the_versions_of_what_matters_are_told() -> None:
    installed = versions.installed()
    assert {"python", "system", "numpy", "onnxruntime", "aiohttp"} <= installed.keys()
    assert installed["python"].startswith("3.")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "core" / "inner").mkdir(parents=True)
    (tmp_path / "core" / "one.py").write_text("a = 1")
    (tmp_path / "core" / "inner" / "two.sql").write_text("select 1")
    return tmp_path / "core"


@pytest.mark.parametrize(
    ("file", "content"),
    [("one.py", "a = 2"), ("inner/two.sql", "select 2"), ("three.py", ""), ("inner/one.py", "a = 1")],
)
def test_a_changed_source_has_another_digest(folder: Path, file: str, content: str) -> None:
    before = versions.digest_of([folder])
    (folder / file).write_text(content)
    assert versions.digest_of([folder]) != before


def test_what_is_no_source_does_not_count(folder: Path) -> None:
    before = versions.digest_of([folder])
    (folder / "one.pyc").write_bytes(b"\0")
    assert versions.digest_of([folder]) == before


def test_a_file_that_moves_counts(folder: Path) -> None:
    before = versions.digest_of([folder])
    (folder / "one.py").rename(folder / "inner" / "one.py")
    assert versions.digest_of([folder]) != before


def test_the_source_that_decides_over_a_simulation_is_one_digest() -> None:
    assert len(versions.source_digest()) == 64
    assert versions.source_digest() == versions.source_digest()
