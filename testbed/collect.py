"""What a run left behind, read from the services' own state: coordinators' journals and agents' status files."""

from pathlib import Path

from coordinator.history import History, read_history
from edge_agent import status as agent_status
from edge_agent.status import Status
from testbed.run_record import (
    DeviceRecord,
    EvaluationPoint,
    MergePoint,
    ModelRecord,
    RegionRecord,
    Traffic,
    TrafficRecord,
    UpdatePoint,
)
from testbed.scenario import Device, Region, Scenario

VALUE_BYTES = 4  # of a dense float32 entry


def collect(
    scenario: Scenario, model: ModelRecord, folder: Path, started_at: float
) -> tuple[tuple[RegionRecord, ...], tuple[DeviceRecord, ...], TrafficRecord]:
    """Read the state in `folder`, also while the services run; what does not exist yet is empty.

    Args:
        scenario: what was run.
        model: of the task; says what a dense message would have cost.
        folder: of the run.
        started_at: Unix time that `at_s` counts from.

    Raises:
        StorageError: a database or a status file cannot be read.
    """
    histories = {region.name: read_history(folder / "state" / region.coordinator) for region in scenario.regions}
    statuses = {device.name: agent_status.read(folder / "state" / device.name) for _, device in scenario.devices()}
    return (
        tuple(_region(region, histories[region.name], started_at) for region in scenario.regions),
        tuple(
            _device(region, device, histories[region.name], statuses[device.name], started_at)
            for region, device in scenario.devices()
        ),
        _traffic(list(histories.values()), model.parameters * VALUE_BYTES),
    )


def _region(region: Region, history: History, started_at: float) -> RegionRecord:
    applied = [(row.version, row.age) for row in history.updates if row.version is not None and row.age is not None]
    changes = applied + [(merge.version, merge.age) for merge in history.merges]
    version, age = max(changes, default=(0, 0.0))
    return RegionRecord(
        name=region.name,
        coordinator=region.coordinator,
        version=version,
        age=age,
        evaluations=tuple(
            EvaluationPoint(
                at_s=row.at_s - started_at,
                version=row.version,
                age=row.age,
                kind=row.kind,
                accuracy=None if row.correct is None else row.correct / row.examples,
                examples=row.examples,
                loss=row.loss,
            )
            for row in history.evaluations
        ),
        merges=tuple(
            MergePoint(at_s=row.at_s - started_at, version=row.version, peer=row.peer, weight=row.weight, age=row.age)
            for row in history.merges
        ),
    )


def _device(region: Region, device: Device, history: History, status: Status | None, started_at: float) -> DeviceRecord:
    return DeviceRecord(
        name=device.name,
        region=region.name,
        profile=device.profile,
        updates=tuple(
            UpdatePoint(
                at_s=row.received_at_s - started_at,
                sequence=row.sequence,
                steps=row.steps,
                seconds_per_step=row.seconds_per_step,
                staleness=row.staleness,
                weight=row.weight,
                loss=row.loss,
                payload_bytes=row.payload_bytes,
                frame_bytes=row.frame_bytes,
            )
            for row in history.updates
            if row.device == device.name
        ),
        uptime_s=status.uptime_s if status else 0.0,
        training_s=status.training_s if status else 0.0,
        idle_s=status.idle_s if status else 0.0,
        idle_share=status.idle_share if status else 0.0,
        cycles=status.cycles if status else 0,
        steps=status.steps if status else 0,
        resident_bytes=status.resident_bytes if status else 0,
        sent_bytes=status.sent_bytes if status else 0,
        received_bytes=status.received_bytes if status else 0,
        last_error=(status.last_error or None) if status else None,
    )


def _traffic(histories: list[History], dense_bytes: int) -> TrafficRecord:
    """Add up what coordinators counted: every frame that they received and sent, heartbeats and telemetry included."""
    updates = [row for history in histories for row in history.updates]
    merges = sum(len(history.merges) for history in histories)
    devices = [counted for history in histories for counted in history.traffic if counted.party == "device"]
    peers = [counted for history in histories for counted in history.traffic if counted.party == "peer"]
    return TrafficRecord(
        up=Traffic(
            messages=len(updates),
            payload_bytes=sum(row.payload_bytes for row in updates),
            frame_bytes=sum(counted.received_bytes for counted in devices),
            dense_bytes=len(updates) * dense_bytes,
        ),
        down=Traffic(
            messages=len(updates),
            payload_bytes=None,
            frame_bytes=sum(counted.sent_bytes for counted in devices),
            dense_bytes=len(updates) * dense_bytes,
        ),
        peers=Traffic(
            messages=merges,
            payload_bytes=None,
            frame_bytes=sum(counted.sent_bytes for counted in peers),
            dense_bytes=merges * dense_bytes,
        ),
    )
