"""The token rule step by step; `test_token_faults` joins many machines."""

import pytest

from skerry.algorithms.federation import NoFederation, SpykerToken
from skerry.algorithms.token import Alone, MergePeer, PassToken, Publish, TokenEffect, TokenMachine, TokenState

RULE = SpykerToken(h_inter=5.0, h_intra=100.0, eta_a=0.5, exchange_interval_min_s=1.0)


def machine(name: str, *peers: str, rule: SpykerToken = RULE, state: TokenState | None = None) -> TokenMachine:
    """Start at second 0, with every peer alive and nothing known by it."""
    started = rule.start(name, peers, 0.0, state)
    assert isinstance(started, TokenMachine)
    for peer in peers:
        started.peer_seen(peer, (0, 0), 0.0)
    return started


def test_lowest_name_holds_the_first_token() -> None:
    assert machine("a", "b", "c").holds
    assert not machine("b", "a", "c").holds
    assert machine("a", "b").token == (0, 1)


def test_regions_of_like_age_only_pass_the_token_on() -> None:
    a = machine("a", "b", "c")
    assert a.updated(4.0, 3, 0.05) == [], "it stays for hold_min_s"
    assert a.wake_at_s == pytest.approx(0.1)
    assert a.tick(4.0, 3, 0.1) == [PassToken("b", (0, 2), {"a": 4.0})]
    assert not a.holds


def test_exchange_of_two_regions_that_drifted_apart() -> None:
    a, b = machine("a", "b"), machine("b", "a")
    assert a.tick(0.0, 3, 1.0) == [PassToken("b", (0, 2), {"a": 0.0})]
    b.token_arrived("a", (0, 2), {"a": 0.0}, 4.0, 1.0)
    assert b.updated(5.0, 3, 1.01) == [Publish((0, 2))], "5 updates apart"
    assert b.updated(6.0, 3, 1.02) == [], "the exchange is under way"

    answer = a.model_arrived("b", (0, 2), 5.0, 0.0, 1.1)
    assert answer[0] == Publish((0, 2)), "the own model first, then the merge"
    merge = answer[1]
    assert isinstance(merge, MergePeer)
    assert merge.weight == pytest.approx(0.5 / (1 + 2.718281828459045 ** (-1.5 * 5.0)))
    assert merge.age == pytest.approx(merge.weight * 5.0)

    end = b.model_arrived("a", (0, 2), 0.0, 6.0, 1.2)
    merged = end[0]
    assert isinstance(merged, MergePeer)
    assert end[1:] == [PassToken("a", (0, 4), {"b": merged.age})], (
        "table reset, id raised once here and once by the hop"
    )
    assert b.model_arrived("a", (0, 2), 0.0, merged.age, 1.3) == [], "a repeat"
    assert a.token_arrived("b", (0, 4), {"b": merged.age}, 1.0, 1.4) == []
    assert a.holds


def test_next_exchange_waits_for_the_least_interval() -> None:
    a = machine("a", "b")
    assert a.updated(5.0, 3, 1.0) == [PassToken("b", (0, 2), {"a": 5.0})], "alone in its table, it is not apart"
    a.token_arrived("b", (0, 3), {"a": 5.0, "b": 0.0}, 5.0, 1.1)
    assert a.updated(6.0, 3, 1.15) == [Publish((0, 3))]
    a.model_arrived("b", (0, 3), 6.0, 6.0, 1.2)
    a.token_arrived("b", (0, 7), {"b": 0.0}, 6.0, 1.3)
    assert a.updated(7.0, 3, 2.1) == [PassToken("b", (0, 8), {"b": 0.0, "a": 7.0})], "0.95 s after the last one"
    a.token_arrived("b", (0, 9), {"b": 0.0}, 7.0, 2.15)
    assert a.wake_at_s == pytest.approx(2.25), "it is still due"
    assert a.tick(7.0, 3, 2.25) == [Publish((0, 9))]


def test_growth_alone_calls_for_an_exchange() -> None:
    a = machine("a", "b")
    assert a.updated(100.0, 3, 0.0) == []
    assert a.updated(101.0, 3, 0.0) == [Publish((0, 1))]


