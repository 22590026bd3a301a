"""The coordinator's database: journal, ledger and what else must survive. See schema/ and queries.sql.

Synchronous; the engine calls it from a worker thread, one call at a time. Rows go in and come out; what they mean is
decided elsewhere.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from coordinator.events import RuleState
from coordinator.ledger import LedgerEntry, RecentUpdate
from skerry.algorithms.conduct import Conduct
from skerry.algorithms.federation import MergedEntries
from skerry.algorithms.token import TokenState
from skerry.database import Database, OpenDatabase
from skerry.errors import StateDamagedError
from skerry.protocol.messages import Telemetry

FILE_NAME = "coordinator.db"
WAL_BYTES = 32 << 20  # copied into the database in one go; each time costs two more syncs
REMEDY = (
    ": move coordinator.db* and checkpoints/ away, but neither enrolment.db nor identity/, and start again: the "
    "coordinator comes back from what its peers hold of it, or, without peers, from the bundle's initial parameters"
)


class RegionRow(NamedTuple):
    """Whose state this is."""

    coordinator: str
    region: str
    bundle_sha256: str
    lineage: str


class JournalRow(NamedTuple):
    """What changed the model, or will, as in the table `journal`."""

    position: int
    version: int | None
    kind: str  # "update", "model" (an update that is one), "merge" or "taken_back"
    sender: str
    sequence: int
    base_number: int
    weight: float | None
    age: float | None
    steps: int
    examples: int
    loss: float
    seconds_per_step: float
    staleness: float
    frame_bytes: int
    received_at_s: float
    payload: bytes
    entries: MergedEntries = "all"  # of a merge
    buffer_version: int | None = None  # of an update that counts only together with others
    trim: float | None = None
    factor: float = 1.0  # of the guard
    base_lineage: str = ""  # of an update whose base is of another region


class ReleaseRow(NamedTuple):
    """How an update that was held is applied."""

    version: int
    weight: float
    age: float
    buffer_version: int | None
    trim: float | None
    position: int


class PublicationRow(NamedTuple):
    """One publication, of this coordinator or a peer, as in the table `publication`."""

    position: int
    coordinator: str
    lineage: str
    number: int
    whole: int
    epoch: int
    broadcast: int
    age: float
    payload: bytes
    received_at_s: float


class EvaluationRow(NamedTuple):
    """One evaluation, as in the table `evaluation`."""

    at_s: float
    version: int
    age: float
    kind: str
    examples: int
    correct: int | None  # None: there is no accuracy
    loss: float


class TrafficRow(NamedTuple):
    """Bytes to be added to those of a party."""

    party: str
    name: str
    sent_bytes: int
    received_bytes: int


class CheckpointRow(NamedTuple):
    """A checkpoint file that is whole and on disk."""

    version: int
    position: int
    written_at_s: float


class HeldRow(NamedTuple):
    """An update that the arrival rule holds."""

    position: int
    kind: str
    device: str
    sequence: int
    staleness: float
    steps: int
    examples: int
    loss: float
    factor: float
    payload: bytes


class FoundUpdate(NamedTuple):
    """An update as the journal has it."""

    version: int | None  # None: held by the arrival rule
    kind: str
    weight: float | None
    trim: float | None
    payload: bytes


class ReplayRow(NamedTuple):
    """What made one version."""

    position: int
    version: int
    kind: str
    sender: str
    sequence: int
    weight: float
    age: float
    payload: bytes
    entries: MergedEntries
    buffer_version: int | None
    trim: float | None


class ReplayPublication(NamedTuple):
    """What made one publication."""

    position: int
    coordinator: str
    lineage: str
    number: int
    whole: int
    epoch: int
    broadcast: int
    age: float
    payload: bytes


class Cut(NamedTuple):
    """How far the journal is not needed any more."""

    version: int  # updates and merges up to it
    position: int  # publications up to it
    checkpoints: tuple[int, ...]  # versions whose files are about to be removed


class Batch(msgspec.Struct):
    """Everything that one transaction writes."""

    journal: list[JournalRow] = []
    releases: list[ReleaseRow] = []
    dropped: list[int] = []  # positions of updates that were held
    publications: list[PublicationRow] = []
    ledger: list[LedgerEntry] = []
    token: TokenState | None = None
    rules: dict[type[RuleState], RuleState] = {}
    telemetry: dict[str, tuple[float, Telemetry]] = {}
    conducts: dict[str, Conduct] = {}
    evaluations: list[EvaluationRow] = []
    traffic: list[TrafficRow] = []
    checkpoint: CheckpointRow | None = None
    cut: Cut | None = None

    @property
    def promises(self) -> bool:
        """Whether it holds more than telemetry and traffic, which nobody waits for."""
        return bool(
            self.journal
            or self.releases
            or self.dropped
            or self.ledger
            or self.publications
            or self.token
            or self.rules
            or self.conducts
            or self.evaluations
            or self.checkpoint
            or self.cut
        )

    def __bool__(self) -> bool:
        return bool(self.promises or self.telemetry or self.traffic)

    def add_reports(self, earlier: "Batch") -> None:
        """Take in the telemetry and traffic of an `earlier` batch that was not written."""
        self.telemetry = earlier.telemetry | self.telemetry
        self.traffic = earlier.traffic + self.traffic


class Store:
    """The database, open."""

    def __init__(self, state_dir: Path, *, read_only: bool = False, open_database: OpenDatabase = Database) -> None:
        """Open or create the database of `state_dir`; `read_only`: see it as it is now, until it is closed.

        Raises:
            NotMadeError: there is none yet to read.
            SchemaTooNewError: a newer Skerry wrote it.
            StorageError: it cannot be opened, read or written.
        """
        self.path = state_dir / FILE_NAME
        self._db = open_database(self.path, "coordinator", wal_bytes=WAL_BYTES, read_only=read_only)
        self._queries = self._db.queries

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    # --- writing ---

    def create_region(self, region: RegionRow, checkpoint: CheckpointRow, ledger: Sequence[LedgerEntry] = ()) -> None:
        """Write down whose state this is, where version 0 lies, and which updates it holds."""
        with self._db.transaction():
            self._run("create_region", (*region, checkpoint.written_at_s))
            self._run("put_checkpoint", checkpoint)
            self._run_each("put_ledger", [_ledger_row(entry) for entry in ledger])

    def begin_lineage(
        self,
        lineage: str,
        checkpoint: CheckpointRow,
        ledger: Sequence[LedgerEntry],
        token: TokenState | None,
        rules: Iterable[RuleState],
    ) -> None:
        """Go on from `checkpoint` as another lineage; what led to the former model is deleted.

        Rules remember `rules` and nothing else.
        """
        with self._db.transaction():
            self._run("begin_lineage", (lineage, checkpoint.written_at_s))
            for query in ("forget_journal", "forget_publications", "forget_checkpoints", "forget_rule_states"):
                self._run(query, ())
            self._run("put_checkpoint", checkpoint)
            self._run_each("put_ledger", [_ledger_row(entry) for entry in ledger])
            if token is not None:
                self._run("put_token", (_json(token),))
            self._run_each("put_rule_state", [(type(one).__name__, _json(one)) for one in rules])

    def write(self, batch: Batch) -> None:
        """Write all of `batch`, or nothing of it where this raises; on disk when it returns.

        Raises:
            StorageError: the disk refused.
        """
        with self._db.transaction():
            self._run_each("append_journal", batch.journal)
            self._run_each("release_update", batch.releases)
            self._run_each("drop_held", [(position,) for position in batch.dropped])
            self._run_each("append_publication", batch.publications)
            self._run_each("put_ledger", [_ledger_row(entry) for entry in batch.ledger])
            if batch.token is not None:
                self._run("put_token", (_json(batch.token),))
            self._run_each("put_rule_state", [(type(one).__name__, _json(one)) for one in batch.rules.values()])
            self._run_each("put_telemetry", [(name, at_s, _json(one)) for name, (at_s, one) in batch.telemetry.items()])
            self._run_each("put_conduct", [(one.device, _json(one)) for one in batch.conducts.values()])
            self._run_each("append_evaluation", batch.evaluations)
            self._run_each("add_traffic", batch.traffic)
            if batch.checkpoint is not None:
                self._run("put_checkpoint", batch.checkpoint)
            if batch.cut is not None:
                self._run("cut_journal", (batch.cut.version,))
                self._run("cut_publications", (batch.cut.position,))
                self._run_each("forget_checkpoint", [(version,) for version in batch.cut.checkpoints])

    # --- reading ---

    def check(self) -> None:
        """See that all rows are as they were written, and the ledger as new as the journal.

        Raises:
            StateDamagedError: naming what is wrong.
            StorageError: it cannot be read.
        """
        if tables := self._db.damaged_tables():
            raise StateDamagedError(f"{self.path}: a checksum differs in {', '.join(tables)}{REMEDY}")
        if devices := self._rows("unledgered"):
            raise StateDamagedError(f"{self.path}: the ledger is older than the journal for {devices[0][0]}{REMEDY}")

    def region(self) -> RegionRow | None:
        """Return whose state this is, None in a database that was just made."""
        rows = self._rows("region")
        return RegionRow(*rows[0]) if rows else None

    def checkpoints(self) -> list[tuple[int, int]]:
        """Return (version, position) of the checkpoints, the newest first."""
        return self._rows("checkpoints")

    def ages(self) -> list[tuple[int, float]]:
        """Return (version, age) of every version in the journal, ascending."""
        return self._rows("ages")

    def last_position(self) -> int:
        """Return the newest position in the journal, 0 where it is empty."""
        return self._rows("last_position")[0][0]  # type: ignore[no-any-return]

    def held(self) -> list[HeldRow]:
        """Return the updates that the arrival rule holds, in their order."""
        return [HeldRow(*row) for row in self._rows("held")]

    def find_update(self, device: str, sequence: int) -> FoundUpdate | None:
        """Return an update, None where the journal does not reach back to it."""
        with self._db.errors():
            row = self._db.connection.execute(self._queries["find_update"], (device, sequence)).fetchone()
        return None if row is None else FoundUpdate(*row)

    def ledger(self) -> list[LedgerEntry]:
        """Return every device's line."""
        return [
            LedgerEntry(device, last_sequence, updates, self._decoded(recent, list[RecentUpdate]))
            for device, last_sequence, updates, recent in self._rows("ledger")
        ]

    def token(self) -> TokenState | None:
        """Return the federation's token state; None where none was written: somebody has to make the first token."""
        rows = self._rows("token")
        return self._decoded(rows[0][0], TokenState) if rows else None

    def rules(self) -> dict[type[RuleState], RuleState]:
        """Return what rules remember, by type."""
        states = [self._decoded(state, RuleState) for (state,) in self._rows("rule_states")]
        return {type(state): state for state in states}

    def conducts(self) -> list[Conduct]:
        """Return how every device's updates look."""
        return [self._decoded(line, Conduct) for (line,) in self._rows("conducts")]

    def telemetry(self) -> list[tuple[str, float, Telemetry]]:
        """Return every device's latest telemetry: (device, when it came, seconds since 1970, telemetry), by device."""
        again = ": it is written anew when the device reports again"
        return [(device, at_s, self._decoded(line, Telemetry, again)) for device, at_s, line in self._rows("telemetry")]

    def replay(self, after: int, up_to: int) -> Iterator[ReplayRow]:
        """Yield what made the versions behind `after`, in order, up to version `up_to`."""
        with self._db.errors():
            for row in self._db.connection.execute(self._queries["replay"], (after, up_to)):
                yield ReplayRow(*row)

    def publications(self, after: int) -> Iterator[ReplayPublication]:
        """Yield the publications behind position `after`, in order."""
        with self._db.errors():
            for row in self._db.connection.execute(self._queries["publications"], (after,)):
                yield ReplayPublication(*row)

    def history(self, name: str) -> list[tuple[Any, ...]]:
        """Return the rows of the query `history_<name>`."""
        return self._rows(f"history_{name}")

    def _decoded(self, text: str, kind: Any, remedy: str = REMEDY) -> Any:
        try:
            return msgspec.json.decode(text, type=kind)
        except (ValueError, TypeError) as error:  # no JSON, no text; no text nor bytes
            raise StateDamagedError(f"{self.path}: a row with JSON is damaged: {error}{remedy}") from error

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        with self._db.errors():
            return self._db.connection.execute(self._queries[query]).fetchall()

    def _run(self, query: str, values: tuple[Any, ...]) -> None:
        self._db.connection.execute(self._queries[query], values)

    def _run_each(self, query: str, rows: list[Any]) -> None:
        if rows:
            self._db.connection.executemany(self._queries[query], rows)


def _ledger_row(entry: LedgerEntry) -> tuple[str, int, int, str]:
    return entry.device, entry.last_sequence, entry.updates, _json(entry.recent)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
