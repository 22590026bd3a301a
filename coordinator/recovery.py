"""From what is on disk to what was in memory: the newest whole checkpoint, and the journal behind it. Synchronous.

Replay needs no rule of any recipe: the journal says what was multiplied with what, and in which order.
"""

import fcntl
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coordinator import checkpoint as checkpoint_file
from coordinator.age_history import AgeHistory
from coordinator.checkpoint import Checkpoint, CheckpointError
from coordinator.ledger import Ledger
from coordinator.model_state import ModelState, Publication
from coordinator.region import HeldUpdate, PeerHeld, RegionState
from coordinator.store import Batch, CheckpointRow, Cut, HeldRow, RegionRow, ReplayPublication, Store
from skerry.algorithms.arrival import Arrival
from skerry.errors import ConfigError, StorageError
from skerry.protocol import sparse
from skerry.protocol.errors import MalformedVector
from skerry.protocol.messages import BroadcastId
from skerry.vector import Float32, SparseVector

CHECKPOINTS = "checkpoints"
VERSION_MAX = (1 << 63) - 1

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Recovered:
    """What a coordinator goes on from."""

    region: RegionState
    vectors: ModelState
    held: dict[int, SparseVector]  # by position: the updates that wait for the arrival rule
    checkpoint_version: int  # the newest one on disk


@dataclass(slots=True)
class StateDir:
    """A region's state, open and locked."""

    store: Store
    recovered: Recovered
    path: Path
    lock: int

    def close(self) -> None:
        """Close it and let others have it."""
        try:
            self.store.close()
        finally:
            os.close(self.lock)


def open_state(path: Path, expected: RegionRow, initial: Float32, at_s: float) -> StateDir:
    """Open the state of a region in `path`, or create it: then version 0 is `initial` and the lineage `expected`'s.

    Raises:
        ConfigError: the state is of another coordinator or another bundle.
        SchemaTooNewError: a newer Skerry wrote it.
        StorageError: it cannot be read or written, or another coordinator is running on it.
    """
    handle = _lock(path)
    try:
        store = Store(path)
        try:
            found = store.region()
            if found is None:
                _create(store, path, expected, initial, at_s)
            else:
                _check(found, expected, path)
            recovered = recover(store, path, expected.coordinator)
            if recovered.vectors.size != len(initial):
                size = recovered.vectors.size
                raise StorageError(f"{path}: the state has {size} parameters, the bundle {len(initial)}")
            _sweep(store, path, recovered.checkpoint_version)
        except BaseException:
            store.close()
            raise
    except BaseException:
        os.close(handle)
        raise
    return StateDir(store, recovered, path, handle)


