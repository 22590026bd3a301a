"""Plans are data: the same for the same seed, of every kind, over in time, and fair to whom they spare."""

from collections import Counter
from typing import get_args

import pytest

from tests.simulation.fault_runs.plan import (
    EVERYBODY,
    FAULTS_BEGIN_S,
    FAULTS_END_S,
    ClockJump,
    Crash,
    Fault,
    HolderCrash,
    Partition,
    PostTwice,
    ToAndFro,
    draw_plan,
)

SEEDS = range(400)
PLANS = [draw_plan(seed) for seed in SEEDS]


def test_a_seed_gives_the_same_plan_again() -> None:
    assert [draw_plan(seed) for seed in SEEDS] == PLANS
    assert len({plan.describe() for plan in PLANS}) == len(PLANS)


def test_a_plan_can_be_read() -> None:
    told = PLANS[0].describe().splitlines()
    assert told[0] == "seed: 0"
    assert told[-1] == str(PLANS[0].faults[-1])


@pytest.mark.parametrize("kind", get_args(Fault))
def test_every_kind_of_fault_comes(kind: type) -> None:
    found = Counter(type(fault) for plan in PLANS for fault in plan.faults)
    assert found[kind] >= 20


def test_crashes_are_kills_and_power_cuts_of_devices_and_coordinators_at_any_callback() -> None:
    crashes = [(plan, fault) for plan in PLANS for fault in plan.faults if isinstance(fault, Crash)]
    found = Counter((fault.machine in plan.coordinators, fault.power) for plan, fault in crashes)
    assert len(found) == 4
    assert min(found.values()) > len(crashes) / 10
    assert len({fault.callbacks for _, fault in crashes}) > 100


def test_faults_come_in_order_and_end_in_time() -> None:
    for plan in PLANS:
        times = [fault.at_s for fault in plan.faults]
        assert times == sorted(times)
        assert min(times, default=FAULTS_BEGIN_S) >= FAULTS_BEGIN_S - 1.5
        ends = [fault.at_s + getattr(fault, "lasts_s", 0.0) for fault in plan.faults]
        silences = [fault.at_s + fault.lasts_s for fault in plan.faults if isinstance(fault, Partition)]
        assert max(ends, default=0.0) <= max([FAULTS_END_S, *silences])  # whatever is left is healed then


def test_whom_a_plan_spares_has_no_trouble_of_its_own() -> None:
    spared = [plan for plan in PLANS if plan.spared is not None]
    assert 100 < len(spared) < 300
    for plan in spared:
        calm = {plan.spared} | {device for device, homes in plan.homes.items() if homes[0] == plan.spared}
        for fault in plan.faults:
            if isinstance(fault, PostTwice):
                continue  # what a peer said comes again: trouble of the peer's making
            if isinstance(fault, ClockJump):
                continue  # which decides nothing, anywhere
            if isinstance(fault, Partition) and fault.b in plan.homes.keys() - calm:
                continue  # a device that wanders: its own trouble
            for name in ("a", "machine", "device"):
                assert getattr(fault, name, None) not in calm
        assert all(plan.homes[name] == (plan.spared,) for name in calm if name in plan.homes)


def test_whoever_goes_to_and_fro_has_two_coordinators_and_nothing_else_in_its_way() -> None:
    going = [(plan, fault) for plan in PLANS for fault in plan.faults if isinstance(fault, ToAndFro)]
    beside = 0
    for plan, fault in going:
        own, other = plan.homes[fault.device]
        assert plan.spared not in {own, other}
        assert sum(homes[0] == own for homes in plan.homes.values()) > 1
        others = [one for one in plan.faults if one is not fault]
        beside += len(others)
        for one in others:
            assert not isinstance(one, HolderCrash)
            names = {getattr(one, name, None) for name in ("a", "b", "machine", "device", "coordinator")}
            assert not names & {fault.device, own, other, EVERYBODY}
    assert beside > len(going)


def test_every_region_has_devices_and_some_devices_wander() -> None:
    for plan in PLANS:
        assert {homes[0] for homes in plan.homes.values()} == set(plan.coordinators)
        assert plan.homes.keys() == plan.step_s.keys()
    assert sum(len(homes) > 1 for plan in PLANS for homes in plan.homes.values()) > 50
    assert any(getattr(fault, "b", None) == EVERYBODY for plan in PLANS for fault in plan.faults)
