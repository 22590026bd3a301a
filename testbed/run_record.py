"""What a lab run was and what came out of it: the one object between the labs and the report.

A lab fills a `RunRecord` and stores it as `record.json` in its output folder; everything that is shown afterwards is
made from that file alone. While it runs, the lab publishes `LiveState`s. No I/O except `write` and `read`.

Times named `at_s` are seconds since the run's processes were started.
"""

from pathlib import Path
from typing import Any, Literal

import msgspec

from skerry.errors import ConfigError
from testbed import whole_file

FILE_NAME = "record.json"
FORMAT_VERSION = 1


class LinkRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One link of the world, between a device and its coordinator or between two coordinators."""

    a: str  # device or coordinator
    b: str  # coordinator
    latency_s: float  # one way, each direction
    a_to_b_bits_per_s: float | None  # None: not limited
    b_to_a_bits_per_s: float | None


class DeviceWorld(msgspec.Struct, frozen=True, kw_only=True):
    """What a device is."""

    name: str
    region: str
    profile: str  # device type, a name in profiles/
    duty_cycle: float  # share of the time that a local step may compute, in (0, 1]
    data: str  # its data source
    examples: int  # training examples on the device


class RegionWorld(msgspec.Struct, frozen=True, kw_only=True):
    """A region and its coordinator."""

    name: str
    coordinator: str
    devices: tuple[str, ...]


class WorldRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Where the run took place."""

    regions: tuple[RegionWorld, ...]
    devices: tuple[DeviceWorld, ...]
    links: tuple[LinkRecord, ...]
    shaping: str  # what emulates the links, e.g. "relay" (asyncio, user space)


class ModelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is learned."""

    task: str
    parameters: int  # of them float buffers included
    classes: int
    bundle_sha256: str
    held_out_examples: int  # what every accuracy of the run is measured on


class CentralPoint(msgspec.Struct, frozen=True, kw_only=True):
    """The central model after so many steps."""

    steps: int
    accuracy: float | None  # in [0, 1], on the held-out examples; None: the task has none
    loss: float


class CentralRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The same model trained in one place on all devices' rows: what federated training is measured against."""

    accuracy: float | None  # of the best point, in [0, 1]: the harder mark; None: the task has none
    examples: int  # training rows
    epochs: float
    batch_examples: int
    learning_rate: float
    elapsed_s: float
    points: tuple[CentralPoint, ...]

    @property
    def loss(self) -> float | None:
        """The lowest of all points, None where there is none."""
        return min((point.loss for point in self.points), default=None)


class EvaluationPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One evaluation by a coordinator on the held-out rows."""

    at_s: float
    version: int
    age: float
    kind: Literal["regional", "federated"]
    accuracy: float | None  # in [0, 1]; None: the task has none
    examples: int
    loss: float


class MergePoint(msgspec.Struct, frozen=True, kw_only=True):
    """A peer's model merged into a region's."""

    at_s: float
    version: int
    peer: str
    weight: float
    age: float  # after the merge


class RegionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a coordinator did."""

    name: str
    coordinator: str
    version: int  # at the end
    age: float
    evaluations: tuple[EvaluationPoint, ...]  # in time
    merges: tuple[MergePoint, ...]

    def accuracy(self, kind: Literal["regional", "federated"]) -> float | None:
        """Return the accuracy of the last evaluation of that kind, None before the first or where there is none."""
        point = self._last(kind)
        return None if point is None else point.accuracy

    def loss(self, kind: Literal["regional", "federated"]) -> float | None:
        """Return the loss of the last evaluation of that kind, None before the first."""
        point = self._last(kind)
        return None if point is None else point.loss

    def _last(self, kind: Literal["regional", "federated"]) -> EvaluationPoint | None:
        return next((point for point in reversed(self.evaluations) if point.kind == kind), None)


class UpdatePoint(msgspec.Struct, frozen=True, kw_only=True):
    """One update as it stands in a coordinator's journal."""

    at_s: float
    sequence: int
    steps: int
    seconds_per_step: float
    staleness: float  # by how much the region's age rose since the update's base
    weight: float | None  # None: still held by a buffering arrival rule
    loss: float
    payload_bytes: int  # the encoded sparse vector
    frame_bytes: int  # all frames that brought it


class DeviceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a device did."""

    name: str
    region: str
    profile: str
    updates: tuple[UpdatePoint, ...]  # in the order of the journal
    uptime_s: float
    training_s: float
    idle_s: float  # with nothing to train on
    idle_share: float  # idle_s / uptime_s, in [0, 1]
    cycles: int
    steps: int
    resident_bytes: int
    sent_bytes: int
    received_bytes: int
    last_error: str | None


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes in one direction against what the same messages would have cost as dense float32."""

    messages: int  # up: updates; down: models, one for each update; peers: published models that were merged
    payload_bytes: int | None  # encoded vectors alone; None: not told apart from the rest
    frame_bytes: int  # everything sent: payload, envelope, heartbeats
    dense_bytes: int  # messages * parameters * 4

    @property
    def saving(self) -> float:
        """How many times smaller than dense: dense_bytes / frame_bytes, 0 where nothing was sent."""
        return self.dense_bytes / self.frame_bytes if self.frame_bytes else 0.0


class TrafficRecord(msgspec.Struct, frozen=True, kw_only=True):
    """All traffic of the run."""

    up: Traffic  # devices to coordinators
    down: Traffic  # coordinators to devices
    peers: Traffic  # between coordinators


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One goal of the scenario and whether it held."""

    goal: str  # key in the scenario, e.g. "points_below_central_max"
    subject: str  # region, device or "run"
    statement: str  # e.g. "eu within 3.0 points of central (94.1 %)"
    measured: float | None  # None: there was nothing to measure
    bound: float
    unit: str  # "points", "share", "ratio", "updates"
    holds: bool


class FailureRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Why a run did not come to its end."""

    process: str  # "" where no single process is to blame
    reason: str
    log_tail: tuple[str, ...]  # last lines of that process


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one run."""

    scenario: str
    description: str
    recipe: str
    stages: dict[str, Any]  # the recipe's tables
    seed: int
    command: str
    versions: dict[str, str]  # package or system -> version
    started_at: float  # unix seconds, of at_s = 0
    elapsed_s: float  # of training: from the start of the processes to their stop
    ended: Literal["goals held", "duration over", "interrupted", "failed"]
    world: WorldRecord
    model: ModelRecord
    central: CentralRecord | None
    regions: tuple[RegionRecord, ...]
    devices: tuple[DeviceRecord, ...]
    traffic: TrafficRecord
    verdicts: tuple[Verdict, ...]
    failure: FailureRecord | None = None
    format_version: int = FORMAT_VERSION

    @property
    def passed(self) -> bool:
        """Whether the run came to its end, goals were set and every one of them held."""
        return self.failure is None and bool(self.verdicts) and all(verdict.holds for verdict in self.verdicts)


def write(record: RunRecord, folder: Path) -> Path:
    """Store `record` as `folder/record.json`, written beside and renamed; return the path."""
    return whole_file.write_json(folder / FILE_NAME, record)


def read(folder: Path) -> RunRecord:
    """Read what `write` stored.

    Raises:
        ConfigError: there is no record in `folder`, or it is not one of this format.
    """
    path = folder / FILE_NAME
    try:
        record = msgspec.json.decode(path.read_bytes(), type=RunRecord)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; is {folder} the output of a run?") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path}: no run record: {error}") from error
    if record.format_version != FORMAT_VERSION:
        raise ConfigError(f"{path}: format {record.format_version}, this version reads {FORMAT_VERSION}")
    return record


class LiveRegion(msgspec.Struct, frozen=True, kw_only=True):
    """A region, now."""

    name: str
    coordinator: str
    reachable: bool
    version: int = 0
    age: float = 0.0
    updates: int = 0
    devices_connected: int = 0
    regional_accuracy: float | None = None  # newest evaluation
    federated_accuracy: float | None = None
    regional_loss: float | None = None
    federated_loss: float | None = None


class LiveDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A device, now."""

    name: str
    region: str
    profile: str
    connected: bool = False
    updates: int = 0
    steps_per_cycle: int = 0
    seconds_per_step: float | None = None
    idle_share: float | None = None
    sent_bytes: int = 0
    last_loss: float | None = None


class LiveState(msgspec.Struct, frozen=True, kw_only=True):
    """The whole run, now."""

    scenario: str
    phase: Literal["starting", "central baseline", "training", "stopping", "collecting"]
    at_s: float
    duration_s: float
    central_accuracy: float | None
    central_loss: float | None = None
    regions: tuple[LiveRegion, ...]
    devices: tuple[LiveDevice, ...]
