"""Which coordinator a device goes to, and when: no network, no clock."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.choice_of_coordinator import (
    FORGET_ROUNDS,
    LEARNED_MAX,
    RETURN_MAX_S,
    SPREAD_S,
    STEADY_ROUNDS,
    ChoiceOfCoordinator,
)

HOME, NEAR, FAR = "https://home", "https://near", "https://far"
MIN_S, MAX_S = 0.2, 30.0


def choice(*urls: str, seed: int = 1) -> ChoiceOfCoordinator:
    return ChoiceOfCoordinator(urls or (HOME, NEAR, FAR), MIN_S, MAX_S, random.Random(seed))


def measured(chosen: ChoiceOfCoordinator, **seconds: float | None) -> None:
    chosen.measured({f"https://{name}": value for name, value in seconds.items()})


def lost(chosen: ChoiceOfCoordinator, now_s: float, **how: Any) -> float:
    """The stream is reset and whoever listened does not answer any more; return when the next attempt comes."""
    again_s = chosen.ended(now_s, stood=True, **how)
    assert 0.0 <= again_s <= MIN_S
    return now_s + again_s + chosen.ended(now_s + again_s, stood=False)


# --- one coordinator ---


def test_a_lone_coordinator_is_tried_again_and_again_as_its_back_off_says() -> None:
    chosen, bounds_s = choice(HOME), [MIN_S]
    for attempt in range(12):
        wait_s = chosen.ended(100.0 * attempt, stood=attempt == 0)
        assert wait_s <= bounds_s[-1]
        bounds_s.append(min(2 * bounds_s[-1], MAX_S))
    assert chosen.url == HOME
    assert chosen.ended(1e6, stood=True, wait_s=7.0) >= 7.0


# --- where to begin ---


@pytest.mark.parametrize(
    ("home", "near", "far", "url"),
    [
        (0.040, 0.010, 0.200, NEAR),
        (0.012, 0.010, 0.200, HOME),  # as near as the nearest
        (0.006, 0.010, 0.001, HOME),  # all within what a queue makes of a round trip
        (None, 0.300, 0.200, FAR),
        (None, 0.210, 0.200, NEAR),
        (None, None, None, HOME),
    ],
)
def test_the_nearest_is_the_first(home: float | None, near: float | None, far: float | None, url: str) -> None:
    chosen = choice()
    measured(chosen, home=home, near=near, far=far)
    chosen.begin(0.0)
    assert chosen.url == url


def test_without_any_measurement_the_configurations_order_decides() -> None:
    chosen = choice()
    chosen.begin(0.0)
    assert chosen.url == HOME


def test_a_coordinators_distance_is_the_least_of_its_newest_round_trips() -> None:
    chosen = choice()
    measured(chosen, home=0.1, near=0.01)
    for _ in range(3):
        measured(chosen, home=0.1, near=3.0)  # a queue
    chosen.begin(0.0)
    assert chosen.url == NEAR
    measured(chosen, near=3.0)  # that does not go away
    chosen.begin(0.0)
    assert chosen.url == HOME


# --- when it is gone ---


def test_a_reset_is_no_death() -> None:
    chosen = choice()
    assert chosen.ended(0.0, stood=True) <= MIN_S
    assert chosen.url == HOME
    chosen.backoff.succeeded()
    assert chosen.ended(9.0, stood=True) <= MIN_S
    assert chosen.url == HOME


def test_one_that_ends_every_stream_is_left() -> None:
    chosen = choice()
    chosen.ended(0.0, stood=True)
    chosen.ended(1.0, stood=True)
    assert chosen.url == NEAR


def test_a_dead_one_is_left_for_the_nearest_that_answered_within_a_second_or_so() -> None:
    chosen = choice()
    measured(chosen, home=0.01, near=0.2, far=0.05)
    chosen.begin(0.0)
    assert lost(chosen, 0.0) <= MIN_S + SPREAD_S
    assert chosen.url == FAR


def test_a_regions_devices_do_not_come_all_at_once() -> None:
    waits_s = []
    for seed in range(200):
        chosen = choice(seed=seed)
        chosen.ended(0.0, stood=True)
        waits_s.append(chosen.ended(0.1, stood=False))
    assert max(waits_s) <= SPREAD_S
    busiest = max(sum(start <= wait_s < start + 0.1 for wait_s in waits_s) for start in (0.1 * n for n in range(10)))
    assert busiest < 40  # of 200 in a tenth of the time


def test_all_are_tried_and_then_each_as_its_back_off_says() -> None:
    chosen, now_s, tried = choice(), 0.0, []
    for _ in range(200):
        tried.append(chosen.url)
        now_s += chosen.ended(now_s, stood=False)
    assert tried[:3] == [HOME, NEAR, FAR]
    assert min(map(tried.count, (HOME, NEAR, FAR))) > 40
    assert now_s > 5 * MAX_S


def test_one_that_asks_to_come_back_later_is_left_at_once_and_not_asked_before() -> None:
    chosen = choice(HOME, NEAR)
    assert chosen.ended(0.0, stood=True, wait_s=10.0) <= SPREAD_S
    assert chosen.url == NEAR
    measured(chosen, home=0.01, near=0.5)
    assert lost(chosen, 5.0) >= 5.0
    now_s = 5.0
    while chosen.url != HOME:
        now_s += chosen.ended(now_s, stood=False)
        assert now_s < 60.0
    assert now_s >= 10.0


def test_one_that_refuses_for_good_is_left_at_once() -> None:
    chosen = choice(HOME, NEAR)
    chosen.ended(0.0, stood=True, hopeless=True)
    assert chosen.url == NEAR


# --- when it is back ---


def test_a_nearer_one_is_returned_to_when_it_has_been_steady() -> None:
    chosen = choice(HOME, FAR)
    lost(chosen, 0.0)
    assert chosen.url == FAR
    for _ in range(5):
        measured(chosen, home=None, far=0.1)
        assert not chosen.moves(50.0)
    for _ in range(STEADY_ROUNDS - 1):
        measured(chosen, home=0.01, far=0.1)
        assert not chosen.moves(50.0)
    measured(chosen, home=None, far=0.1)  # it was not steady
    assert not chosen.moves(50.0)
    for steady in (False,) * (STEADY_ROUNDS - 1) + (True,):
        assert chosen.url == FAR
        measured(chosen, home=0.01, far=0.1)
        assert chosen.moves(50.0) == steady
    assert chosen.url == HOME
    measured(chosen, home=0.01, far=0.1)
    assert not chosen.moves(50.0)


def returned_at_s(chosen: ChoiceOfCoordinator, now_s: float, **measurement: float | None) -> float:
    """Measure each second until the stream that stands is left; return when that is."""
    for _ in range(int(2 * RETURN_MAX_S)):
        now_s += 1.0
        measured(chosen, **measurement)
        if chosen.moves(now_s):
            return now_s
    raise AssertionError("it stays")


@pytest.mark.parametrize("hopeless", [False, True])
def test_one_that_answers_and_refuses_every_stream_is_tried_less_and_less_often(hopeless: bool) -> None:
    chosen, now_s, stood_s = choice(HOME, FAR, seed=3), 0.0, []
    measured(chosen, home=0.01, far=0.1)
    chosen.begin(now_s)
    for _ in range(16):
        while chosen.url == HOME:
            now_s += chosen.ended(now_s, stood=True, hopeless=hopeless)
        before_s, now_s = now_s, returned_at_s(chosen, now_s, home=0.01, far=0.1)
        stood_s.append(now_s - before_s)
    assert max(stood_s) <= RETURN_MAX_S + STEADY_ROUNDS
    assert sum(stood_s[8:]) > 8 * RETURN_MAX_S / 4
    assert stood_s[0] <= (RETURN_MAX_S if hopeless else MAX_S) + STEADY_ROUNDS


def test_a_success_makes_up_for_what_it_refused_before() -> None:
    chosen, now_s = choice(HOME, FAR), 0.0
    measured(chosen, home=0.01, far=0.1)
    for _ in range(10):
        while chosen.url == HOME:
            now_s += chosen.ended(now_s, stood=True)
        now_s = returned_at_s(chosen, now_s, home=0.01, far=0.1)
    chosen.backoff.succeeded()
    now_s = lost(chosen, now_s)
    assert chosen.url == FAR
    assert returned_at_s(chosen, now_s, home=0.01, far=0.1) <= now_s + MAX_S + STEADY_ROUNDS


def test_one_that_refuses_is_gone_to_only_where_no_other_is_up() -> None:
    chosen = choice()
    measured(chosen, home=0.01, near=0.02, far=0.1)
    chosen.begin(0.0)
    chosen.ended(0.0, stood=True, hopeless=True)
    assert chosen.url == NEAR
    measured(chosen, home=0.01, near=0.02, far=0.1)
    assert lost(chosen, 2 * MAX_S) <= 2 * MAX_S + MIN_S + SPREAD_S
    assert chosen.url == FAR
    measured(chosen, home=0.01, near=None, far=0.1)
    lost(chosen, 2 * MAX_S + 1.0)
    assert chosen.url == HOME
    measured(chosen, home=0.01, near=0.02, far=0.1)
    for _ in range(STEADY_ROUNDS):
        assert not chosen.moves(2 * MAX_S + 2.0)  # the stream that it takes now is as good as any


def test_one_that_takes_no_more_agents_keeps_those_that_it_has() -> None:
    chosen = choice(HOME, FAR)
    measured(chosen, home=0.01, far=0.1)
    chosen.begin(0.0)
    for _ in range(2 * STEADY_ROUNDS):
        measured(chosen, home=None, far=0.1)
        assert not chosen.moves(50.0)


def test_of_two_that_are_as_near_the_first_of_the_configuration_is_returned_to() -> None:
    chosen = choice(HOME, NEAR)
    lost(chosen, 0.0)
    for _ in range(STEADY_ROUNDS):
        measured(chosen, home=0.011, near=0.010)
        moved = chosen.moves(50.0)
    assert moved
    assert chosen.url == HOME


def test_what_coordinators_name_comes_behind_what_is_configured_once() -> None:
    chosen = choice(HOME)
    chosen.learned([NEAR + "/", HOME, FAR])
    chosen.learned([FAR, NEAR])
    assert chosen.urls == [HOME, NEAR, FAR]
    lost(chosen, 0.0)
    assert chosen.url == NEAR


def learned(*numbers: int) -> list[str]:
    return [f"https://learned-{number}" for number in numbers]


def test_of_many_that_are_named_the_last_are_kept_and_never_the_present_one_forgotten() -> None:
    chosen = choice(HOME)
    chosen.learned(learned(0))
    chosen.measured({HOME: None, learned(0)[0]: 0.1})
    chosen.begin(0.0)
    for number in range(1, 10 * LEARNED_MAX, 2):
        chosen.learned(learned(number, number + 1))
    kept = learned(0, *range(9 * LEARNED_MAX + 2, 10 * LEARNED_MAX + 1))
    assert chosen.urls == [HOME, *kept]
    chosen.learned(learned(*range(1000, 1000 + 2 * LEARNED_MAX)))
    assert chosen.urls == [HOME, *learned(0, *range(1000, 1000 + LEARNED_MAX))]
    chosen.measured({learned(1)[0]: 0.001})  # forgotten while it was measured
    assert learned(1)[0] not in chosen.urls


def test_one_that_is_named_no_more_is_forgotten_in_the_end_whether_it_answers_or_not() -> None:
    chosen, (gone, answering, named, again) = choice(HOME, NEAR), learned(1, 2, 3, 4)
    chosen.learned([gone, answering, named, again])
    chosen.learned([named])
    everybody = [HOME, NEAR, gone, answering, named, again]
    for number in range(FORGET_ROUNDS):
        assert chosen.urls == everybody
        if number in {FORGET_ROUNDS - 2, FORGET_ROUNDS - 1}:
            chosen.learned([named] if number % 2 else [named, again])
        chosen.measured({HOME: 0.1, NEAR: None, gone: None, answering: 0.1, named: None, again: 0.1})
    assert chosen.urls == [HOME, NEAR, named, again]


def test_nobody_goes_to_one_that_is_named_no_more_while_another_one_is_up() -> None:
    """It may have been revoked, and stand nearer than all others."""
    chosen, (revoked, other) = choice(HOME), learned(1, 2)
    chosen.learned([revoked, other])
    chosen.learned([other])
    for _ in range(STEADY_ROUNDS + 1):
        chosen.measured({HOME: 0.1, revoked: 0.001, other: 0.2})
        assert not chosen.moves(0.0)
    chosen.begin(0.0)
    assert chosen.url == HOME
    lost(chosen, 0.0)
    assert chosen.url == other
    chosen.measured({HOME: None, revoked: 0.001, other: None})
    lost(chosen, 100.0)
    assert chosen.url == revoked


def test_one_that_is_named_no_more_is_kept_while_its_stream_stands() -> None:
    chosen, (present,) = choice(HOME), learned(1)
    chosen.learned([present])
    chosen.measured({HOME: None, present: 0.1})
    chosen.begin(0.0)
    chosen.learned([])
    for _ in range(FORGET_ROUNDS + 1):
        chosen.measured({HOME: None, present: 0.1})
    assert (chosen.url, chosen.urls) == (present, [HOME, present])


def test_a_lone_coordinator_is_believed_that_a_device_is_shut_out() -> None:
    assert choice(HOME).shut_out()


def test_one_of_several_coordinators_does_not_end_a_device_and_all_of_them_do() -> None:
    chosen = choice(HOME, NEAR)
    chosen.learned([FAR])
    turns = []
    for number in range(3):
        turns.append(chosen.url)
        assert chosen.shut_out() == (number == 2), turns
        chosen.ended(100.0 * number, stood=False, hopeless=True)
    assert sorted(turns) == sorted([HOME, NEAR, FAR])


def test_who_serves_a_device_has_taken_back_that_it_is_shut_out() -> None:
    chosen = choice(HOME, NEAR)
    assert not chosen.shut_out()
    chosen.served()
    chosen.ended(0.0, stood=False, hopeless=True)
    assert chosen.url == NEAR
    assert not chosen.shut_out()


def test_who_is_silent_for_a_day_keeps_no_device_that_all_others_shut_out() -> None:
    chosen = choice(HOME, NEAR)
    for _ in range(FORGET_ROUNDS - 1):
        chosen.measured({HOME: 0.1, NEAR: None})
    assert not chosen.shut_out()
    chosen.measured({HOME: 0.1, NEAR: None})
    assert chosen.shut_out()


@given(st.data())
def test_whatever_happens_somebody_has_the_turn_and_waits_are_bounded(data: st.DataObject) -> None:
    chosen, now_s = choice(seed=data.draw(st.integers(0, 9))), 0.0
    answers = st.one_of(st.none(), st.floats(1e-4, 2.0))
    for _ in range(data.draw(st.integers(1, 30))):
        match data.draw(st.sampled_from(["measured", "moves", "stood", "not", "drain", "succeeded"])):
            case "measured":
                measured(chosen, home=data.draw(answers), near=data.draw(answers), far=data.draw(answers))
            case "moves":
                chosen.moves(now_s)
            case "succeeded":
                chosen.backoff.succeeded()
            case how:
                wait_s = chosen.ended(now_s, stood=how != "not", wait_s=5.0 if how == "drain" else 0.0)
                assert 0.0 <= wait_s <= MAX_S + 5.0
                now_s += wait_s
        assert chosen.url in chosen.urls
