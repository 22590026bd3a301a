"""What a region's engine tells about itself."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import msgspec

from coordinator.model_state import ModelState, Replica
from coordinator.region import Region
from coordinator.region_state import RegionSettings
from skerry.protocol.messages import ModelVersion, Pace, PeerStatus, Telemetry
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
    pace: Pace | None  # None: it is not connected, or has not told yet
    reasons: tuple[str, ...]  # of the pace, the worst first
    quarantine: str  # why its updates are not let in; "": they are


class HeldOutStatus(msgspec.Struct, frozen=True):
    """How the model does on the devices' own held-out rows: sums over the newest evaluations of those connected.

    Of a task whose predictions are neither right nor wrong, nothing is ever correct.
    """

    examples: int = 0
    correct: int = 0  # of them, by the regional model
    loss_sum: float = 0.0  # over them
    personal_examples: int = 0  # of them, those of devices that have an own head
    personal_correct: int = 0  # of the latter, with the own head
    oldest_version: int | None = None  # of the models that were scored; None: no device has said
    newest_version: int | None = None


class ReplicaStatus(msgspec.Struct, frozen=True):
    """What is held of a peer."""

    lineage: str
    publication: int
    age: float
    refused: str = ""  # why it does not count; "": it does


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a region in numbers; counts are since the process started."""

    lineage: str
    version: int
    age: float
    cycle_s: float
    uncommitted_updates: int
    held_updates: int
    round: int | None  # None: the arrival rule knows none
    server_rate: float | None  # None: the arrival rule controls none
    waits_for_peers: bool
    checkpoint_version: int
    publication: int
    holds_token: bool
    peers: dict[str, ReplicaStatus]
    devices: dict[str, DeviceStatus]
    paces: dict[str, int]  # devices of each Pace
    held_out: HeldOutStatus
    commits: int
    updates_accepted: int
    repeats: int
    taken_back: int
    rejected: dict[str, int]
    alarms: int  # of the guard
    merges: int
    peer_models_refused: dict[str, int]  # by peer


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
    quarantined = region.quarantined
    refused = region.refused_peers
    names = sorted({*region.links, *region.ledger, *quarantined})
    replicas = sorted(state.replicas.items())
    told = [link.told for link in region.links.values() if link.told is not None]
    paces = Counter(one.pace for one in told)
    return EngineStatus(
        lineage=region.lineage,
        version=state.version,
        age=state.age,
        cycle_s=cycle_s,
        uncommitted_updates=uncommitted_updates,
        held_updates=len(region.held),
        round=region.round,
        server_rate=region.server_rate,
        waits_for_peers=region.waits_for_peers,
        checkpoint_version=checkpoint_version,
        publication=0 if state.published is None else state.published.number,
        holds_token=region.holds_token,
        peers={peer: _replica(replica, refused.get(peer, "")) for peer, replica in replicas},
        devices={name: _device(region, name, quarantined) for name in names},
        paces={pace: paces[pace] for pace in get_args(Pace)},
        held_out=_held_out(told),
        commits=commits,
        updates_accepted=region.counts.accepted,
        repeats=region.counts.repeats,
        taken_back=region.counts.taken_back,
        rejected=dict(region.counts.rejected),
        alarms=region.counts.alarms,
        merges=region.counts.merges,
        peer_models_refused=dict(region.counts.peer_models_refused),
    )


def peer_status(settings: RegionSettings, region: Region, state: ModelState, bundle: str) -> PeerStatus:
    """Return what peers are told; `bundle` is its sha256."""
    return PeerStatus(
        coordinator=settings.name,
        region=settings.region,
        lineage=region.lineage,
        version=state.version,
        age=state.age,
        bundle=bundle,
        broadcast=region.broadcast,
        devices=len(region.links),
        url=settings.url,
        ledger=region.ledger_place,
    )


def _replica(replica: Replica, refused: str) -> ReplicaStatus:
    return ReplicaStatus(replica.lineage, replica.number, replica.age, refused)


def _device(region: Region, name: str, quarantined: Mapping[str, str]) -> DeviceStatus:
    link = region.links.get(name)
    told = None if link is None else link.told
    return DeviceStatus(
        connected=link is not None,
        last_sequence=region.ledger.last_sequence(name),
        updates=region.ledger.updates_of(name),
        seconds_per_step=region.planner.seconds_per_step(name),
        base=None if link is None else link.base,
        offered=None if link is None else link.in_flight,
        pace=None if told is None else told.pace,
        reasons=() if told is None else told.reasons,
        quarantine=quarantined.get(name, ""),
    )


def _held_out(told: Sequence[Telemetry]) -> HeldOutStatus:
    personal = [one for one in told if one.personal_correct is not None]
    versions = [one.held_out_version for one in told if one.held_out_version is not None]
    return HeldOutStatus(
        examples=sum(one.held_out_examples for one in told),
        correct=sum(one.held_out_correct for one in told),
        loss_sum=sum(one.held_out_loss_sum for one in told),
        personal_examples=sum(one.held_out_examples for one in personal),
        personal_correct=sum(one.personal_correct or 0 for one in personal),
        oldest_version=min(versions, default=None),
        newest_version=max(versions, default=None),
    )