def test_growth_counts_from_the_last_merge() -> None:
    a = machine("a", "b")
    a.updated(101.0, 3, 0.0)
    a.model_arrived("b", (0, 1), 101.0, 101.0, 1.0)
    a.token_arrived("b", (0, 4), {}, 110.0, 3.0)
    assert a.updated(201.0, 3, 3.0) == []
    assert a.updated(202.0, 3, 3.0) == [Publish((0, 4))]


@pytest.mark.parametrize(("devices", "spread", "growth"), [(0, 1.0, 10.0), (3, 1.0, 30.0), (25, 5.0, 250.0)])
def test_default_thresholds_follow_the_number_of_devices(devices: int, spread: float, growth: float) -> None:
    assert SpykerToken().spread_max(devices) == spread
    assert SpykerToken().growth_max(devices) == growth
    assert SpykerToken(h_inter=7.0, h_intra=8.0).spread_max(devices) == 7.0
    assert SpykerToken(h_inter=7.0, h_intra=8.0).growth_max(devices) == 8.0


def test_holder_without_updates_passes_the_token_on() -> None:
    a = machine("a", "b")
    assert a.wake_at_s == 1.0
    assert a.tick(0.0, 3, 0.99) == []
    assert a.tick(0.0, 3, 1.0) == [PassToken("b", (0, 2), {"a": 0.0})]


def test_updates_that_came_before_the_token_count() -> None:
    b = machine("b", "a")
    assert b.updated(9.0, 3, 0.0) == []
    b.token_arrived("a", (0, 2), {"a": 0.0}, 9.0, 0.5)
    assert b.wake_at_s == pytest.approx(0.6)
    assert b.tick(9.0, 3, 0.6) == [Publish((0, 2))]


def test_without_live_peers_the_token_stays() -> None:
    a = machine("a", "b")
    assert a.updated(200.0, 3, 10.0) == [], "b has been silent for 10 s"
    assert a.wake_at_s is None
    a.peer_seen("b", (0, 0), 20.0)
    assert a.wake_at_s is not None
    assert a.wake_at_s <= 20.0
    assert a.tick(200.0, 3, 20.0) == [Publish((0, 1))]


def test_dead_peer_is_skipped_and_its_age_forgotten() -> None:
    a = machine("a", "b", "c")
    a.peer_seen("c", (0, 0), 9.0)
    a.token_arrived("c", (0, 5), {"b": 0.0, "c": 50.0}, 50.0, 12.0)
    assert a.updated(51.0, 3, 13.0) == [PassToken("c", (0, 6), {"b": 0.0, "c": 50.0, "a": 51.0})]


def test_exchange_goes_on_without_a_peer_that_does_not_answer() -> None:
    a = machine("a", "b", "c")
    a.updated(101.0, 3, 0.0)
    assert [type(effect) for effect in a.model_arrived("c", (0, 1), 90.0, 101.0, 1.0)] == [MergePeer]
    assert a.wake_at_s == 10.0
    assert a.tick(95.0, 3, 10.0) == [PassToken("c", (0, 3), {"a": 95.0})]
    late = a.model_arrived("b", (0, 1), 90.0, 95.0, 11.0)
    assert [type(effect) for effect in late] == [MergePeer], "late is not lost"


def test_exchange_keeps_the_token_where_everybody_died_in_it() -> None:
    a = machine("a", "b")
    a.updated(101.0, 3, 0.0)
    assert a.tick(101.0, 3, 10.0) == []
    assert a.holds
    assert a.token == (0, 2), "the id that was published under is used up"


@pytest.mark.parametrize("now_s", [0.2, 5.0])
def test_repeated_token_is_taken_once(now_s: float) -> None:
    b = machine("b", "a")
    b.token_arrived("a", (0, 2), {"a": 0.0}, 0.0, 0.0)
    assert b.tick(0.0, 3, 1.0)
    b.token_arrived("a", (0, 2), {"a": 0.0}, 0.0, 1.0 + now_s)
    assert not b.holds


