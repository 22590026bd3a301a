"""How high numbers may jump: an honest device is believed, a poisoned name recovers, nobody uses the numbers up."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.protocol.ceiling import NEAR, STEP, STEP_S, Ceiling

MOST = 1 << 62
DAY_S = 86_400.0


@given(st.integers(0, STEP), st.integers(0, MOST - STEP))
def test_a_device_of_which_nothing_or_only_what_is_long_ago_is_known_is_believed_at_once(made: int, known: int) -> None:
    assert Ceiling().admits(known + made, known, 0.0)


@given(st.integers(0, MOST - NEAR))
def test_a_number_at_its_end_is_not_and_what_is_near_always_is(known: int) -> None:
    ceiling = Ceiling()
    assert ceiling.admits(MOST, known, 0.0) == (MOST - known <= NEAR + STEP)
    assert ceiling.admits(known + NEAR, known, 0.0)
    assert Ceiling().admits(known + NEAR + STEP, known, 0.0)
    assert not Ceiling().admits(known + NEAR + STEP + 1, known, 0.0)


@pytest.mark.parametrize("jumps", [1, 2, 7])
def test_a_name_that_was_made_to_jump_is_believed_within_as_many_minutes(jumps: int) -> None:
    ceiling, far = Ceiling(), jumps * (NEAR + STEP) + 5
    refused = [second for second in range(1000) if not ceiling.admits(far, 0, 100.0 + second)]
    assert refused == list(range(jumps * int(STEP_S)))
    assert ceiling.admits(far + 1, far, 1100.0)


def test_whoever_makes_it_jump_all_day_gets_a_step_a_minute() -> None:
    """He asks for the highest that he can get, again and again."""
    draws, ceiling, known, asked = random.Random(1), Ceiling(), 0, 0
    now_s = 0.0
    while now_s < DAY_S:
        for more in (NEAR + STEP, STEP, NEAR):
            asked += 1
            if ceiling.admits(known + more, known, now_s):
                known += more
        now_s += draws.uniform(0.5, 10.0)
    assert known <= (DAY_S / STEP_S + 2) * STEP + asked * NEAR
    assert known < MOST / 500_000
