"""`summary.json`: what a run came to, in few numbers with fixed names, for scripts and comparisons.

The page shows these same numbers. docs/lab.md describes every field; a change of meaning raises `FORMAT_VERSION`.
Pure, but for `write`.
"""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Literal

import msgspec
import numpy as np

from testbed import whole_file
from testbed.run_record import CentralRecord, DeviceRecord, FailureRecord, RegionRecord, RunRecord, Traffic, Verdict

FILE_NAME = "summary.json"
FORMAT_VERSION = 1


class CentralSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The model trained in one place."""

    accuracy: float | None  # of its best point, in [0, 1]; None: the task has none
    loss: float | None  # the lowest of its points
    examples: int
    epochs: float


class RegionSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A region at the end of the run."""

    name: str
    coordinator: str
    devices: int
    version: int
    age: float
    updates: int  # in its journal
    merges: int  # of peers' models
    regional_accuracy: float | None  # of the last evaluation, in [0, 1]; None, too, where the task has none
    federated_accuracy: float | None
    regional_loss: float | None
    federated_loss: float | None
    points_below_central: float | None  # of the regional model, in percentage points


class Staleness(msgspec.Struct, frozen=True, kw_only=True):
    """How far the region's age had risen since the bases of a device's updates."""

    p5: float
    p25: float
    median: float
    p75: float
    p95: float
    max: float


class DeviceSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A device over the whole run. Ratios are to the slowest device of its region."""

    name: str
    region: str
    profile: str
    duty_cycle: float
    examples: int
    updates: int  # in the journal of its region
    steps: int
    steps_per_update: float | None  # median
    steps_per_s: float | None  # of training, over the whole run
    steps_ratio: float | None
    speed_ratio: float | None
    staleness: Staleness | None
    uptime_s: float
    idle_share: float
    resident_bytes: int
    sent_bytes: int
    received_bytes: int
    last_error: str | None


class TrafficSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes in one direction."""

    messages: int
    payload_bytes: int | None  # None: not told apart from the rest
    frame_bytes: int
    dense_bytes: int
    saving: float  # dense_bytes / frame_bytes, 0 where nothing was sent


class TrafficSummaries(msgspec.Struct, frozen=True, kw_only=True):
    """All directions."""

    up: TrafficSummary
    down: TrafficSummary
    peers: TrafficSummary


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The whole run."""

    format_version: int
    scenario: str
    recipe: str
    stages: dict[str, Any]
    seed: int
    command: str
    versions: dict[str, str]
    started_at: float  # unix seconds
    elapsed_s: float
    ended: Literal["goals held", "duration over", "interrupted", "failed"]
    passed: bool
    verdicts: tuple[Verdict, ...]
    task: str
    parameters: int
    bundle_sha256: str
    held_out_examples: int
    central: CentralSummary | None
    regions: tuple[RegionSummary, ...]
    devices: tuple[DeviceSummary, ...]
    traffic: TrafficSummaries
    failure: FailureRecord | None


def summarise(record: RunRecord) -> Summary:
    """Return the numbers of a run."""
    traffic = record.traffic
    return Summary(
        format_version=FORMAT_VERSION,
        scenario=record.scenario,
        recipe=record.recipe,
        stages=record.stages,
        seed=record.seed,
        command=record.command,
        versions=record.versions,
        started_at=record.started_at,
        elapsed_s=record.elapsed_s,
        ended=record.ended,
        passed=record.passed,
        verdicts=record.verdicts,
        task=record.model.task,
        parameters=record.model.parameters,
        bundle_sha256=record.model.bundle_sha256,
        held_out_examples=record.model.held_out_examples,
        central=_central(record.central),
        regions=tuple(_region(region, record) for region in record.regions),
        devices=tuple(_device(device, record) for device in record.devices),
        traffic=TrafficSummaries(up=_traffic(traffic.up), down=_traffic(traffic.down), peers=_traffic(traffic.peers)),
        failure=record.failure,
    )


def write(summary: Summary, folder: Path) -> Path:
    """Store `summary` as `folder/summary.json`, written beside and renamed; return the path."""
    return whole_file.write_json(folder / FILE_NAME, summary)


def steps_per_update(device: DeviceRecord) -> float | None:
    """Return the local steps of a typical update: the median; None without updates."""
    return float(median(update.steps for update in device.updates)) if device.updates else None


def steps_per_s(device: DeviceRecord) -> float | None:
    """Return the device's speed while it trained, over the whole run; None if it never did."""
    return device.steps / device.training_s if device.steps and device.training_s > 0.0 else None


def _central(central: CentralRecord | None) -> CentralSummary | None:
    if central is None:
        return None
    return CentralSummary(
        accuracy=central.accuracy, loss=central.loss, examples=central.examples, epochs=central.epochs
    )


def _region(region: RegionRecord, record: RunRecord) -> RegionSummary:
    members = [device for device in record.devices if device.region == region.name]
    regional = region.accuracy("regional")
    central = None if record.central is None else record.central.accuracy
    below = None if central is None or regional is None else 100.0 * (central - regional)
    return RegionSummary(
        name=region.name,
        coordinator=region.coordinator,
        devices=len(members),
        version=region.version,
        age=region.age,
        updates=sum(len(device.updates) for device in members),
        merges=len(region.merges),
        regional_accuracy=regional,
        federated_accuracy=region.accuracy("federated"),
        regional_loss=region.loss("regional"),
        federated_loss=region.loss("federated"),
        points_below_central=below,
    )


def _device(device: DeviceRecord, record: RunRecord) -> DeviceSummary:
    world = next(one for one in record.world.devices if one.name == device.name)
    slowest = _slowest(device.region, record)
    return DeviceSummary(
        name=device.name,
        region=device.region,
        profile=device.profile,
        duty_cycle=world.duty_cycle,
        examples=world.examples,
        updates=len(device.updates),
        steps=device.steps,
        steps_per_update=steps_per_update(device),
        steps_per_s=steps_per_s(device),
        steps_ratio=_ratio(device, slowest, steps_per_update),
        speed_ratio=_ratio(device, slowest, steps_per_s),
        staleness=_staleness([update.staleness for update in device.updates]),
        uptime_s=device.uptime_s,
        idle_share=device.idle_share,
        resident_bytes=device.resident_bytes,
        sent_bytes=device.sent_bytes,
        received_bytes=device.received_bytes,
        last_error=device.last_error,
    )


def _slowest(region: str, record: RunRecord) -> DeviceRecord | None:
    speeds = {
        device.name: speed
        for device in record.devices
        if device.region == region and device.updates and (speed := steps_per_s(device)) is not None
    }
    return min(
        (device for device in record.devices if device.name in speeds),
        key=lambda device: speeds[device.name],
        default=None,
    )


def _ratio(
    device: DeviceRecord, to: DeviceRecord | None, measure: Callable[[DeviceRecord], float | None]
) -> float | None:
    value, unit = measure(device), None if to is None else measure(to)
    return value / unit if value is not None and unit else None


def _staleness(values: list[float]) -> Staleness | None:
    if not values:
        return None
    p5, p25, p50, p75, p95, top = (float(value) for value in np.percentile(values, (5, 25, 50, 75, 95, 100)))
    return Staleness(p5=p5, p25=p25, median=p50, p75=p75, p95=p95, max=top)


def _traffic(traffic: Traffic) -> TrafficSummary:
    return TrafficSummary(
        messages=traffic.messages,
        payload_bytes=traffic.payload_bytes,
        frame_bytes=traffic.frame_bytes,
        dense_bytes=traffic.dense_bytes,
        saving=traffic.saving,
    )
