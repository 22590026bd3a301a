"""A coordinator's state folder: locked, made or opened, swept. Synchronous."""

import fcntl
import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from coordinator import checkpoint as checkpoint_file
from coordinator.checkpoint import CHECKPOINTS, Checkpoint, CheckpointError
from coordinator.former_life import FormerLife
from coordinator.model_state import ModelState
from coordinator.recovery import Recovered, recover
from coordinator.store import REMEDY, Batch, CheckpointRow, Cut, RegionRow, Store
from skerry.database import Database, NotMadeError, OpenDatabase
from skerry.disk_remedy import disk_remedy
from skerry.errors import ConfigError, StateDamagedError, StorageError
from skerry.vector import Float32


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


def is_made(path: Path, open_database: OpenDatabase = Database) -> bool:
    """Say whether there is a region's state in `path`, whole or not."""
    try:
        with closing(Store(path, read_only=True, open_database=open_database)) as store:
            return store.region() is not None
    except NotMadeError:
        return False
    except StorageError:
        return True  # `open_state` says what is wrong with it


def open_state(
    path: Path,
    expected: RegionRow,
    initial: Float32,
    at_s: float,
    open_database: OpenDatabase = Database,
    former: FormerLife = FormerLife(),  # noqa: B008 - immutable
) -> StateDir:
    """Open the state of a region in `path`, or create it: then version 0 is `initial`, with what is known of `former`.

    The lineage is `expected`'s then.

    Raises:
        ConfigError: the state is of another coordinator or another bundle.
        SchemaTooNewError: a newer Skerry wrote it.
        StateDamagedError: it is not what was written there.
        StorageError: it cannot be read or written, or another coordinator is running on it.
    """
    handle = _lock(path)
    try:
        store = Store(path, open_database=open_database)
        try:
            found = store.region()
            if found is None:
                _create(store, path, expected, initial, former, at_s)
            else:
                _check(store, found, expected, path)
            recovered = recover(store, path, expected.coordinator)
            if recovered.vectors.size != len(initial):
                size = recovered.vectors.size
                raise StorageError(f"{path}: the state has {size} parameters, the bundle {len(initial)}")
            _check_files(path, recovered.region.lineage, recovered.region.ages.last)
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
        raise StorageError(f"{state_dir}: cannot be used: {error.strerror}{disk_remedy(error)}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise StorageError(f"{state_dir}: another coordinator is running on this state") from error
    return handle


def _create(
    store: Store, state_dir: Path, region: RegionRow, initial: Float32, former: FormerLife, at_s: float
) -> None:
    """Make the state of a region: version 0 is `initial`.

    Raises:
        StorageError: the disk refused.
    """
    try:
        for folder in (state_dir, state_dir.parent):  # a file is not safe in a folder whose own name may be lost
            checkpoint_file.sync_folder(folder)
    except OSError as error:
        raise StorageError(f"{state_dir}: cannot be made: {error.strerror}") from error
    start = ModelState.start(initial, former.age)
    # The checkpoint first: a state without the row below was never made, and is made again.
    checkpoint_file.write(state_dir / CHECKPOINTS, Checkpoint(region.lineage, 0, start))
    store.create_region(region, CheckpointRow(0, 0, at_s), former.ledger)


def _check(store: Store, found: RegionRow, expected: RegionRow, state_dir: Path) -> None:
    """See that the state is of this coordinator and this task.

    Raises:
        ConfigError: it is another's.
        StateDamagedError: it is damaged, and so perhaps not another's.
    """
    for name in ("coordinator", "region", "bundle_sha256"):
        if getattr(found, name) != getattr(expected, name):
            store.check()
            raise ConfigError(
                f"{state_dir}: holds the state of {name} {getattr(found, name)!r}, the configuration says "
                f"{getattr(expected, name)!r}: set another state_dir, or move this one away to start afresh"
            )


def _check_files(state_dir: Path, lineage: str, newest: int) -> None:
    """See that no whole checkpoint of `lineage` is of a version behind the `newest` of the journal, written first.

    Raises:
        StateDamagedError: one is: the journal lost its end after it was synced.
    """
    for path in sorted((state_dir / CHECKPOINTS).glob("*.safetensors")):
        if path > checkpoint_file.path_of(state_dir / CHECKPOINTS, newest):
            try:
                found = checkpoint_file.read(path)
            except CheckpointError:
                continue  # torn: it is swept away
            if found.lineage != lineage:
                continue  # of a model that was, or was about to be, replaced: so is this
            raise StateDamagedError(f"{path}: is whole, but the journal ends at version {newest}{REMEDY}")


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