def _lock(state_dir: Path) -> int:
    """Keep any other coordinator off this state; return a handle that holds the lock until it is closed.

    Raises:
        StorageError: somebody else holds it, or the folder cannot be used.
    """
    try:
        (state_dir / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        handle = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StorageError(f"{state_dir}: cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise StorageError(f"{state_dir}: another coordinator is running on this state") from error
    return handle


def _create(store: Store, state_dir: Path, region: RegionRow, initial: Float32, at_s: float) -> None:
    """Make the state of a region: version 0 is `initial`.

    Raises:
        StorageError: the disk refused.
    """
    # The checkpoint first: a state without the row below was never made, and is made again.
    checkpoint_file.write(state_dir / CHECKPOINTS, Checkpoint(region.lineage, 0, ModelState.start(initial)))
    store.create_region(region, CheckpointRow(0, 0, at_s))


def _check(found: RegionRow, expected: RegionRow, state_dir: Path) -> None:
    """See that the state is of this coordinator and this task.

    Raises:
        ConfigError: it is another's.
    """
    for name in ("coordinator", "region", "bundle_sha256"):
        if getattr(found, name) != getattr(expected, name):
            raise ConfigError(
                f"{state_dir}: holds the state of {name} {getattr(found, name)!r}, the configuration says "
                f"{getattr(expected, name)!r}: set another state_dir, or move this one away to start afresh"
            )


def recover(store: Store, state_dir: Path, own: str) -> Recovered:
    """Rebuild what coordinator `own` had in memory, bit for bit.

    Raises:
        StorageError: no checkpoint is whole, or the journal has a hole.
    """
    start = _newest(store, state_dir, VERSION_MAX)
    state = start.state
    checkpoint_version = state.version
    ages = dict(store.ages()) | {checkpoint_version: state.age}
    known = sorted(ages)
    if known != list(range(known[0], known[0] + len(known))):
        raise StorageError(f"{store.path}: versions are missing from the journal; restore it from a backup")
    last_position = max(start.position, store.last_position())
    _replay(store, start, own, VERSION_MAX)
    held_rows = store.held()
    return Recovered(
        region=RegionState(
            lineage=start.lineage,
            ages=AgeHistory(known[0], (ages[version] for version in known)),
            position=last_position,
            publication=0 if state.published is None else state.published.number,
            ledger=Ledger(store.ledger()),
            held=[_held(row) for row in held_rows],
            peers={peer: PeerHeld(replica.lineage, replica.number) for peer, replica in state.replicas.items()},
            token=store.token(),
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
        start = _newest(store, state_dir, version)
        _replay(store, start, region.coordinator, version)
        if start.state.version != version:
            raise StorageError(f"{state_dir}: the newest version is {start.state.version}, not {version}")
        return start.state.model
    finally:
        store.close()


def _sweep(store: Store, state_dir: Path, recovered_version: int) -> None:
    """Forget the checkpoints newer than the one that was recovered from, and remove files that no row speaks of.

    A damaged checkpoint must not count among those that are kept; it would take the place of a whole one.

    Raises:
        StorageError: the disk refused.
    """
    damaged = tuple(version for version, _ in store.checkpoints() if version > recovered_version)
    if damaged:
        store.write(Batch(cut=Cut(0, 0, damaged)))
    folder = state_dir / CHECKPOINTS
    wanted = {checkpoint_file.path_of(folder, version) for version, _ in store.checkpoints()}
    try:
        for path in folder.iterdir():
            if path not in wanted:
                path.unlink()
    except OSError as error:
        raise StorageError(f"{folder}: cannot be swept: {error.strerror}") from error


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
        raise StorageError(f"no checkpoint is whole ({', '.join(damaged)}); restore {state_dir} from a backup")
    raise StorageError(f"{state_dir}: the journal does not reach back to version {up_to}")


def _replay(store: Store, start: Checkpoint, own: str, up_to: int) -> None:
    """Bring the vectors of `start` to version `up_to`, or as far as the journal goes."""
    state = start.state
    publications = _Publications(store, start.position, own, state)
    for row in store.replay(state.version, up_to):
        if row.version != state.version + 1:
            raise StorageError(f"{store.path}: version {state.version + 1} is missing; restore it from a backup")
        publications.up_to(row.position)
        if row.kind == "merge":
            state.merge(row.sender, row.weight, row.version, row.age)
        else:
            update = _vector(store, row.position, row.payload, state.size)
            state.apply(update, row.weight, row.version, row.age)
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
            if row.coordinator == self._own:
                self._state.publish(publication, values)
            else:
                self._state.take_peer_model(row.coordinator, publication, values)
            self._next = next(self._rows, None)


def _vector(store: Store, position: int, payload: bytes, size: int) -> SparseVector:
    try:
        return sparse.decode(payload, size=size)
    except MalformedVector as error:
        message = f"{store.path}: position {position} is damaged: {error}; restore it from a backup"
        raise StorageError(message) from error


def _held(row: HeldRow) -> HeldUpdate:
    arrival = Arrival(
        device=row.device,
        sequence=row.sequence,
        staleness=row.staleness,
        steps=row.steps,
        examples=row.examples,
        loss=row.loss,
    )
    return HeldUpdate(row.position, arrival)