def test_token_behind_what_is_known_is_dropped() -> None:
    b = machine("b", "a")
    b.peer_seen("a", (0, 9), 0.0)
    b.token_arrived("a", (0, 2), {}, 0.0, 0.1)
    assert not b.holds
    b.token_arrived("a", (0, 9), {}, 0.0, 0.1)
    assert b.holds


def test_lost_token_is_made_anew_by_the_live_server_of_lowest_name() -> None:
    b, c = machine("b", "a", "c"), machine("c", "a", "b")
    lost_at_s = 20.0 + 3 * 1.0
    assert b.wake_at_s == lost_at_s
    for now_s in (5.0, 10.0, 15.0, 20.0):
        b.peer_seen("c", (0, 0), now_s)
        c.peer_seen("b", (0, 0), now_s)
    c.tick(0.0, 3, lost_at_s)
    assert not c.holds, "b lives"
    assert c.wake_at_s == 30.0, "unless it stays silent"
    b.tick(0.0, 3, lost_at_s)
    assert b.holds
    assert b.token == (1, 1)


def test_lost_token_is_made_by_the_next_one_where_the_lowest_does_not_get_it_done() -> None:
    """Everybody can reach b, which cannot reach anybody: it must not hold the others up for ever."""
    c = machine("c", "a", "b")
    for now_s in range(0, 43, 5):
        c.peer_seen("b", (0, 0), float(now_s))
        c.tick(0.0, 3, float(now_s))
    assert not c.holds
    assert c.wake_at_s == 23.0 + 20.0
    c.tick(0.0, 3, 43.0)
    assert c.holds


def test_any_rise_of_the_id_is_a_sign_of_the_tokens_life() -> None:
    b = machine("b", "a")
    b.peer_seen("a", (0, 5), 15.0)
    b.peer_seen("a", (0, 5), 21.0)
    assert b.wake_at_s == 15.0 + 22.0


def test_two_sides_of_a_partition_never_make_the_same_epoch() -> None:
    a, b, c = machine("a", "b", "c"), machine("b", "a", "c"), machine("c", "a", "b")
    a.tick(0.0, 3, 1.0)  # the token leaves a and is lost
    for lonely in (a, b, c):
        lonely.tick(0.0, 3, 100.0)
    assert [lonely.token[0] for lonely in (a, b, c)] == [3, 1, 2]
    b.peer_seen("c", c.token, 101.0)
    assert not b.holds, "the older epoch is dropped"
    assert b.token == (2, 1)


def test_holder_that_restarts_makes_the_token_anew() -> None:
    a = machine("a", "b")
    again = machine("a", "b", state=a.snapshot())
    assert again.holds
    assert again.token == (2, 1)


def test_restart_remembers_what_was_published_and_merged() -> None:
    b = machine("b", "a")
    assert len(b.model_arrived("a", (0, 1), 5.0, 1.0, 0.0)) == 2
    again = machine("b", "a", state=b.snapshot())
    assert again.model_arrived("a", (0, 1), 5.0, 3.0, 0.0) == []
    assert again.snapshot() == b.snapshot()
    assert not again.holds


def test_model_of_an_older_epoch_is_merged_but_not_answered() -> None:
    b = machine("b", "a", "c")
    b.peer_seen("c", (2, 1), 0.0)
    assert [type(effect) for effect in b.model_arrived("a", (0, 7), 5.0, 1.0, 0.0)] == [MergePeer]


@pytest.mark.parametrize("age", [float("nan"), float("inf"), -1.0])
def test_impossible_age_is_not_merged(age: float) -> None:
    b = machine("b", "a")
    assert b.model_arrived("a", (0, 1), age, 1.0, 0.0) == []
    b.token_arrived("a", (0, 2), {"a": age}, 1.0, 0.0)
    assert b.updated(1.0, 3, 0.5) == [PassToken("a", (0, 3), {"b": 1.0})]


