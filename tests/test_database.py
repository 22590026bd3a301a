"""What holds of either service's database, whatever is in it."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from skerry import row_checksum
from skerry.database import MIGRATION_FACTOR, PAGE_BYTES, Database
from skerry.errors import SchemaTooNewError, StateDamagedError, StorageError
from skerry.write_ahead_log import lost_transactions

PACKAGES = ["coordinator", "coordinator.enrolment", "edge_agent"]
Dump = tuple[list[tuple[str, str]], list[str]]


def dump(connection: sqlite3.Connection) -> Dump:
    schema = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").fetchall()
    return schema, sorted(connection.iterdump())


@pytest.mark.parametrize("package", PACKAGES)
def test_a_new_database_is_what_every_migration_in_turn_makes(tmp_path: Path, package: str) -> None:
    database = Database(tmp_path / "new.db", package)
    scripts = sorted(Path(*package.split("."), "schema").glob("*.sql"))
    with closing(sqlite3.connect(":memory:")) as migrated:
        row_checksum.install(migrated)
        for script in scripts:
            migrated.executescript(script.read_text())
        assert dump(database.connection) == dump(migrated)
    assert database.connection.execute("PRAGMA user_version").fetchone() == (len(scripts),)
    assert database.damaged_tables() == []
    database.close()


@pytest.mark.parametrize("package", PACKAGES)
def test_bytes_that_are_no_text_in_the_schema_are_damage(tmp_path: Path, package: str) -> None:
    """What SQLite says of them quotes them, and Python's module for it cannot read that."""
    path = tmp_path / "a.db"
    Database(path, package).close()
    data = path.read_bytes()
    causes = set()
    for at in [place for place in range(100, len(data)) if data[place]][::41]:
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x80]) + data[at + 1 :])
        try:
            Database(path, package).close()
        except SchemaTooNewError:
            continue
        except StateDamagedError as error:
            causes.add(type(error.__cause__))
    assert UnicodeDecodeError in causes


def test_bytes_that_are_no_text_are_damage_in_a_transaction_too(tmp_path: Path) -> None:
    def write(database: Database) -> None:
        with database.transaction():
            database.connection.execute("CREATE TABLE here (number)")
            database.connection.execute("SELECT json_extract('{}', CAST(x'24AC' AS TEXT))")

    with closing(Database(tmp_path / "a.db", "edge_agent")) as database:
        with pytest.raises(StateDamagedError, match=r"a\.db: damaged: .*move a\.db\* away"):
            write(database)
        assert not database.connection.in_transaction
        assert ("here",) not in database.connection.execute("SELECT name FROM sqlite_schema").fetchall()


def test_rows_are_looked_through_whose_table_is_described_by_a_blob(tmp_path: Path) -> None:
    """One bit tells a text from a blob of the same bytes, and SQLite reads its schema from either."""
    path = tmp_path / "a.db"
    Database(path, "edge_agent").close()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.create_function(row_checksum.FUNCTION, -1, lambda *_: 7, deterministic=True)
        assert db.execute("UPDATE agent SET last_sequence = 7").rowcount == 1
        db.execute("PRAGMA writable_schema = ON")
        for column in ("type", "name", "sql"):
            db.execute(f"UPDATE sqlite_schema SET {column} = CAST({column} AS BLOB) WHERE tbl_name = 'agent'")
    with closing(Database(path, "edge_agent")) as database:
        assert database.damaged_tables() == ["agent"]


WAL_HEADER_BYTES, WAL_FRAME_BYTES = 32, 24 + PAGE_BYTES


def log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def cut_off(path: Path, to: Path, before: bytes) -> None:
    """Copy what a power cut leaves while the log, which was `before`, was being written: a page is not there."""
    data = bytearray(log_of(path).read_bytes())
    frames = range(WAL_HEADER_BYTES, len(data), WAL_FRAME_BYTES)
    first = next(at for at in frames if data[at : at + WAL_FRAME_BYTES] != before[at : at + WAL_FRAME_BYTES])
    begin = first + 10 * WAL_FRAME_BYTES
    data[begin + 24 : begin + WAL_FRAME_BYTES] = bytes(PAGE_BYTES)
    shutil.copy(path, to)
    log_of(to).write_bytes(data)


