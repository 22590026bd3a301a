"""From what is on disk to what was in memory: the newest whole checkpoint, and the journal behind it. Synchronous.

Replay needs no rule of any recipe: the journal says what was multiplied with what, and in which order.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coordinator import checkpoint as checkpoint_file
from coordinator.age_history import AgeHistory
from coordinator.checkpoint import CHECKPOINTS, Checkpoint, CheckpointError
from coordinator.ledger import Ledger, LedgerEntry
from coordinator.model_state import ModelState, Publication
from coordinator.region_state import HeldUpdate, PeerHeld, RegionState
from coordinator.store import REMEDY, HeldRow, ReplayPublication, Store
from skerry.algorithms.arrival import Arrival
from skerry.errors import StateDamagedError, StorageError
from skerry.protocol import sparse
from skerry.protocol.errors import MalformedVector
from skerry.protocol.messages import BroadcastId
from skerry.vector import Float32, SparseVector

VERSION_MAX = (1 << 63) - 1

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Recovered:
    """What a coordinator goes on from."""

    region: RegionState
    vectors: ModelState
    held: dict[int, SparseVector]  # by position: the updates that wait for the arrival rule
    checkpoint_version: int  # the newest one on disk


def recover(store: Store, state_dir: Path, own: str) -> Recovered:
    """Rebuild what coordinator `own` had in memory, bit for bit.

    Raises:
        StateDamagedError: no checkpoint is whole, or the journal is not.
        StorageError: something cannot be read.
    """
    store.check()
    start = _newest(store, state_dir, VERSION_MAX)
    state = start.state
    checkpoint_version = state.version
    ages = dict(store.ages()) | {checkpoint_version: state.age}
    known = sorted(ages)
    if known != list(range(known[0], known[0] + len(known))):
        raise StateDamagedError(f"{store.path}: versions are missing from the journal{REMEDY}")
    ledger, held_rows = store.ledger(), store.held()
    _check_ledger(store, ledger, known[-1], held_rows)
    last_position = max(start.position, store.last_position())
    _replay(store, start, own, VERSION_MAX)
    return Recovered(
        region=RegionState(
            lineage=start.lineage,
            ages=AgeHistory(known[0], (ages[version] for version in known)),
            position=last_position,
            publication=0 if state.published is None else state.published.number,
            ledger=Ledger(ledger),
            held=[_held(row) for row in held_rows],
            peers={peer: PeerHeld(one.lineage, one.number, one.broadcast) for peer, one in state.replicas.items()},
            token=store.token(),
            rules=store.rules(),
            conducts=store.conducts(),
        ),
        vectors=state,
        held={row.position: _vector(store, row.position, row.payload, state.size) for row in held_rows},
        checkpoint_version=checkpoint_version,
    )


def rebuild(state_dir: Path, version: int) -> Float32:
    """Return the model as it was at `version`, float32 of shape (size,), without disturbing a running coordinator.

    Raises:
        StorageError: the checkpoints and the journal do not reach back to it, or it is yet to come.
    """
    store = Store(state_dir, read_only=True)
    try:
        region = store.region()
        if region is None:
            raise StorageError(f"{state_dir}: holds no region's state")
        store.check()
        start = _newest(store, state_dir, version)
        _replay(store, start, region.coordinator, version)
        if start.state.version != version:
            raise StorageError(f"{state_dir}: the newest version is {start.state.version}, not {version}")
        return start.state.model
    finally:
        store.close()


def _newest(store: Store, state_dir: Path, up_to: int) -> Checkpoint:
    """Read the newest checkpoint that is whole and not behind version `up_to`."""
    region = store.region()
    if region is None:
        raise StorageError(f"{state_dir}: holds no region's state")
    damaged = []
    for version, _ in store.checkpoints():
        if version > up_to:
            continue
        path = checkpoint_file.path_of(state_dir / CHECKPOINTS, version)
        try:
            found = checkpoint_file.read(path)
            if (found.lineage, found.state.version) == (region.lineage, version):
                return found
            error = f"is of {found.lineage}@{found.state.version}, not of {region.lineage}@{version}"
        except CheckpointError as damage:
            error = str(damage)
        log.warning("checkpoint %s %s: falling back to the one before it", path, error)
        damaged.append(str(path))
    if damaged:
        raise StateDamagedError(f"no checkpoint is whole ({', '.join(damaged)}){REMEDY}")
    raise StorageError(f"{state_dir}: the journal does not reach back to version {up_to}")


def _check_ledger(store: Store, ledger: list[LedgerEntry], newest: int, held: list[HeldRow]) -> None:
    """See that the journal has what the ledger tells of: no version behind the `newest`, and every update that waits.

    Raises:
        StateDamagedError: it has not.
    """
    waiting = {(row.device, row.sequence) for row in held}
    for entry in ledger:
        for update in entry.recent:
            lost = update.weight is None and update.counts_here and (entry.device, update.sequence) not in waiting
            if lost or update.version > newest:
                which = f"update {update.sequence} of {entry.device}"
                raise StateDamagedError(f"{store.path}: {which} was answered, but is not in the journal{REMEDY}")


def _replay(store: Store, start: Checkpoint, own: str, up_to: int) -> None:
    """Bring the vectors of `start` to version `up_to`, or as far as the journal goes."""
    state = start.state
    publications = _Publications(store, start.position, own, state)
    buffer: list[tuple[str, SparseVector, float]] = []
    for row in store.replay(state.version, up_to):
        if row.version != state.version + 1:
            raise StateDamagedError(f"{store.path}: version {state.version + 1} is missing{REMEDY}")
        publications.up_to(row.position)
        if row.kind == "merge":
            replica = state.replicas.get(row.sender)
            if replica is None or replica.number != row.sequence:
                missing = f"publication {row.sequence} of {row.sender}, merged as version {row.version}"
                raise StateDamagedError(f"{store.path}: {missing}, is missing{REMEDY}")
            state.merge(row.sender, row.weight, row.version, row.age, row.entries)
        else:
            update = _vector(store, row.position, row.payload, state.size)
            if row.trim is None:
                state.apply(update, row.weight, row.version, row.age, whole=row.kind == "model")
                continue
            buffer.append((row.sender, update, row.weight))
            if row.version == row.buffer_version:
                state.apply_buffer(buffer, row.trim, row.version, row.age)
                buffer = []
            else:  # still the same model
                state.version, state.age = row.version, row.age
    publications.up_to(VERSION_MAX)


class _Publications:
    """Takes the publications in when it is their turn: a merge needs the replica as it was then."""

    def __init__(self, store: Store, after: int, own: str, state: ModelState) -> None:
        self._store = store
        self._own = own
        self._state = state
        self._rows: Iterator[ReplayPublication] = store.publications(after)
        self._next = next(self._rows, None)

    def up_to(self, position: int) -> None:
        while (row := self._next) is not None and row.position <= position:
            values = _vector(self._store, row.position, row.payload, self._state.size)
            broadcast = BroadcastId(row.epoch, row.broadcast)
            publication = Publication(row.lineage, row.number, broadcast, row.age, bool(row.whole))
            own = row.coordinator == self._own
            before = self._state.published if own else self._state.replicas.get(row.coordinator)
            if not row.whole and (before is None or (before.lineage, before.number + 1) != (row.lineage, row.number)):
                builds = f"what publication {row.number} of {row.coordinator} builds on"
                raise StateDamagedError(f"{self._store.path}: {builds} is missing{REMEDY}")
            if own:
                self._state.publish(publication, values)
            else:
                self._state.take_peer_model(row.coordinator, publication, values)
            self._next = next(self._rows, None)


def _vector(store: Store, position: int, payload: bytes, size: int) -> SparseVector:
    try:
        return sparse.decode(payload, size=size)
    except MalformedVector as error:
        raise StateDamagedError(f"{store.path}: position {position} is damaged: {error}{REMEDY}") from error


def _held(row: HeldRow) -> HeldUpdate:
    arrival = Arrival(
        device=row.device,
        sequence=row.sequence,
        staleness=row.staleness,
        steps=row.steps,
        examples=row.examples,
        loss=row.loss,
        behind=round(row.staleness),  # as far as it is still known
    )
    return HeldUpdate(row.position, arrival, whole=row.kind == "model", factor=row.factor)
