"""Fast and slow devices finish a cycle together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.algorithms.local_steps import Cycle, Fixed

speeds = st.lists(st.floats(1e-5, 1e3), min_size=1, max_size=20)


def test_median_device_takes_the_median_steps() -> None:
    rule = Cycle(steps_median=20, cycle_min_s=0.01, cycle_max_s=100.0)
    cycle_s = rule.cycle_s([0.01, 0.02, 0.08])
    assert cycle_s == pytest.approx(0.4)
    assert [rule.steps(cycle_s, speed) for speed in (0.01, 0.02, 0.08)] == [40, 20, 5]


@pytest.mark.parametrize(("speed", "cycle_s"), [(1e-6, 0.5), (0.1, 2.0), (1e3, 30.0)])
def test_cycle_is_clamped(speed: float, cycle_s: float) -> None:
    assert Cycle(steps_median=20, cycle_min_s=0.5, cycle_max_s=30.0).cycle_s([speed]) == pytest.approx(cycle_s)


def test_unknown_speeds_give_the_shortest_cycle() -> None:
    assert Cycle(cycle_min_s=0.5).cycle_s([]) == 0.5


@given(speeds, st.floats(1e-9, 1e6))
def test_every_device_takes_a_step_and_none_too_many(others: list[float], own: float) -> None:
    rule = Cycle(steps_max=100)
    cycle_s = rule.cycle_s(others)
    steps = rule.steps(cycle_s, own)
    assert 1 <= steps <= 100
    if 1 < steps < 100:
        assert abs(steps * own - cycle_s) <= 0.5 * own + 1e-9, "within half a step of the cycle"


def test_fixed_steps_ignore_speed() -> None:
    rule = Fixed(steps_per_cycle=7)
    assert rule.steps(1.0, 0.001) == rule.steps(1.0, 1e6) == 7
    assert rule.cycle_s([1.0, 2.0, 30.0]) == 14.0


@given(st.lists(st.floats(1e-9, 1e6), max_size=5))
def test_fixed_cycle_fits_a_plan(speeds: list[float]) -> None:
    assert 0.0 < Fixed().cycle_s(speeds) <= 86400.0
