"""How long a stream may take to open: no network, no clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.opening_limit import OPENING_S, OpeningLimit

MAX_S = 20.0


def test_it_doubles_after_each_round_in_which_nobody_opened() -> None:
    limit, tried_s = OpeningLimit(MAX_S), []
    for _ in range(10):
        tried_s.append(limit.seconds(2))
        limit.timed_out(2)
    assert tried_s == [4.0, 4.0, 8.0, 8.0, 16.0, 16.0, 20.0, 20.0, 20.0, 20.0]


def test_one_that_is_silent_among_others_that_open_soon_is_left_soon_every_time() -> None:
    limit = OpeningLimit(MAX_S)
    for _ in range(10):
        assert limit.seconds(2) == OPENING_S
        limit.timed_out(2)
        limit.opened(0.1)


def test_a_link_on_which_openings_take_long_keeps_a_limit_that_they_fit() -> None:
    limit = OpeningLimit(MAX_S)
    for _ in range(3):
        limit.timed_out(3)
    limit.opened(6.0)
    assert limit.seconds(3) == 12.0
    limit.timed_out(3)
    limit.opened(0.5)
    assert limit.seconds(3) == OPENING_S


@pytest.mark.parametrize("attempts", [0, 5])
def test_a_lone_coordinator_has_all_the_time_that_there_is(attempts: int) -> None:
    limit = OpeningLimit(MAX_S)
    for _ in range(attempts):
        limit.timed_out(1)
    assert limit.seconds(1) == MAX_S


@given(st.floats(0.1, 100.0), st.lists(st.one_of(st.none(), st.floats(0.0, 200.0))))
def test_it_never_exceeds_what_a_stream_may_be_silent(max_s: float, attempts: list[float | None]) -> None:
    limit = OpeningLimit(max_s)
    for took_s in attempts:
        if took_s is None:
            limit.timed_out(2)
        else:
            limit.opened(took_s)
        assert min(OPENING_S, max_s) <= limit.seconds(2) <= max_s
