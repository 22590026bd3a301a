"""A service's SQLite database: opened durable, migrated in one transaction, its errors turned into ours.

A package brings numbered scripts in `schema/` and named statements in `queries.sql`. Synchronous; one thread at a
time may use a database, but not always the same one.

Before a service uses what it finds, the write-ahead log, all pages and the indexes are looked through; rows have
checksums of their own, see `row_checksum`.
"""

import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import cache
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Protocol

from skerry import row_checksum
from skerry.disk_remedy import disk_remedy
from skerry.errors import SchemaTooNewError, StateDamagedError, StorageError
from skerry.write_ahead_log import lost_transactions

PAGE_BYTES = 4096
WAL_BYTES = 8 << 20
# How many times its pages a migration adds, at most: each table's copy lies in the log, and then in the file, too.
MIGRATION_FACTOR = 2.25
# What a statement that is right is refused with where the file is not what it was.
DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA}
# The second: an error's text, or a column's name, that holds what a damaged file has in place of text.
REPORTED = (sqlite3.Error, UnicodeDecodeError)


class NotMadeError(StorageError):
    """There is nothing to read yet: the service has not made its database."""


Repair = Callable[["Database"], object]


class OpenDatabase(Protocol):
    """Opens a service's database, see `Database`; a simulation brings a disk of its own."""

    def __call__(
        self,
        path: Path,
        package: str,
        *,
        wal_bytes: int = WAL_BYTES,
        read_only: bool = False,
        leave_no_trace: bool = False,
        repair: Repair | None = None,
    ) -> "Database":
        """Open or create `path`."""


