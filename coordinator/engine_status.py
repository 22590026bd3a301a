"""What a region's engine tells about itself."""

from dataclasses import dataclass

import msgspec

from skerry.protocol.messages import ModelVersion
from skerry.vector import Float32


@dataclass(frozen=True, slots=True, eq=False)
class ModelSnapshot:
    """A copy of a model, every update in it on disk."""

    version: ModelVersion  # of the regional model, also where the federated one was asked for
    age: float
    values: Float32  # shape (size,)


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
