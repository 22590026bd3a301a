"""Bits that rot in the database of enrolment: all is as it was, or the start stops; nobody is let in by them."""

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from coordinator.enrolment.records import PartyRow, Revocation, TokenRow
from coordinator.enrolment.store import FILE_NAME, EnrolmentStore
from skerry.errors import SchemaTooNewError, StateDamagedError

TABLES = ("join_token", "party", "revocation")
FLIPS_PER_PAGE = 12


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder with a database that has something in every table."""
    folder = tmp_path / "written"
    folder.mkdir()
    with closing(EnrolmentStore(folder)) as store, store.transaction():
        for number in range(20):
            name, key = f"pi-{number}", f"{number:064x}"
            store.put_token(TokenRow(f"{number:016x}", bytes(32), "agent", "eu", None, 3, 2, 1.0, 2.0, number % 2))
            store.put_party(PartyRow("agent", name, key, "eu", name, f"{number:016x}", 1.0, 2.0, "1f"), b"answer")
            store.put_revocation(Revocation("agent", name, key), 5.0)
    return folder


def started(folder: Path) -> tuple[Any, ...] | None:
    """Read all as a coordinator does when it starts; None: it stops, and says that it is damaged."""
    try:
        with closing(EnrolmentStore(folder)) as store:
            store.check()
            parties = store.parties()
            return store.tokens(), parties, store.revocations(), [store.answer(party) for party in parties]
    except StateDamagedError:
        return None


def test_a_flipped_bit_on_any_page_changes_nothing_or_stops_the_start(written: Path, tmp_path: Path) -> None:
    expected, copy = started(written), tmp_path / "copy"
    assert expected is not None
    data, rng, stopped, same = (written / FILE_NAME).read_bytes(), random.Random(1), 0, 0
    for page in range(len(data) // 4096):
        for _ in range(FLIPS_PER_PAGE):
            bit = rng.randrange(8 * 4096 * page, 8 * 4096 * (page + 1))
            shutil.rmtree(copy, ignore_errors=True)
            copy.mkdir()
            flipped = bytes([data[bit // 8] ^ 1 << bit % 8])
            (copy / FILE_NAME).write_bytes(data[: bit // 8] + flipped + data[bit // 8 + 1 :])
            try:
                found = started(copy)
            except SchemaTooNewError:
                assert page == 0
                continue
            assert found in (None, expected), bit
            stopped += found is None
            same += found is not None
    assert stopped > 0
    assert same > 0


@pytest.mark.parametrize(
    ("table", "change"),
    [("join_token", "used = 0"), ("party", "region = 'us'"), ("revocation", "key = replace(key, '0', '1')")],
)
def test_a_value_that_changed_behind_our_back_is_noticed(written: Path, table: str, change: str) -> None:
    """The page is well-formed, so that SQLite has nothing to find."""
    assert change_behind_our_back(written, f"UPDATE {table} SET {change}") == 20
    with (
        closing(EnrolmentStore(written)) as store,
        pytest.raises(StateDamagedError, match=rf"a checksum differs in {table}: put a copy of enrolment\.db"),
    ):
        store.check()


async def test_a_coordinator_does_not_start_on_it(bench: Any, open_bench: Any) -> None:
    assert change_behind_our_back(bench.state_dir, "UPDATE party SET name = 'eu-2' WHERE role = 'coordinator'") == 1
    with pytest.raises(StateDamagedError, match="a checksum differs in party"):
        await open_bench()


def change_behind_our_back(folder: Path, statement: str) -> int:
    with closing(sqlite3.connect(folder / FILE_NAME, isolation_level=None)) as db:
        db.create_function("row_crc", -1, lambda *_: 7, deterministic=True)
        return db.execute(statement).rowcount


def test_every_value_of_every_table_is_covered(tmp_path: Path) -> None:
    EnrolmentStore(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:
        tables = db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall()
        assert tuple(name for name, _ in tables) == TABLES
        for table, definition in tables:
            columns = [name for (name,) in db.execute(f"SELECT name FROM pragma_table_xinfo('{table}')")]
            covered = definition.partition("row_crc(")[2].partition(")")[0]
            assert [name.strip() for name in covered.split(",")] == columns[:-1], table


def test_rows_of_before_the_checksums_are_kept(tmp_path: Path) -> None:
    script = Path(__file__).parents[3] / "coordinator" / "enrolment" / "schema" / "001_enrolment.sql"
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:
        db.executescript(script.read_text())
        db.execute("INSERT INTO join_token VALUES ('00', x'01', 'agent', 'eu', NULL, 3, 2, 1.0, 2.0, 1)")
        db.execute("INSERT INTO party VALUES ('agent', 'pi', 'aa', 'eu', 'Kitchen', '00', 1.0, 2.0, '1f', x'07')")
        db.execute("INSERT INTO revocation VALUES ('agent', 'pi', 'bb', 5.0)")
        db.execute("PRAGMA user_version = 1")
        db.commit()
    assert started(tmp_path) == (
        [TokenRow("00", b"\x01", "agent", "eu", None, 3, 2, 1.0, 2.0, 1)],
        [PartyRow("agent", "pi", "aa", "eu", "Kitchen", "00", 1.0, 2.0, "1f")],
        [Revocation("agent", "pi", "bb")],
        [b"\x07"],
    )
