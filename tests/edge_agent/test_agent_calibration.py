from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.calibration import CYCLES, REST_SECONDS_MIN, DutyCycle, SpeedEstimate

steady = st.floats(0.9, 1.1)
cycles = st.lists(st.lists(steady, min_size=1, max_size=30), min_size=3, max_size=20)


@given(cycles, st.data())
def test_one_spoilt_cycle_never_moves_the_estimate_beyond_what_the_others_said(
    clean: list[list[float]], data: st.DataObject
) -> None:
    estimate = SpeedEstimate([1.0, 1.05, 0.95])
    spoilt = data.draw(st.integers(0, len(clean) - 1))
    spike = data.draw(st.floats(1e-6, 1e6))
    for number, seconds in enumerate(clean):
        estimate.observe([spike] * len(seconds) if number == spoilt else seconds)
        assert 0.9 <= estimate.seconds_per_step <= 1.1


@given(st.lists(steady, min_size=3, max_size=30), st.integers(0, 29), st.floats(1e-6, 1e6))
def test_one_slow_step_does_not_move_the_estimate_of_its_cycle(
    seconds: list[float], position: int, spike: float
) -> None:
    estimate = SpeedEstimate(seconds)
    spiked = list(seconds)
    spiked[position % len(seconds)] = spike
    estimate.observe(spiked)
    assert min(seconds) <= estimate.seconds_per_step <= max(seconds)


@given(st.lists(st.lists(steady, min_size=1, max_size=5), max_size=10), st.floats(0.01, 100.0))
def test_a_board_that_throttles_is_followed_within_three_cycles(before: list[list[float]], factor: float) -> None:
    estimate = SpeedEstimate([1.0])
    for seconds in before:
        estimate.observe(seconds)
    for _ in range(CYCLES // 2 + 1):
        estimate.observe([factor])
    low, high = sorted((factor, 1.0))
    assert estimate.seconds_per_step == factor or low * 0.9 <= estimate.seconds_per_step <= high * 1.1
    for _ in range(CYCLES):
        estimate.observe([factor])
    assert estimate.seconds_per_step == factor


def test_three_throttled_cycles_are_enough() -> None:
    estimate = SpeedEstimate([1.0])
    for _ in range(3):
        estimate.observe([4.0, 4.0])
    assert estimate.seconds_per_step == 4.0


@given(
    st.floats(0.05, 1.0),
    st.lists(st.floats(1e-5, 0.05), min_size=1, max_size=200),
    st.floats(0.0, 1e-3),
)
def test_the_duty_cycle_is_kept_however_short_the_steps_and_however_late_the_sleeps(
    share: float, steps: list[float], oversleep_s: float
) -> None:
    duty = DutyCycle(share)
    taken: list[float] = []
    rests: list[float] = []
    for number, seconds in enumerate(steps):
        rest_s = duty.worked(seconds, last=number == len(steps) - 1)
        if rest_s is not None:
            slept_s = rest_s + oversleep_s if rest_s > 0 else 0.0
            rests.append(rest_s)
            taken += duty.rested(slept_s)
    assert len(taken) == len(steps)
    assert sum(taken) == pytest.approx(sum(steps) / share, abs=oversleep_s + 1e-9)
    assert all(rest_s >= REST_SECONDS_MIN for rest_s in rests[:-1] if rest_s > 0 and share < 1.0)


def test_steps_that_share_a_rest_all_count_it() -> None:
    duty = DutyCycle(0.25)
    taken: list[float] = []
    for _ in range(70):
        rest_s = duty.worked(1e-4)
        if rest_s is not None:
            taken += duty.rested(rest_s)
    assert median(taken) == pytest.approx(4e-4)


def test_a_device_at_full_duty_never_rests_and_times_each_step() -> None:
    duty = DutyCycle(1.0)
    for seconds in (0.1, 0.2):
        assert duty.worked(seconds) == 0.0
        assert duty.rested(0.0) == [seconds]


def test_waiting_for_the_processor_is_not_paid_for_with_rest() -> None:
    duty = DutyCycle(0.25)
    assert duty.worked(0.5, computed_s=0.01) == pytest.approx(0.03)
    assert duty.rested(0.03) == [pytest.approx(0.53)]
