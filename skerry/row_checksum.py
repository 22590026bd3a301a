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
    tables = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall()
    found = []
    for name, definition in tables:
        if (arguments := _ARGUMENTS.search(definition)) is not None:
            query = f"SELECT EXISTS (SELECT 1 FROM {name} WHERE crc IS NOT {FUNCTION}({arguments[1]}))"  # noqa: S608
            if connection.execute(query).fetchone()[0]:
                found.append(name)
    return found
