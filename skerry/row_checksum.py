"""A checksum in every row that counts: SQLite has none of its own, and a flipped bit in a value is a value.

A table that wants them has a last column `crc`, generated from the others: see `FUNCTION`. SQLite computes it at each
insert and update, and stores it; `damaged_tables` computes it again.
"""

import re
import sqlite3
from zlib import crc32

import msgspec

FUNCTION = "row_crc"  # crc INTEGER NOT NULL GENERATED ALWAYS AS (row_crc(<every other column>)) STORED
_ARGUMENTS = re.compile(rf"\b{FUNCTION}\(([^()]*)\)")
_encode = msgspec.msgpack.Encoder().encode

Value = None | int | float | str | bytes


def install(connection: sqlite3.Connection) -> None:
    """Let statements on `connection` compute checksums of rows."""
    connection.create_function(FUNCTION, -1, row_crc, deterministic=True)


def row_crc(*values: Value) -> int:
    """Return the CRC-32 of a row: of its values' lengths, numbers and texts, then of its blobs."""
    crc = crc32(_encode([len(value) if type(value) is bytes else value for value in values]))
    for value in values:
        if type(value) is bytes:
            crc = crc32(value, crc)
    return crc


def damaged_tables(connection: sqlite3.Connection) -> list[str]:
    """Go through all rows that have a checksum; return the tables that hold one which differs."""
    differs = _differs(connection)
    query = "SELECT EXISTS (SELECT 1 FROM {} WHERE {})"  # of a schema's own names
    return [table for table in differs if connection.execute(query.format(table, differs[table])).fetchone()[0]]


def delete_damaged(connection: sqlite3.Connection, table: str) -> None:
    """Delete the rows of `table` whose checksum differs."""
    connection.execute(f"DELETE FROM {table} WHERE {_differs(connection)[table]}")  # noqa: S608


def _differs(connection: sqlite3.Connection) -> dict[str, str]:
    """Return, by table, the condition that a row is not as it was written, as the table's definition has it."""
    # One bit makes a text a blob of the same bytes, which SQLite itself takes for the text where it reads its schema.
    tables = connection.execute(
        "SELECT CAST(name AS TEXT), CAST(sql AS TEXT) FROM sqlite_schema WHERE CAST(type AS TEXT) = 'table' ORDER BY 1"
    )
    found = ((name, _ARGUMENTS.search(definition)) for name, definition in tables)
    return {name: f"crc IS NOT {FUNCTION}({arguments[1]})" for name, arguments in found if arguments is not None}
