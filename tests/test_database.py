"""What holds of either service's database, whatever is in it."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from skerry import row_checksum
from skerry.database import Database
from skerry.errors import SchemaTooNewError, StateDamagedError

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