class Database:
    """An open database of one package. A transaction that has ended is on disk (WAL, synchronous=FULL)."""

    def __init__(
        self,
        path: Path,
        package: str,
        *,
        wal_bytes: int = WAL_BYTES,
        read_only: bool = False,
        leave_no_trace: bool = False,
        repair: Repair | None = None,
        durable: bool = True,
    ) -> None:
        """Open or create `path`; migrate an older schema of `package`.

        Args:
            path: of the database; its directory exists.
            package: where `schema/` and `queries.sql` are.
            wal_bytes: about how long the write-ahead log gets before it is copied into the database.
            read_only: nothing is migrated or changed; all that is read is as it was when this returns.
            leave_no_trace: with `read_only`, make no files beside a database that nobody has open, which would belong
                to whoever looks and keep the service out. For a short look: a service that starts meanwhile is not
                kept from writing.
            repair: deletes damaged rows of a database that is to be migrated, where the service goes on right without
                them; any that it leaves stop the service.
            durable: what is committed is on disk. False leaves it to the system when that happens: for a simulation,
                whose own disk decides what a power cut leaves.

        Raises:
            NotMadeError: it is not there to be read.
            SchemaTooNewError: a newer Skerry wrote it.
            StateDamagedError: it is not what was written there.
            StorageError: it cannot be opened, read or written.
        """
        self._path = path
        self._errors, self._transaction = _Errors(path), _Transaction(self)
        self._wal_bytes = wal_bytes
        self._durable, self._repair = durable, repair
        self.queries = _queries(package)
        if read_only and not path.exists():
            raise NotMadeError(f"{path}: is missing: no service has run here")
        if not read_only:
            self._check_log()  # before SQLite cuts it off at the damage
        with self.errors():
            self.connection = self._connect(read_only=read_only, leave_no_trace=leave_no_trace)
            row_checksum.install(self.connection)
        try:
            with self.errors():
                self._open(_schema(package), read_only=read_only)
        except BaseException:
            self.connection.close()
            raise

    def close(self) -> None:
        """Close it; what was committed stays."""
        with self.errors():
            self.connection.close()

    def damaged_tables(self) -> list[str]:
        """Go through all rows; return the tables that hold one which is not as it was written."""
        with self.errors():
            return row_checksum.damaged_tables(self.connection)

    def delete_damaged(self, table: str) -> None:
        """Delete the rows of `table` that are not as they were written."""
        row_checksum.delete_damaged(self.connection, table)

    def begin(self) -> None:
        """Start a transaction that writes."""
        with self.errors():
            self.connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """End the transaction; on disk when it returns."""
        with self.errors():
            self.connection.execute("COMMIT")

    def rollback(self) -> None:
        """Undo the transaction, if there is one."""
        if self.connection.in_transaction:
            with self.errors():
                self.connection.execute("ROLLBACK")

    def transaction(self) -> "_Transaction":
        """All that happens inside is on disk behind it, or none of it where this raises."""
        return self._transaction

    def errors(self) -> "_Errors":
        """Name the file in whatever SQLite reports.

        Raises:
            StateDamagedError: SQLite found damage.
            StorageError: it reported something else.
        """
        return self._errors

    def _check_log(self) -> None:
        path = self._path.with_name(f"{self._path.name}-wal")
        try:
            lost = lost_transactions(path)
        except OSError as error:
            raise StorageError(f"{path}: cannot be read: {error.strerror}{disk_remedy(error)}") from error
        if lost:
            raise StateDamagedError(
                f"{path}: damaged in front of what was written later: move {self._path.name}* away to start afresh"
            )

    def _connect(self, *, read_only: bool, leave_no_trace: bool) -> sqlite3.Connection:
        uri = f"{self._path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
        if leave_no_trace and not self._path.with_name(f"{self._path.name}-wal").exists():
            uri += "&immutable=1"
        return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)

    def _open(self, scripts: list[str], *, read_only: bool) -> None:
        db = self.connection
        if not read_only:
            db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'OFF'}")
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("PRAGMA secure_delete = OFF")  # a journal that is cut need not be overwritten first
            db.execute(f"PRAGMA wal_autocheckpoint = {self._wal_bytes // PAGE_BYTES}")
            db.execute(f"PRAGMA journal_size_limit = {2 * self._wal_bytes}")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > len(scripts):
            raise SchemaTooNewError(
                f"{self._path}: written by a newer Skerry (schema {version}, this one knows {len(scripts)}): "
                "install that version, or move the file away to start afresh"
            )
        if read_only:
            if version == 0:
                raise NotMadeError(f"{self._path}: is being made: try again")
            if version < len(scripts):
                raise StorageError(f"{self._path}: has schema {version}, not {len(scripts)}: start the service once")
            db.execute("BEGIN")
            db.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # the first read takes the snapshot
            return
        (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            found = " ".join(verdict.split())  # several lines
            raise StateDamagedError(f"{self._path}: damaged: {found}: move {self._path.name}* away to start afresh")
        # Else what a power cut left of a transaction might stay behind the next ones, and look as if it had been whole.
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if version < len(scripts):
            if version:
                self._refuse_damaged_rows()
                self._refuse_small_disk()
            self._migrate(scripts, version)

    def _refuse_damaged_rows(self) -> None:
        """A row that a migration copies gets a new checksum, over whatever is in it."""
        if self._repair is not None:
            self._repair(self)
        if tables := self.damaged_tables():
            raise StateDamagedError(
                f"{self._path}: a checksum differs in {', '.join(tables)}: move {self._path.name}* away to start afresh"
            )

    def _refuse_small_disk(self) -> None:
        (pages,) = self.connection.execute("PRAGMA page_count").fetchone()
        (unused,) = self.connection.execute("PRAGMA freelist_count").fetchone()
        needed = int(MIGRATION_FACTOR * (pages - unused) * PAGE_BYTES)
        free = shutil.disk_usage(self._path.parent).free
        if free < needed:
            raise StorageError(
                f"{self._path}: was written by an older Skerry; to bring it up to date needs {-(-needed >> 20)} MiB of "
                f"free space; there are {free >> 20}: make room and start again; nothing was changed"
            )

    def _migrate(self, scripts: list[str], version: int) -> None:
        with self.transaction():
            for statement in _all_at_once(tuple(scripts)) if version == 0 else _each(scripts[version:]):
                self.connection.execute(statement)
            self.connection.execute(f"PRAGMA user_version = {len(scripts)}")


class _Errors:
    """See `Database.errors`; holds nothing, so that one serves always."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Nothing."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.Error):
            kind = StateDamagedError if _is_damage(error) else StorageError
            raise kind(f"{self._path}: {error}{disk_remedy(error)}") from error
        if isinstance(error, UnicodeDecodeError):
            raise StateDamagedError(
                f"{self._path}: damaged: what SQLite says of it quotes bytes that are no text: move {self._path.name}* "
                "away to start afresh"
            ) from error


def _is_damage(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # not from SQLite but from Python's module: a text that is none
        return isinstance(error, sqlite3.OperationalError)
    return code & 0xFF in DAMAGE  # the low byte is the kind


class _Transaction:
    """See `Database.transaction`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> None:
        self._database.begin()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        database = self._database
        if error is None:
            try:
                database.commit()
            except BaseException:
                database.rollback()
                raise
        else:
            database.rollback()
            if isinstance(error, REPORTED):
                with database.errors():
                    raise error


@cache
def _queries(package: str) -> dict[str, str]:
    """Return the statements of queries.sql by name."""
    text = resources.files(package).joinpath("queries.sql").read_text(encoding="utf-8")
    sections = text.split("-- name: ")[1:]
    return {name.strip(): statement for name, _, statement in (section.partition("\n") for section in sections)}


@cache
def _schema(package: str) -> list[str]:
    """Return the migrations in order; number n leads to schema n."""
    files = [file for file in resources.files(package).joinpath("schema").iterdir() if file.name.endswith(".sql")]
    ordered = sorted(files, key=lambda file: file.name)
    assert [int(file.name[:3]) for file in ordered] == list(range(1, len(ordered) + 1))
    return [file.read_text(encoding="utf-8") for file in ordered]


@cache
def _all_at_once(scripts: tuple[str, ...]) -> tuple[str, ...]:
    """Return what makes an empty database as all `scripts` leave it: they make some tables over and over."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        row_checksum.install(db)
        for statement in _each(scripts):
            db.execute(statement)
        return tuple(statement for statement in db.iterdump() if statement not in {"BEGIN TRANSACTION;", "COMMIT;"})


def _each(scripts: Iterable[str]) -> Iterator[str]:
    """Yield the statements of all scripts, in order."""
    return chain.from_iterable(map(_statements, scripts))


def _statements(script: str) -> Iterator[str]:
    """Split a script: `executescript` would commit the transaction that it is part of."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