@pytest.mark.parametrize("broadcast", [(1 << 62, 1), (0, 1 << 62)])
def test_an_id_that_cannot_be_counted_on_from_is_ignored(broadcast: tuple[int, int]) -> None:
    """One coordinator that tells such an id would end the federation of all, for good."""
    b = machine("b", "a")
    b.peer_seen("a", broadcast, 0.0)
    assert b.token_arrived("a", broadcast, {}, 1.0, 0.0) == []
    assert b.model_arrived("a", broadcast, 5.0, 1.0, 0.0) == []
    assert b.token == (0, 0)
    assert not b.holds
    b.token_arrived("a", (0, 2), {}, 1.0, 0.0)
    assert b.holds


def test_strangers_are_ignored() -> None:
    b = machine("b", "a")
    assert b.model_arrived("z", (9, 9), 5.0, 1.0, 0.0) == []
    assert b.token_arrived("z", (9, 9), {}, 1.0, 0.0) == []
    b.peer_seen("z", (9, 9), 0.0)
    assert b.token == (0, 0)


@pytest.mark.parametrize(
    "alone", [SpykerToken().start("a", [], 0.0, None), NoFederation().start("a", ["b", "c"], 0.0, None)]
)
def test_one_server_is_no_federation(alone: Alone) -> None:
    assert alone.updated(1e6, 3, 1.0) == []
    assert alone.tick(1e6, 3, 100.0) == []
    assert alone.model_arrived("b", (5, 5), 9.0, 0.0, 100.0) == []
    assert alone.token_arrived("b", (5, 5), {}, 0.0, 100.0) == []
    alone.peer_seen("b", (5, 5), 100.0)
    assert alone.wake_at_s is None
    assert not alone.holds
    assert alone.token == (0, 0)


def test_state_outlives_a_time_without_federation() -> None:
    state = TokenState(known=(4, 7), merged={"b": (4, 6)})
    assert NoFederation().start("a", ["b"], 0.0, state).snapshot() == state


@pytest.mark.parametrize(
    ("peer_age", "age", "devices", "behind"),
    [
        (0.0, 29.0, 3, False),  # too young to tell
        (0.0, 31.0, 3, True),
        (49.0, 100.0, 3, True),
        (51.0, 100.0, 3, False),
        (49.0, 100.0, 6, False),  # so much the own model grows between two merges
        (500.0, 100.0, 3, False),
    ],
)
def test_a_model_is_far_behind_by_share_and_by_distance(
    peer_age: float, age: float, devices: int, behind: bool
) -> None:
    assert SpykerToken().is_far_behind(peer_age, age, devices) is behind
    assert not SpykerToken(phi=0.0).is_far_behind(peer_age, age, devices)


def test_a_peer_that_was_cut_off_catches_up_and_drags_nobody_back() -> None:
    rule = SpykerToken(h_inter=5.0, h_intra=100.0)
    here, late = machine("a", "b", rule=rule), machine("b", "a", rule=rule)
    here.updated(900.0, 3, 0.0)
    assert not merges(here.model_arrived("b", (0, 2), 100.0, 900.0, 1.0))
    (caught_up,) = merges(late.model_arrived("a", (0, 2), 900.0, 100.0, 1.0))
    assert caught_up.weight > 0.99
    assert caught_up.age > 890.0
    (merged,) = merges(here.model_arrived("b", (0, 3), caught_up.age, 900.0, 2.0))
    assert merged.weight == pytest.approx(0.5, abs=0.01)


def test_an_exchange_does_not_wait_for_the_merge_of_a_model_that_is_far_behind() -> None:
    here = machine("a", "b", rule=SpykerToken(h_inter=5.0, h_intra=100.0, exchange_interval_min_s=0.0))
    here.peer_seen("b", (0, 1), 0.0)
    (publish,) = here.updated(900.0, 3, 0.5)
    assert isinstance(publish, Publish)
    assert [type(one) for one in here.model_arrived("b", publish.broadcast, 100.0, 900.0, 1.0)] == [PassToken]


def merges(effects: list[TokenEffect]) -> list[MergePeer]:
    return [one for one in effects if isinstance(one, MergePeer)]
