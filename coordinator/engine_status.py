"""What a region's engine tells about itself."""

from dataclasses import dataclass

import msgspec

from coordinator.model_state import ModelState
from coordinator.region import Region
from skerry.protocol.messages import ModelVersion
from skerry.vector import Float32


@dataclass(frozen=True, slots=True, eq=False)
class ModelSnapshot:
    """A copy of a model, every update in it on disk."""

    version: ModelVersion  # of the regional model, also where the federated one was asked for
    age: float
    values: Float32  # shape (size,)
    trained: bool  # False: these are the bundle's initial parameters


class DeviceStatus(msgspec.Struct, frozen=True):
    """One device, as its coordinator sees it."""

    connected: bool
    last_sequence: int
    updates: int
    seconds_per_step: float | None
    base: int | None  # version that is at the other end of the stream
    offered: int | None  # version that is on its way there


class ReplicaStatus(msgspec.Struct, frozen=True):
    """What is held of a peer."""

    lineage: str
    publication: int
    age: float


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a region in numbers; counts are since the process started."""

    lineage: str
    version: int
    age: float
    cycle_s: float
    uncommitted_updates: int
    held_updates: int
    checkpoint_version: int
    publication: int
    holds_token: bool
    peers: dict[str, ReplicaStatus]
    devices: dict[str, DeviceStatus]
    commits: int
    updates_accepted: int
    repeats: int
    rejected: dict[str, int]
    merges: int


def describe(
    region: Region,
    state: ModelState,
    *,
    cycle_s: float,
    uncommitted_updates: int,
    checkpoint_version: int,
    commits: int,
) -> EngineStatus:
    """Put together what the parts of an engine know; version and age are those of `state`, which is on disk."""
    names = sorted({*region.links, *region.ledger})
    replicas = sorted(state.replicas.items())
    return EngineStatus(
        lineage=region.lineage,
        version=state.version,
        age=state.age,
        cycle_s=cycle_s,
        uncommitted_updates=uncommitted_updates,
        held_updates=len(region.held),
        checkpoint_version=checkpoint_version,
        publication=0 if state.published is None else state.published.number,
        holds_token=region.holds_token,
        peers={peer: ReplicaStatus(replica.lineage, replica.number, replica.age) for peer, replica in replicas},
        devices={name: _device(region, name) for name in names},
        commits=commits,
        updates_accepted=region.counts.accepted,
        repeats=region.counts.repeats,
        rejected=dict(region.counts.rejected),
        merges=region.counts.merges,
    )


def _device(region: Region, name: str) -> DeviceStatus:
    link = region.links.get(name)
    return DeviceStatus(
        connected=link is not None,
        last_sequence=region.ledger.last_sequence(name),
        updates=region.ledger.updates_of(name),
        seconds_per_step=region.planner.seconds_per_step(name),
        base=None if link is None else link.base,
        offered=None if link is None else link.in_flight,
    )
