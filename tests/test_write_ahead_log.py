"""What a damaged write-ahead log has lost, judged by what SQLite itself still finds in it."""

import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from skerry.write_ahead_log import lost_transactions

ROWS = 40
HEADER_BYTES = 32


@pytest.fixture(params=[512, 4096, 65536])
def crashed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A database whose log holds one transaction for each of its rows, as a kill leaves it."""
    path, copy = tmp_path / "live.db", tmp_path / "crashed.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"PRAGMA page_size = {request.param}")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute("CREATE TABLE row (number INTEGER PRIMARY KEY, data BLOB)")
        db.execute("PRAGMA wal_checkpoint(RESTART)")  # so that the log begins anew, over old frames
        for number in range(ROWS):
            db.execute("INSERT INTO row VALUES (?, ?)", (number, random.Random(number).randbytes(3000)))
        for kind in ("", "-wal"):
            shutil.copy(f"{path}{kind}", f"{copy}{kind}")
        yield copy


def log_of(database: Path) -> Path:
    return database.with_name(f"{database.name}-wal")


def rows_left(database: Path) -> int:
    """How many transactions SQLite finds; the log is gone behind it."""
    with closing(sqlite3.connect(database)) as db:
        return int(db.execute("SELECT count(*) FROM row").fetchone()[0])


def test_a_whole_log_has_lost_nothing(crashed: Path) -> None:
    assert not lost_transactions(log_of(crashed))
    assert rows_left(crashed) == ROWS
    assert not lost_transactions(log_of(crashed))  # gone


@pytest.mark.parametrize("seed", range(30))
def test_any_flipped_bit_in_front_of_later_transactions_is_noticed(crashed: Path, seed: int) -> None:
    rng, log = random.Random(seed), log_of(crashed)
    data = bytearray(log.read_bytes())
    at = rng.randrange(HEADER_BYTES) if seed % 5 == 0 else rng.randrange(len(data))
    data[at] ^= 1 << rng.randrange(8)
    log.write_bytes(data)
    noticed = lost_transactions(log)
    lost = ROWS - rows_left(crashed)
    assert noticed or lost <= 2  # as a torn last one, and the commit mark in front of it
    assert lost or not noticed


@pytest.mark.parametrize("behind_header", [0, 1, 24, 400])
def test_a_log_that_is_torn_in_its_first_frame_has_lost_nothing(crashed: Path, behind_header: int) -> None:
    log = log_of(crashed)
    log.write_bytes(log.read_bytes()[: HEADER_BYTES + behind_header])
    assert not lost_transactions(log)


@pytest.mark.parametrize("seed", range(30))
def test_a_log_that_is_torn_in_its_last_transaction_has_lost_nothing(crashed: Path, seed: int) -> None:
    rng, log = random.Random(seed), log_of(crashed)
    data = log.read_bytes()
    frame = 24 + int.from_bytes(data[8:12], "big")
    commits = [at for at in range(HEADER_BYTES, len(data), frame) if any(data[at + 4 : at + 8])]
    begin = commits[-2] + frame
    cut = rng.randrange(begin, len(data))
    rest = len(data) - cut
    tails = [b"", bytes(rest), rng.randbytes(rest), bytes(frame) + data[cut + frame :]]
    log.write_bytes(data[:cut] + rng.choice(tails))
    assert not lost_transactions(log)
    assert rows_left(crashed) in {ROWS - 1, ROWS}


def test_a_log_that_was_never_written_has_lost_nothing(tmp_path: Path) -> None:
    log = tmp_path / "state.db-wal"
    for content in (b"", bytes(20), bytes(32), bytes(100_000)):  # a file grows before what is in it is there
        log.write_bytes(content)
        assert not lost_transactions(log)


def test_a_log_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "state.db-wal").mkdir()
    with pytest.raises(OSError, match="directory"):
        lost_transactions(tmp_path / "state.db-wal")


def test_a_log_longer_than_what_is_read_at_once(tmp_path: Path) -> None:
    path, damaged = tmp_path / "state.db", tmp_path / "damaged"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA page_size = 512")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute("CREATE TABLE row (number INTEGER PRIMARY KEY, data BLOB)")
        for number in range(2):
            db.execute("INSERT INTO row VALUES (?, ?)", (number, random.Random(number).randbytes(500_000)))
        data = log_of(path).read_bytes()
    assert len(data) > 6 * 256 * (24 + 512)
    for at, lost in ((100_000, True), (900_000, False)):  # the first transaction was synced; the last may be torn
        damaged.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert lost_transactions(damaged) is lost