def test_two_power_cuts_leave_a_database_that_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "0.db"
    sizes = 400_000, 100_000  # of rows that are written while the power goes; the second does not reach as far
    for cut, size in enumerate(sizes):
        database = Database(path, "coordinator")
        before = log_of(path).read_bytes()
        database.connection.execute("INSERT INTO rule_state (rule, state) VALUES (?, ?)", (f"{cut}", "x" * size))
        path = tmp_path / f"{cut + 1}.db"
        cut_off(tmp_path / f"{cut}.db", path, before)
        database.close()
    assert not lost_transactions(log_of(path))
    database = Database(path, "coordinator")
    assert database.connection.execute("SELECT count(*) FROM rule_state").fetchone() == (0,)
    database.close()


def test_a_recovered_log_is_emptied_and_nothing_of_it_is_lost(tmp_path: Path) -> None:
    path, killed = tmp_path / "live.db", tmp_path / "killed.db"
    database = Database(path, "coordinator")
    database.connection.execute("INSERT INTO rule_state (rule, state) VALUES ('arrival', '{}')")
    for kind in ("", "-wal"):
        shutil.copy(f"{path}{kind}", f"{killed}{kind}")
    database.close()
    assert log_of(killed).stat().st_size > 0
    database = Database(killed, "coordinator")
    assert log_of(killed).stat().st_size == 0
    assert database.connection.execute("SELECT rule FROM rule_state").fetchall() == [("arrival",)]
    database.close()


RELEASED = 5  # the schema of the version before, of either service
ROW = """
INSERT INTO journal (
    position, version, kind, sender, sequence, base_number, weight, age, steps, examples, loss, seconds_per_step,
    staleness, frame_bytes, received_at_s, payload
) VALUES (?1, ?1, 'update', 'kite', ?1, 0, 0.5, ?1, 1, 1, 0.5, 0.1, 0, 1, 1.0, randomblob(?2))
"""


@pytest.fixture(params=[(5000, 40), (60, 100_000)], ids=["many small rows", "few large rows"])
def released(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A coordinator's database as the version before leaves it."""
    path, (rows, payload_bytes) = tmp_path / "released.db", request.param
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for script in sorted(Path("coordinator", "schema").glob("*.sql"))[:RELEASED]:
            db.executescript(script.read_text())
        db.execute(f"PRAGMA user_version = {RELEASED}")
        db.execute("BEGIN")
        db.executemany(ROW, [(number, payload_bytes) for number in range(1, rows + 1)])
        db.execute("COMMIT")
    return path


def test_a_journal_is_migrated_within_the_space_that_is_asked_for(released: Path) -> None:
    before = released.stat().st_size
    with closing(sqlite3.connect(released)) as db:
        journal = db.execute("SELECT position, sequence, payload FROM journal").fetchall()
    database = Database(released, "coordinator", wal_bytes=1 << 30)
    assert database.damaged_tables() == []
    assert database.connection.execute("SELECT position, sequence, payload FROM journal").fetchall() == journal
    database.connection.execute("PRAGMA wal_checkpoint(PASSIVE)")  # now both are as long as they get
    added = released.stat().st_size + log_of(released).stat().st_size - before
    assert before < added < MIGRATION_FACTOR * before
    database.close()


def test_a_disk_without_room_for_a_migration_is_said_before_it_begins(
    released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = int(MIGRATION_FACTOR * released.stat().st_size)
    free = needed - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free if path == released.parent else 0))
    said = rf"needs {-(-needed >> 20)} MiB of free space; there are {free >> 20}: make room"
    with pytest.raises(StorageError, match=said) as refused:
        Database(released, "coordinator")
    assert refused.value.exit_code == 3
    with closing(sqlite3.connect(released)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (RELEASED,)
    free += 1
    Database(released, "coordinator").close()
