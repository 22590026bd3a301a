"""What the agent must not lose, on disk: one SQLite database, see schema/. Synchronous; runs in a worker thread.

A method that returns has its change on disk (WAL, synchronous=FULL); one that raises has changed nothing.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.outbox import Update
from skerry.database import Database, OpenDatabase
from skerry.errors import StateDamagedError
from skerry.protocol import frames
from skerry.protocol.errors import MalformedMessage
from skerry.protocol.limits import FRAME_BYTES_MAX
from skerry.protocol.messages import ModelVersion, Welcome
from skerry.vector import Float32

FILE_NAME = "state.db"
CACHE_KIB = 64  # of pages: everything is written once and read at start
AFRESH = ": move state.db* away to start afresh; what this device had not sent is lost, nothing counts twice"
COSTS = {  # what the agent goes on without, if it is damaged
    "residual": "what was learned and not sent yet is lost",
    "outbox": "updates that were not acknowledged may be lost, and what was learned and not sent yet",
    "model": "the newest one is fetched again",
    "head": "it is tuned afresh",
}


@dataclass(frozen=True, slots=True, eq=False)
class StoredModel:
    """The regional model that was written down last."""

    version: ModelVersion
    parameters: Float32
    age: float | None = None  # None: not known


@dataclass(frozen=True, slots=True, eq=False)
class StoredHead:
    """What of the model is this device's own, as it was written down last."""

    version: ModelVersion  # of the regional model that it was tuned on
    tensors: tuple[str, ...]  # their names, in the order in which they lie in the model
    values: Float32  # of all of them, one after the other


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """All that is on disk."""

    last_sequence: int
    uploads: int
    steps: int  # local steps of this task that are in updates
    events: int
    welcome: Welcome | None
    residual: Float32 | None
    residual_event: int
    residual_learning_rate: float
    updates: list[Update]  # by sequence; some of them may be settled, see Outbox.replay
    model: StoredModel | None
    head: StoredHead | None = None
    moves: int = 0  # how often the device has changed coordinators
    spent: dict[float, int] = field(
        default_factory=dict
    )  # updates by noise multiplier; under 0 only that there are any


