"""What the agent must not lose, on disk: one SQLite database, see schema/. Synchronous; runs in a worker thread.

A method that returns has its change on disk (WAL, synchronous=FULL); one that raises has changed nothing.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.outbox import Update
from skerry.errors import SchemaTooNewError, StorageError
from skerry.protocol import frames
from skerry.protocol.errors import MalformedMessage
from skerry.protocol.limits import FRAME_BYTES_MAX
from skerry.protocol.messages import ModelVersion, Welcome
from skerry.vector import Float32

HERE = Path(__file__).parent
FILE_NAME = "state.db"
WAL_BYTES_KEPT = 8 << 20  # a larger write-ahead log is cut back after a checkpoint
CACHE_KIB = 256  # of pages: everything is written once and read at start


@dataclass(frozen=True, slots=True, eq=False)
class StoredModel:
    """The regional model that was written down last."""

    version: ModelVersion
    parameters: Float32


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """All that is on disk."""

    last_sequence: int
    uploads: int
    events: int
    welcome: Welcome | None
    residual: Float32 | None
    residual_event: int
    updates: list[Update]  # by sequence; some of them may be settled, see Outbox.replay
    model: StoredModel | None


class Store:
    """The agent's database, open."""

    def __init__(self, path: Path) -> None:
        """Open or create `path`; migrate an older schema, in one transaction.

        Raises:
            SchemaTooNewError: a newer version of Skerry wrote it.
            StorageError: it cannot be opened, read or written.
        """
        self._path = path
        self._queries = _queries()
        with self._errors():
            # One thread at a time uses it, but not always the same one.
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            with self._errors():
                self._migrate()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the database; what was written stays."""
        with self._errors():
            self._db.close()

    def load(self) -> Stored:
        """Return all that is on disk.

        Raises:
            StorageError: unreadable, or not what this agent wrote.
        """
        with self._errors():
            last_sequence, uploads, events, task = self._one("agent")
            residual = self._one("residual")
            model = self._one("model")
            rows = self._db.execute(self._queries["outbox"]).fetchall()
        try:
            return Stored(
                last_sequence,
                uploads,
                events,
                None if task is None else frames.decode(task, Welcome, bytes_max=FRAME_BYTES_MAX),
                None if residual is None else _vector(residual[1]),
                0 if residual is None else residual[0],
                [_update(row) for row in rows],
                None if model is None else StoredModel(ModelVersion(model[0], model[1]), _vector(model[2])),
            )
        except (MalformedMessage, ValueError) as error:
            raise StorageError(f"{self._path}: damaged: {error}; move it away to start afresh") from error

    def put_update(self, update: Update, residual: Float32 | None) -> None:
        """Write an update and its sequence number, and the residual as it is after it; None: leave the old one.

        With a new residual, settled updates that it contains go away.
        """
        with self._transaction():
            self._run("take_sequence", sequence=update.sequence, event=update.event)
            self._run(
                "put_update",
                sequence=update.sequence,
                lineage=update.base.lineage,
                number=update.base.number,
                steps=update.steps,
                examples=update.examples,
                loss=update.loss,
                seconds_per_step=update.seconds_per_step,
                payload=update.payload,
                event=update.event,
            )
            if residual is not None:
                self._run("put_residual", event=update.event, data=np.ascontiguousarray(residual, "<f4"))
                self._run("drop_settled", event=update.event)

    def settle(self, update: Update, *, accepted: bool) -> None:
        """Write down the answer to an update.

        The residual is not written again: the row stays, answer and all, until the next one contains it.
        """
        with self._transaction():
            self._run("count_settlement", event=update.settled_event, accepted=int(accepted))
            self._run(
                "settle_update", sequence=update.sequence, event=update.settled_event, weight=update.settled_weight
            )

    def continue_after(self, sequence: int) -> None:
        """Write down that numbers up to `sequence` are taken."""
        with self._transaction():
            self._run("continue_after", sequence=sequence)

    def save_task(self, welcome: Welcome) -> None:
        """Write down recipe and plan."""
        with self._transaction():
            self._run("put_task", task=frames.encode(welcome))

    def adopt_task(self, welcome: Welcome) -> None:
        """Forget residual, outbox and model, and write down another task; sequence numbers go on."""
        with self._transaction():
            for query in ("forget_outbox", "forget_residual", "forget_model", "forget_uploads"):
                self._run(query)
            self._run("put_task", task=frames.encode(welcome))

    def save_model(self, model: StoredModel) -> None:
        """Write the regional model down in place of the one before."""
        data = np.ascontiguousarray(model.parameters, "<f4")
        with self._transaction():
            self._run("put_model", lineage=model.version.lineage, number=model.version.number, data=data)

    def _migrate(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        scripts = _schema()
        if version > len(scripts):
            raise SchemaTooNewError(
                f"{self._path}: written by a newer skerry-agent (schema {version}, this one knows {len(scripts)}): "
                "install that version, or move the file away to start afresh"
            )
        if version < len(scripts):
            with self._transaction():
                for script in scripts[version:]:
                    for statement in _statements(script):
                        self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {len(scripts)}")

    def _one(self, query: str) -> Any:
        return self._db.execute(self._queries[query]).fetchone()

    def _run(self, query: str, **values: Any) -> None:
        self._db.execute(self._queries[query], values)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StorageError(f"{self._path}: {error}") from error


def _queries() -> dict[str, str]:
    """Return the statements of queries.sql by name."""
    text = (HERE / "queries.sql").read_text(encoding="utf-8")
    sections = text.split("-- name: ")[1:]
    return {name.strip(): statement for name, _, statement in (section.partition("\n") for section in sections)}


def _schema() -> list[str]:
    """Return the migrations in order; number n leads to schema n."""
    ordered = sorted((HERE / "schema").glob("*.sql"))
    assert [int(file.name[:3]) for file in ordered] == list(range(1, len(ordered) + 1))
    return [file.read_text(encoding="utf-8") for file in ordered]


def _statements(script: str) -> Iterator[str]:
    """Split a script, as `executescript` would commit the transaction that it is part of."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _vector(data: bytes) -> Float32:
    return np.frombuffer(data, "<f4").astype(np.float32)


def _update(row: tuple[Any, ...]) -> Update:
    sequence, lineage, number, *rest = row
    return Update(sequence, ModelVersion(lineage, number), *rest)
