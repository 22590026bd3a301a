"""All that is known when a run is over: what the witness wrote down, and what the machines have on their disks."""

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from coordinator.recovery import rebuild
from coordinator.store import FILE_NAME as JOURNAL
from edge_agent.performer import _restore
from edge_agent.store import FILE_NAME as STATE
from edge_agent.store import Store
from skerry.errors import StorageError
from skerry.protocol.messages import ModelVersion
from skerry.vector import Float32
from testbed.simulation.coordinator import SimulatedCoordinator
from tests.simulation.fault_runs.federation import Federation
from tests.simulation.fault_runs.plan import Plan
from tests.simulation.fault_runs.witness import Witness

ENTRIES = """
SELECT position, version, kind, sender, sequence, weight, age, payload
FROM journal ORDER BY version IS NULL, version, position
"""
LINEAGE_AND_OLDEST_CHECKPOINT = "SELECT lineage, (SELECT min(version) FROM checkpoint) FROM region"


class Entry(NamedTuple):
    """A row of a journal."""

    position: int
    version: int | None  # None: held by the arrival rule
    kind: str
    sender: str  # device or peer
    sequence: int  # of the update; of a merge, the publication
    weight: float | None
    age: float | None
    payload: bytes


@dataclass(frozen=True, slots=True)
class DeviceState:
    """What a device has on its disk."""

    last_sequence: int
    waiting: dict[int, bytes]  # payloads of updates without an answer, by sequence
    residual: Float32 | None
    model: tuple[ModelVersion, Float32] | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """See the module."""

    plan: Plan
    witness: Witness
    journals: Mapping[str, list[Entry]]  # by coordinator, in the order of versions; what is held comes last
    devices: Mapping[str, DeviceState]
    returns_unapplied: bool  # what a weight left out goes back to the device's residual
    models: Mapping[str, Float32]  # by coordinator, at the end
    failures: list[str]  # of services, beyond those that the plan asks for
    ended_s: float


def gather(
    federation: Federation, witness: Witness, models: Mapping[str, Float32], failures: list[str], ended_s: float
) -> Evidence:
    """Read the disks of a federation that has stopped, and let the witness see the models on them."""
    devices = {name: _device(one.disk.folder) for name, one in federation.devices.items()}
    for name, coordinator in federation.coordinators.items():
        held = [state.model for state in devices.values() if state.model is not None]
        versions = {version.number for version, _ in held if version.lineage.startswith(f"region-{name}/")}
        replay(coordinator, witness, versions | {witness.version_of(name)})
    for device, state in devices.items():
        if state.model is not None:
            version, values = state.model
            owner = version.lineage.partition("/")[0].removeprefix("region-")
            witness.see(witness.offered_by(owner, version.lineage, version.number), values, f"on {device}")
    uplink = federation.recipe.agent_stages().uplink
    return Evidence(
        plan=federation.plan,
        witness=witness,
        journals={name: _journal(one.disk.folder) for name, one in federation.coordinators.items()},
        devices=devices,
        returns_unapplied=bool(getattr(uplink, "return_unapplied", False)),
        models=models,
        failures=failures,
        ended_s=ended_s,
    )


def replay(coordinator: SimulatedCoordinator, witness: Witness, versions: Iterable[int]) -> None:
    """Let the witness see what a coordinator's disk makes of these versions, as far back as it reaches."""
    folder = coordinator.disk.folder
    rows = _rows(folder, LINEAGE_AND_OLDEST_CHECKPOINT)
    if not rows:
        return  # it has not made its state yet
    lineage, oldest = rows[0]
    for number in sorted(version for version in versions if version >= oldest):
        try:
            values = rebuild(folder, number)
        except StorageError as error:
            witness.contradictions.append(f"version {number} of {coordinator.name} was seen, but: {error}")
        else:
            where = f"as the journal of {coordinator.name} has it"
            witness.see(("model", coordinator.name, lineage, number), values, where)


def _journal(folder: Path) -> list[Entry]:
    return [Entry(*row) for row in _rows(folder, ENTRIES)]


def _rows(folder: Path, query: str) -> list[tuple[Any, ...]]:
    """Read a coordinator's database without any of its code; nothing where there is none yet."""
    if not (folder / JOURNAL).exists():
        return []
    with closing(sqlite3.connect(f"{(folder / JOURNAL).as_uri()}?mode=ro", uri=True)) as database:
        if not database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'region'").fetchone():
            return []
        return database.execute(query).fetchall()


def _device(folder: Path) -> DeviceState:
    store = Store(folder / STATE, look_only=True)
    try:
        stored = store.load()
    finally:
        store.close()
    outbox, model = _restore(stored), stored.model
    return DeviceState(
        stored.last_sequence,
        {} if outbox is None else {sequence: update.payload for sequence, update in outbox.waiting.items()},
        None if outbox is None else outbox.residual,
        None if model is None else (model.version, model.parameters),
    )
