"""A run record survives its file."""

from collections.abc import Callable
from pathlib import Path

import pytest

from skerry.errors import ConfigError
from testbed import run_record
from testbed.run_record import RunRecord


def test_a_record_reads_back_as_it_was(record: Callable[..., RunRecord], tmp_path: Path) -> None:
    path = run_record.write(record(), tmp_path)
    assert path == tmp_path / "record.json"
    assert run_record.read(tmp_path) == record()


def test_a_folder_without_a_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path)):
        run_record.read(tmp_path)


def test_a_broken_record_is_an_error_that_names_the_place(record: Callable[..., RunRecord], tmp_path: Path) -> None:
    path = run_record.write(record(), tmp_path)
    path.write_text(path.read_text().replace('"elapsed_s": 60.0', '"elapsed_s": "soon"'))
    with pytest.raises(ConfigError, match="elapsed_s"):
        run_record.read(tmp_path)


def test_a_record_of_another_format_is_refused(record: Callable[..., RunRecord], tmp_path: Path) -> None:
    run_record.write(record(format_version=99), tmp_path)
    with pytest.raises(ConfigError, match="format 99"):
        run_record.read(tmp_path)
