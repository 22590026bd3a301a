"""Wall clocks that are wrong, and processors that are uneven."""

import random
from math import exp
from statistics import mean, median, stdev

import pytest

from skerry.profile import Jitter, Lab, Throttling
from testbed.simulation.clock import START_S, WallClock
from testbed.simulation.speed import NormalSpeed, Speed


def test_a_clock_is_off_drifts_and_jumps() -> None:
    now_s = [0.0]
    clock = WallClock(lambda: now_s[0], offset_s=-3.0, drift=1e-4)
    assert clock() == START_S - 3.0
    now_s[0] = 1000.0
    assert clock() == pytest.approx(START_S + 1000.0 - 3.0 + 0.1)
    clock.jump(-60.0)
    assert clock() == pytest.approx(START_S + 1000.0 - 63.0 + 0.1)


def test_a_step_takes_the_profiles_time_with_its_spread() -> None:
    speed = Speed(0.02, Lab(slowdown=3.0, jitter=Jitter(sigma=0.2)), lambda: 0.0, random.Random(1))
    found = [speed.step_s() for _ in range(4000)]
    assert median(found) == pytest.approx(0.06, rel=0.02)
    assert median(one for one in found if one > 0.06) / 0.06 == pytest.approx(exp(0.2 * 0.6745), rel=0.02)
    speed.slowdown = 2.0
    assert median(speed.step_s() for _ in range(4000)) == pytest.approx(0.12, rel=0.02)


def test_steps_of_a_round_spread_as_the_round_does() -> None:
    """Five steps take 150 ms with a deviation of 7.5 ms: those of one are 30 ms and 7.5 / sqrt(5) ms."""
    speed = NormalSpeed(0.15, 0.0075, 5, random.Random(1))
    rounds = [sum(speed.step_s() for _ in range(5)) for _ in range(4000)]
    assert mean(rounds) == pytest.approx(0.15, rel=0.005)
    assert stdev(rounds) == pytest.approx(0.0075, rel=0.05)
    assert not speed.throttled


def test_no_step_takes_less_than_a_tenth_of_its_mean() -> None:
    speed = NormalSpeed(0.15, 0.05, 100, random.Random(1))
    assert min(speed.step_s() for _ in range(4000)) == pytest.approx(0.00015)


def test_a_device_without_spread_is_exact() -> None:
    speed = Speed(0.02, Lab(slowdown=3.0), lambda: 0.0, random.Random(1))
    assert {speed.step_s() for _ in range(10)} == {0.06}
    assert not speed.throttled


def test_heat_holds_it_back_now_and_then() -> None:
    now_s = [0.0]
    lab = Lab(throttling=Throttling(every_s=90.0, lasts_s=30.0, slowdown=4.0))
    speed = Speed(1.0, lab, lambda: now_s[0], random.Random(1))
    hot, lengths, began_s = [], [], 0.0
    for second in range(200_000):
        now_s[0] = float(second)
        hot.append(speed.throttled)
        assert speed.step_s() == (4.0 if hot[-1] else 1.0)
        if second and hot[-1] != hot[-2]:
            if hot[-2]:
                lengths.append(second - began_s)
            began_s = second
    assert mean(hot) == pytest.approx(0.25, abs=0.02)
    assert mean(lengths) == pytest.approx(30.0, rel=0.1)
