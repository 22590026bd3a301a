"""A small, complete run record for the lab's tests."""

from collections.abc import Callable
from typing import Any, Literal

import msgspec
import pytest

from testbed.run_record import (
    CentralPoint,
    CentralRecord,
    DeviceRecord,
    DeviceWorld,
    EvaluationPoint,
    ModelRecord,
    RegionRecord,
    RegionWorld,
    RunRecord,
    Traffic,
    TrafficRecord,
    UpdatePoint,
    WorldRecord,
)

NOTHING = Traffic(messages=0, payload_bytes=0, frame_bytes=0, dense_bytes=0)


def make_device(name: str, steps: int, seconds_per_step: float, updates: int = 10) -> DeviceRecord:
    """A device that took `steps` in each of its updates."""
    return DeviceRecord(
        name=name,
        region="north",
        profile="raspberry-pi-4b",
        updates=tuple(
            UpdatePoint(
                at_s=float(number),
                sequence=number,
                steps=steps,
                seconds_per_step=seconds_per_step,
                staleness=1.0,
                weight=0.5,
                loss=0.7,
                payload_bytes=400,
                frame_bytes=500,
            )
            for number in range(1, updates + 1)
        ),
        uptime_s=60.0,
        training_s=updates * steps * seconds_per_step,
        idle_s=1.2,
        idle_share=0.02,
        cycles=updates,
        steps=updates * steps,
        resident_bytes=80_000_000,
        sent_bytes=5_000,
        received_bytes=50_000,
        last_error=None,
    )


def make_evaluation(at_s: float, kind: Literal["regional", "federated"], accuracy: float) -> EvaluationPoint:
    """One evaluation on a thousand examples."""
    return EvaluationPoint(at_s=at_s, version=1, age=1.0, kind=kind, accuracy=accuracy, examples=1000, loss=0.5)


@pytest.fixture
def without_accuracy(record: Callable[..., RunRecord]) -> Callable[..., RunRecord]:
    """The same run on a task with squared errors."""

    def make(**changes: Any) -> RunRecord:
        whole = record()
        replace = msgspec.structs.replace
        regions = tuple(
            replace(one, evaluations=tuple(replace(point, accuracy=None) for point in one.evaluations))
            for one in whole.regions
        )
        assert whole.central is not None
        points = tuple(CentralPoint(steps=steps, accuracy=None, loss=loss) for steps, loss in ((1, 0.25), (2, 0.75)))
        central = replace(whole.central, accuracy=None, points=points)
        return record(**({"regions": regions, "central": central} | changes))

    return make


@pytest.fixture
def device() -> Callable[..., DeviceRecord]:
    return make_device


@pytest.fixture
def record() -> Callable[..., RunRecord]:
    """A run in which every goal held; arguments replace fields."""

    def make(**changes: Any) -> RunRecord:
        devices = (make_device("fast", 40, 0.01), make_device("slow", 10, 0.04))
        evaluations = (
            make_evaluation(5.0, "regional", 0.5),
            make_evaluation(9.0, "regional", 0.82),
            make_evaluation(9.0, "federated", 0.1),
        )
        whole = RunRecord(
            scenario="small",
            description="",
            recipe="default",
            stages={},
            seed=1,
            command="skerry-lab run small",
            versions={"skerry": "0"},
            started_at=1.7e9,
            elapsed_s=60.0,
            ended="duration over",
            world=WorldRecord(
                regions=(RegionWorld(name="north", coordinator="north-1", devices=("fast", "slow")),),
                devices=tuple(
                    DeviceWorld(
                        name=one.name, region="north", profile=one.profile, duty_cycle=0.1, data="", examples=100
                    )
                    for one in devices
                ),
                links=(),
                shaping="relay",
            ),
            model=ModelRecord(
                task="activity", parameters=10_000, classes=6, bundle_sha256="0" * 64, held_out_examples=1000
            ),
            central=CentralRecord(
                accuracy=0.84,
                examples=4000,
                epochs=40.0,
                batch_examples=32,
                learning_rate=0.05,
                elapsed_s=1.0,
                points=(),
            ),
            regions=(
                RegionRecord(
                    name="north", coordinator="north-1", version=20, age=20.0, evaluations=evaluations, merges=()
                ),
            ),
            devices=devices,
            traffic=TrafficRecord(
                up=Traffic(messages=20, payload_bytes=8_000, frame_bytes=10_000, dense_bytes=800_000),
                down=NOTHING,
                peers=NOTHING,
            ),
            verdicts=(),
        )
        return msgspec.structs.replace(whole, **changes)

    return make
