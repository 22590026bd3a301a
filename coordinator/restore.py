"""A region's state goes back to a model that was exported: under a new lineage, and while no coordinator runs on it.

What devices and peers were answered stays answered: the ledger is kept, so that no update counts twice. What the model
learned since, and what is held of the peers' models, is given up; peers send theirs whole.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from coordinator import checkpoint as checkpoint_file
from coordinator.checkpoint import CHECKPOINTS, Checkpoint
from coordinator.config import CoordinatorConfig
from coordinator.events import RuleState
from coordinator.export import metadata_of
from coordinator.former_life import FormerLife
from coordinator.given_up import GivenUp
from coordinator.intake import MAGNITUDE_MAX
from coordinator.ledger import LedgerEntry
from coordinator.model_state import ModelState
from coordinator.state_dir import StateDir, is_made, open_state
from coordinator.store import CheckpointRow, RegionRow
from skerry.algorithms.barrier import BarrierState
from skerry.algorithms.gain import GainState
from skerry.errors import DataError, StorageError
from skerry.ownership import Owner, give, owner_of_the_nearest
from skerry.protocol.limits import AGE_MAX
from skerry.protocol.messages import ModelVersion
from skerry.tasks import bundle as bundles
from skerry.tasks.bundle import Bundle
from skerry.tasks.model_file import from_safetensors
from skerry.vector import Float32

HEADER_BYTES_MAX = 16 << 20  # of a safetensors file


@dataclass(frozen=True, slots=True)
class Restored:
    """What a region's state goes on from."""

    model: str  # the one in the file: lineage@version
    age: float
    before: str | None  # the one that was given up; None: there was no state
    version: str  # the one that the state begins with


def restore(config: CoordinatorConfig, path: Path, *, rng: random.Random, wall_clock: Callable[[], float]) -> Restored:
    """Let the state of a coordinator that is stopped go on from the model in `path`, as `model export` wrote it.

    On disk when this returns; stopped on the way, the state is the former one or the new one. What root writes here
    belongs to whom the state belongs, or the folder that it is made in.

    Raises:
        ConfigError: the state is of another coordinator or another bundle.
        DataError: the file is no model of this bundle.
        StateDamagedError: the state is damaged.
        StorageError: the disk refused, or the coordinator is running.
    """
    bundle = bundles.resolve(config.bundle)
    values, age, model = _read(path, bundle)
    lineage = f"{config.region}/{rng.getrandbits(32):08x}"
    expected, at_s = RegionRow(config.name, config.region, bundle.sha256, lineage), wall_clock()
    folder = config.state_dir.absolute()
    owner, absent = owner_of_the_nearest(folder), [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        before, version = _go_on_from(folder, expected, values, age, model, at_s)
    finally:
        written = [folder / "lock", folder / CHECKPOINTS, *folder.glob("coordinator.db*")]
        _give([*absent, *written, *(folder / CHECKPOINTS).glob("*")], owner)
    return Restored(f"{model.lineage}@{model.number}", age, before, f"{lineage}@{version}")


def _go_on_from(
    path: Path, expected: RegionRow, values: Float32, age: float, model: ModelVersion, at_s: float
) -> tuple[str | None, int]:
    """Let the state in `path` go on under the lineage of `expected`; return what it was, and its version now."""
    made = is_made(path)
    state = open_state(path, expected, values, at_s, former=FormerLife(age))
    try:
        before = f"{state.recovered.region.lineage}@{state.recovered.vectors.version}" if made else None
        if made:
            _begin(state, expected.lineage, values, age, model, at_s)
    finally:
        state.close()
    again = open_state(path, expected, values, at_s)  # as the next start will; sweeps what was given up
    try:
        return before, again.recovered.vectors.version
    finally:
        again.close()


def _give(written: Iterable[Path], owner: Owner) -> None:
    """Give what is there of `written` to its owner: the service could not open what is root's.

    Raises:
        StorageError: the disk refused.
    """
    for path in written:
        try:
            give(path, owner)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StorageError(f"{path}: cannot be given to its owner: {error.strerror}") from error


def _begin(state: StateDir, lineage: str, values: Float32, age: float, model: ModelVersion, at_s: float) -> None:
    """Write the new lineage down: its first version counts on, so that no file of the former one is in the way."""
    region = state.recovered.region
    version, position = region.ages.last + 1, region.position
    vectors = ModelState.start(values, age)
    vectors.version = version
    vectors.changed_at[:] = version
    checkpoint_file.write(state.path / CHECKPOINTS, Checkpoint(lineage, position, vectors))
    ledger = [_kept(entry, version) for device in region.ledger if (entry := region.ledger.entry(device)) is not None]
    token = None if region.token is None else replace(region.token, age_merged=min(region.token.age_merged, age))
    given_up = (region.remembered(GivenUp) or GivenUp()).back_to(model, region.lineage)
    rules = [given_up, *_remembered(region.rules.values())]
    state.store.begin_lineage(lineage, CheckpointRow(version, position, at_s), ledger, token, rules)


def _remembered(rules: Iterable[RuleState]) -> Iterator[RuleState]:
    """Return what rules remember that is still so: nothing of versions, peers' models or how far away they lie."""
    for rule in rules:
        if isinstance(rule, BarrierState):
            yield BarrierState(exchange=rule.exchange)  # a number that peers know is never used again
        elif isinstance(rule, GainState):
            yield rule


def _kept(entry: LedgerEntry, version: int) -> LedgerEntry:
    """Return a device's line as it answers repeats from now on; what was held is given up with what was applied."""
    recent = [
        replace(update, version=version, publication=0)
        for update in entry.recent
        if update.weight is not None or not update.counts_here
    ]
    return LedgerEntry(entry.device, entry.last_sequence, entry.updates, recent)


def _read(path: Path, bundle: Bundle) -> tuple[Float32, float, ModelVersion]:
    """Return a model's values, its age, and which one it is.

    Raises:
        DataError: it is no model of `bundle`.
    """
    layout = bundle.manifest.layout
    bytes_max = 4 * layout.size + HEADER_BYTES_MAX
    try:
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > bytes_max:
        raise DataError(f"{path}: has more than the {bytes_max} bytes that a model of this bundle takes")
    try:
        values = from_safetensors(layout, data)  # first: it also refuses a header that is nested too deep
        metadata = metadata_of(data)
        if metadata["bundle"] != bundle.sha256:
            theirs, own = metadata["bundle"][:12], bundle.sha256[:12]
            raise DataError(
                f"is a model of bundle {theirs}, this coordinator trains {own}: take one of its own exports"
            )
        age, model = float(metadata["age"]), ModelVersion(metadata["lineage"], int(metadata["version"]))
        if not (isfinite(age) and 0.0 <= age <= AGE_MAX):
            raise DataError(f"its age is {age}")
        if float(np.max(np.abs(values), initial=0.0)) > MAGNITUDE_MAX:
            raise DataError(f"has values beyond {MAGNITUDE_MAX:g}: this model has diverged; take an older one")
    except (KeyError, ValueError) as error:
        what = f"{path}: says no age or no version"
        raise DataError(f"{what}: take a file that `skerry-coordinator model export` wrote") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return values, age, model
