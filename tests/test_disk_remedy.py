"""What a person is told where the disk refuses: the cause's own remedy."""

import errno
import sqlite3
from pathlib import Path

import pytest

from edge_agent.store import Store
from skerry.disk_remedy import disk_remedy
from skerry.errors import StorageError


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, ": free space"),
        (errno.EACCES, ": let the user that this runs as write there, files included"),
        (errno.EROFS, ": mount it writable; a worn card turns read-only and must be replaced"),
        (errno.ENOTDIR, ": a file stands where a folder must: move it away, or name another folder"),
        (errno.EEXIST, ": a file stands where a folder must: move it away, or name another folder"),
        (errno.EIO, ": the disk fails: replace it"),
        (errno.EBUSY, ""),
    ],
)
def test_of_the_system_s_errors(number: int, remedy: str) -> None:
    assert disk_remedy(OSError(number, "reason")) == remedy


def test_of_sqlite_s_errors_the_low_byte_is_the_kind() -> None:
    error = sqlite3.OperationalError("disk I/O error")
    assert disk_remedy(error) == ""
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    assert disk_remedy(error) == ": the disk fails: replace it"
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    assert disk_remedy(error) == ": free space"


def test_a_damaged_and_an_unreachable_database(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(StorageError, match=r"it is damaged or no database: move it away to start afresh$"):
        Store(tmp_path / "state.db")
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(StorageError, match="let the user that this runs as write there"):
        Store(tmp_path / "folder.db")
