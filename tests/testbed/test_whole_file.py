"""A file of a run is the old one or the new one."""

from pathlib import Path

import pytest

from testbed import whole_file


def test_what_is_written_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    for content in (b"first", b"2nd"):
        assert whole_file.write(path, content) == path
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = whole_file.write(tmp_path / "summary.json", b"first")
    (tmp_path / "summary.json.new").mkdir()
    with pytest.raises(IsADirectoryError):
        whole_file.write(path, b"second")
    assert path.read_bytes() == b"first"


def test_json_is_written_for_people(tmp_path: Path) -> None:
    path = whole_file.write_json(tmp_path / "summary.json", {"idle": 0.5})
    assert path.read_bytes() == b'{\n  "idle": 0.5\n}\n'