class Store:
    """The agent's database, open."""

    def __init__(self, path: Path, *, look_only: bool = False, open_database: OpenDatabase = Database) -> None:
        """Open or create `path`; migrate an older schema, in one transaction.

        `look_only`: nothing is made, migrated or changed, also not beside the file; whoever writes goes on.

        Raises:
            NotMadeError: `look_only`, and it is not there.
            SchemaTooNewError: a newer version of Skerry wrote it.
            StorageError: it cannot be opened, read or written.
        """
        self._path = path
        self._given_up: list[str] = []  # tables, before a migration
        self._database = open_database(
            path, __package__, read_only=look_only, leave_no_trace=look_only, repair=self._give_up
        )
        with self._database.errors():
            self._database.connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")

    def close(self) -> None:
        """Close the database; what was written stays."""
        self._database.close()

    def damage(self) -> str:
        """Go through all pages and rows and return the first that is wrong; "": none.

        Raises:
            StorageError: it cannot be read at all.
        """
        with self._database.errors():
            (verdict,) = self._database.connection.execute("PRAGMA quick_check(1)").fetchone()
        tables = self._database.damaged_tables() if verdict == "ok" else []
        return "" if verdict == "ok" and not tables else f"a checksum in {tables[0]}" if tables else str(verdict)

    def repair(self) -> list[str]:
        """Give up what is damaged where the agent goes on right without it; return what that costs, for the log.

        What the agent knows of itself is not given up: `load` refuses it.

        Raises:
            StorageError: it cannot be read or written.
        """
        self._give_up(self._database)
        return [f"{self._path}: {table} was damaged: {COSTS[table]}" for table in COSTS if table in self._given_up]

    def load(self) -> Stored:
        """Return all that is on disk.

        Raises:
            StateDamagedError: it is not what this agent wrote.
            StorageError: it cannot be read.
        """
        if tables := self._database.damaged_tables():
            raise StateDamagedError(f"{self._path}: a checksum differs in {', '.join(tables)}{AFRESH}")
        with self._database.errors():
            last_sequence, uploads, steps, events, task, moves = self._one("agent")
            residual = self._one("residual")
            model = self._one("model")
            head = self._one("head")
            spent = dict(self._database.connection.execute(self._database.queries["privacy_spent"]).fetchall())
            rows = self._database.connection.execute(self._database.queries["outbox"]).fetchall()
        try:
            return Stored(
                last_sequence,
                uploads,
                steps,
                events,
                None if task is None else frames.decode(task, Welcome, bytes_max=FRAME_BYTES_MAX),
                None if residual is None else _vector(residual[1]),
                0 if residual is None else residual[0],
                0.0 if residual is None else residual[2],
                [_update(row) for row in rows],
                None if model is None else StoredModel(ModelVersion(model[0], model[1]), _vector(model[2]), model[3]),
                None if head is None else _head(head),
                moves,
                spent,
            )
        except (MalformedMessage, ValueError) as error:
            raise StateDamagedError(f"{self._path}: damaged: {error}{AFRESH}") from error

    def put_update(self, update: Update, residual: Float32 | None, spends: float | None = None) -> None:
        """Write an update, its sequence number and its steps, and the residual after it; None: leave the old one.

        With a new residual, settled updates that it contains go away. `spends`: the noise multiplier to count it under.
        """
        with self._database.transaction():
            if spends is not None:
                self._run("spend_privacy", noise_multiplier=spends)
            self._run("take_update", sequence=update.sequence, steps=update.steps, event=update.event)
            self._run(
                "put_update",
                sequence=update.sequence,
                lineage=update.base.lineage,
                number=update.base.number,
                steps=update.steps,
                examples=update.examples,
                loss=update.loss,
                seconds_per_step=update.seconds_per_step,
                learning_rate=update.learning_rate,
                payload=update.payload,
                event=update.event,
                whole=int(update.whole),
                base_age=update.base_age,
            )
            if residual is not None:
                data = np.ascontiguousarray(residual, "<f4")
                self._run("put_residual", event=update.event, data=data, learning_rate=update.learning_rate)
                self._run("drop_settled", event=update.event)

    def settle(self, update: Update, *, accepted: bool) -> None:
        """Write down the answer to an update.

        The residual is not written again: the row stays, answer and all, until the next one contains it.
        """
        with self._database.transaction():
            self._run("count_settlement", event=update.settled_event, accepted=int(accepted))
            self._run(
                "settle_update", sequence=update.sequence, event=update.settled_event, weight=update.settled_weight
            )

    def continue_after(self, sequence: int) -> None:
        """Write down that numbers up to `sequence` are taken."""
        with self._database.transaction():
            self._run("continue_after", sequence=sequence)

    def save_task(self, welcome: Welcome, moves: int = 0) -> None:
        """Write down recipe and plan, and how often the device has changed coordinators."""
        with self._database.transaction():
            self._run("put_task", task=frames.encode(welcome), moves=moves)

    def drop_unsent(self, welcome: Welcome, moves: int = 0) -> None:
        """Forget the outbox, empty the residual and write down the recipe that asks for it, at once."""
        with self._database.transaction():
            self._run("forget_outbox")
            self._run("empty_residual")
            self._run("put_task", task=frames.encode(welcome), moves=moves)

    def adopt_task(self, welcome: Welcome, moves: int = 0) -> None:
        """Forget residual, outbox, model and own head, and write down another task; sequence numbers go on."""
        with self._database.transaction():
            for query in ("forget_outbox", "forget_residual", "forget_model", "forget_head", "forget_counts"):
                self._run(query)
            self._run("put_task", task=frames.encode(welcome), moves=moves)

    def save_model(self, model: StoredModel) -> None:
        """Write the regional model down in place of the one before."""
        data = np.ascontiguousarray(model.parameters, "<f4")
        with self._database.transaction():
            self._run("put_model", lineage=model.version.lineage, number=model.version.number, data=data, age=model.age)

    def save_head(self, head: StoredHead) -> None:
        """Write the device's own head down in place of the one before."""
        version, tensors, data = head.version, "\n".join(head.tensors), np.ascontiguousarray(head.values, "<f4")
        with self._database.transaction():
            self._run("put_head", lineage=version.lineage, number=version.number, tensors=tensors, data=data)

    def _one(self, query: str) -> Any:
        return self._database.connection.execute(self._database.queries[query]).fetchone()

    def _give_up(self, database: Database) -> None:
        """See `repair`; `database` may be of an older schema, about to be migrated."""
        damaged = database.damaged_tables()
        given_up = [table for table in COSTS if table in damaged]
        with database.transaction():
            # The residual may hold what a lost update has sent: it must not count twice.
            if {"outbox", "residual"} & set(given_up):
                database.connection.execute(database.queries["empty_residual"])
            for table in {*given_up} - {"residual"}:
                database.delete_damaged(table)
        self._given_up += given_up

    def _run(self, query: str, **values: Any) -> None:
        self._database.connection.execute(self._database.queries[query], values)


def _vector(data: bytes) -> Float32:
    return np.frombuffer(data, "<f4").astype(np.float32)


def _head(row: tuple[str, int, str, bytes]) -> StoredHead:
    lineage, number, tensors, data = row
    return StoredHead(ModelVersion(lineage, number), tuple(tensors.split("\n")), _vector(data))


def _update(row: tuple[Any, ...]) -> Update:
    sequence, lineage, number, *rest = row
    rest[-2] = bool(rest[-2])
    return Update(sequence, ModelVersion(lineage, number), *rest)
