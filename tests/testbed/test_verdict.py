"""A goal holds when, and only when, what was measured is on its right side."""

from collections.abc import Callable

import msgspec
import pytest

from testbed.run_record import DeviceRecord, RunRecord, Verdict
from testbed.scenario import Goals
from testbed.verdict import judge

Make = Callable[..., RunRecord]
MakeDevice = Callable[..., DeviceRecord]


def verdict(record: RunRecord, goal: str, **goals: object) -> Verdict:
    found = [one for one in judge(Goals(**goals), record) if one.goal == goal]  # type: ignore[arg-type]
    assert len(found) == 1
    return found[0]


def test_a_good_run_holds_every_goal(record: Make) -> None:
    verdicts = judge(Goals(), record())
    assert [one.goal for one in verdicts] == [
        "points_below_central_max",
        "updates_min",
        "idle_share_max",
        "steps_to_speed_error_max",
        "uplink_saving_min",
    ]
    assert all(one.holds for one in verdicts)


def test_goals_that_are_not_asked_for_are_not_judged(record: Make) -> None:
    goals = Goals(None, None, None, None, None)
    assert judge(goals, record()) == ()
    assert not record().passed


def test_accuracy_is_that_of_the_regions_own_last_model(record: Make) -> None:
    near = verdict(record(), "points_below_central_max")
    assert near.measured == pytest.approx(2.0)
    assert near.subject == "north"
    assert not verdict(record(), "points_below_central_max", points_below_central_max=1.9).holds


def test_points_of_accuracy_are_no_goal_where_the_task_has_none(without_accuracy: Make) -> None:
    goals = [one.goal for one in judge(Goals(), without_accuracy())]
    assert goals == ["updates_min", "idle_share_max", "steps_to_speed_error_max", "uplink_saving_min"]


def test_a_region_that_was_never_evaluated_fails(record: Make) -> None:
    region = msgspec.structs.replace(record().regions[0], evaluations=())
    near = verdict(record(regions=(region,)), "points_below_central_max")
    assert near.measured is None
    assert not near.holds


def test_without_a_central_model_there_is_nothing_to_be_near_to(record: Make) -> None:
    assert not verdict(record(central=None), "points_below_central_max").holds


def test_one_device_that_sent_nothing_is_named(record: Make, device: MakeDevice) -> None:
    devices = (device("fast", 40, 0.01), device("lost", 10, 0.04, updates=0))
    contributed = verdict(record(devices=devices), "updates_min")
    assert (contributed.subject, contributed.measured, contributed.holds) == ("lost", 0, False)


def test_an_update_without_weight_is_no_contribution(record: Make, device: MakeDevice) -> None:
    held = device("held", 10, 0.04)
    updates = tuple(msgspec.structs.replace(update, weight=None) for update in held.updates)
    devices = (device("fast", 40, 0.01), msgspec.structs.replace(held, updates=updates))
    assert not verdict(record(devices=devices), "updates_min").holds


def test_the_idlest_device_counts_and_a_silent_one_does_not_pass(record: Make, device: MakeDevice) -> None:
    idle = msgspec.structs.replace(device("idle", 10, 0.04), idle_share=0.05)
    measured = verdict(record(devices=(device("fast", 40, 0.01), idle)), "idle_share_max")
    assert (measured.subject, measured.measured, measured.holds) == ("idle", 0.05, False)
    silent = msgspec.structs.replace(device("silent", 10, 0.04), idle_share=0.0, uptime_s=0.0)
    assert not verdict(record(devices=(silent,)), "idle_share_max").holds


@pytest.mark.parametrize(("slow_steps", "error"), [(10, 0.0), (12, 0.2), (8, 0.25), (40, 3.0)])
def test_steps_are_compared_with_what_devices_really_did(
    record: Make, device: MakeDevice, slow_steps: int, error: float
) -> None:
    devices = (device("fast", 40, 0.01), device("slow", slow_steps, 0.04))
    measured = verdict(record(devices=devices), "steps_to_speed_error_max")
    assert measured.measured == pytest.approx(error)
    assert measured.holds == (error <= 0.2 + 1e-9)


def test_a_device_of_unknown_speed_fails_the_comparison(record: Make, device: MakeDevice) -> None:
    devices = (device("fast", 40, 0.01), device("lost", 10, 0.04, updates=0))
    assert not verdict(record(devices=devices), "steps_to_speed_error_max").holds


def test_the_uplink_is_held_to_every_byte_that_was_sent(record: Make) -> None:
    saved = verdict(record(), "uplink_saving_min")
    assert saved.measured == pytest.approx(80.0)
    assert not verdict(record(), "uplink_saving_min", uplink_saving_min=81.0).holds


def test_a_run_passes_with_goals_that_hold_and_no_failure(record: Make) -> None:
    whole = record(verdicts=judge(Goals(), record()))
    assert whole.passed
    failed = msgspec.structs.replace(whole.verdicts[0], holds=False)
    assert not record(verdicts=(*whole.verdicts, failed)).passed
