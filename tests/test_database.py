"""What holds of either service's database, whatever is in it."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from skerry import row_checksum
from skerry.database import Database

Dump = tuple[list[tuple[str, str]], list[str]]


def dump(connection: sqlite3.Connection) -> Dump:
    schema = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").fetchall()
    return schema, sorted(connection.iterdump())


@pytest.mark.parametrize("package", ["coordinator", "edge_agent"])
def test_a_new_database_is_what_every_migration_in_turn_makes(tmp_path: Path, package: str) -> None:
    database = Database(tmp_path / "new.db", package)
    scripts = sorted(Path(package, "schema").glob("*.sql"))
    with closing(sqlite3.connect(":memory:")) as migrated:
        row_checksum.install(migrated)
        for script in scripts:
            migrated.executescript(script.read_text())
        assert dump(database.connection) == dump(migrated)
    assert database.connection.execute("PRAGMA user_version").fetchone() == (len(scripts),)
    assert database.damaged_tables() == []
    database.close()
