"""Which peers' models count: the honest ones of any federation do, those that blew up or do harm do not."""

from math import e, exp, inf, log, nan

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.algorithms.peer_guard import Judged, Measured, PeerDistances, PeerGuard

LENGTH = 8.0  # of the own model
USUAL = 0.5
KNOWN = PeerDistances(known=16, usual=log(USUAL), gap=log(2.0))


class Meetings:
    """A guard that is told of one model after the other."""

    def __init__(self, state: PeerDistances | None = KNOWN, distance_max: float = 10.0) -> None:
        self.guard = PeerGuard(distance_max, state, {"us", "sa"})
        self.now_s = 100.0

    def come(
        self, distance: float, age: float = 100.0, peer_age: float = 100.0, *, after_s: float = 2.0, **others: object
    ) -> Judged:
        """A model comes `after_s` seconds after the last one, and is merged; `merged`: False: it is sent again."""
        fields = {"peer": "us", "length": LENGTH, "merges": True, "merged": True} | others
        self.now_s += after_s
        peer, merges = str(fields["peer"]), bool(fields["merges"])
        measured = Measured(distance, fields["length"])  # type: ignore[arg-type]
        judged = self.guard.judge(peer, measured, age, peer_age, self.now_s, merges=merges)
        if judged.counts and merges and fields["merged"]:
            self.guard.merged(peer, self.now_s)
        return judged

    def meet(self) -> "Meetings":
        """Let a model come that is as far away as usual, so that the peer is in touch."""
        assert self.come(USUAL) == Judged(counts=True)
        return self


def test_what_is_about_as_far_away_as_usual_counts() -> None:
    meetings = Meetings().meet()
    for distance in (0.0, 0.1, USUAL, 1.5, 4.8):
        assert meetings.come(distance) == Judged(counts=True)


def test_what_is_much_further_away_than_usual_does_not_until_it_is_back() -> None:
    meetings = Meetings().meet()
    refused = meetings.come(6.0)
    assert refused == Judged(
        counts=False,
        alarm="its model is not merged: it is 6 away from the model here, 12 times as far as usual",
    )
    assert meetings.guard.snapshot().refused == {"us": refused.alarm.partition("merged: ")[2]}
    assert meetings.come(6.0) == Judged(counts=False), "there is one alarm, not one for each model"
    assert meetings.come(2.0) == Judged(counts=True, alarm="its model is in bounds again")
    assert meetings.guard.snapshot().refused == {}
    assert meetings.come(2.0) == Judged(counts=True)


@pytest.mark.parametrize("distance", [inf, nan])
def test_what_is_not_finite_never_counts(distance: float) -> None:
    for meetings in (Meetings(None), Meetings(PeerDistances(admitted=frozenset({"us"})))):
        assert meetings.come(distance, age=1.0).alarm == "its model is not merged: it has values that are not finite"


def test_where_none_is_asked_for_any_model_counts_and_nothing_is_known() -> None:
    meetings = Meetings(msgspec.structs.replace(KNOWN, refused={"us": "far"}), distance_max=0.0).meet()
    assert meetings.come(1e20).counts
    assert meetings.guard.judge("us", None, 1.0, 1.0, 300.0, merges=True) == Judged(counts=True)
    assert meetings.guard.snapshot() == PeerDistances()


def test_what_was_not_measured_does_not_count_until_the_next_one_is() -> None:
    meetings = Meetings().meet()
    assert meetings.guard.judge("us", None, 1.0, 1.0, 102.0, merges=True) == Judged(counts=False)
    assert list(meetings.guard.snapshot().refused) == ["us"]
    assert meetings.come(USUAL) == Judged(counts=True), "nobody is alarmed"
    assert meetings.come(11.0).alarm
    why = dict(meetings.guard.snapshot().refused)
    meetings.guard.judge("us", None, 1.0, 1.0, 110.0, merges=True)
    assert meetings.guard.snapshot().refused == why
    assert meetings.come(11.0) == Judged(counts=False)


def test_what_leads_to_no_merge_teaches_nothing() -> None:
    """A peer may send as much as it likes for one exchange."""
    meetings = Meetings().meet()
    before = meetings.guard.snapshot()
    for _ in range(75):
        assert meetings.come(4.9, after_s=0.01, merged=False).counts
    assert meetings.guard.snapshot() == before
    assert not meetings.come(11.0).counts


def test_many_merges_at_once_teach_as_much_as_one() -> None:
    """A peer may begin as many exchanges as it likes."""
    meetings = Meetings().meet()
    for _ in range(75):
        assert meetings.come(4.9, after_s=0.02).counts
    known = meetings.guard.snapshot()
    assert exp(known.usual) < USUAL * e ** (1 / 16)
    assert exp(known.gap or 0.0) > 2.0 * e ** (-1 / 16)
    assert not meetings.come(11.0).counts


def test_one_that_is_refused_comes_no_nearer_by_waiting() -> None:
    meetings = Meetings().meet()
    for _ in range(50):
        assert not meetings.come(11.0).counts


def test_a_long_silence_explains_so_much_and_no_more() -> None:
    rest = Meetings(PeerDistances(known=16, usual=log(0.05), gap=log(2.0)))
    assert rest.come(0.05).counts
    assert rest.come(9.9, after_s=1e6).counts
    again = Meetings(PeerDistances(known=16, usual=log(0.05), gap=log(2.0)))
    assert again.come(0.05).counts
    assert not again.come(10.1, after_s=1e6).counts


def test_what_is_known_of_one_that_is_no_peer_any_more_is_forgotten() -> None:
    state = msgspec.structs.replace(KNOWN, refused={"af": "far", "us": "far"}, admitted=frozenset({"af", "sa"}))
    known = Meetings(state).guard.snapshot()
    assert known == msgspec.structs.replace(KNOWN, refused={"us": "far"}, admitted=frozenset({"sa"}))


def test_what_is_near_for_a_model_of_this_length_is_never_refused() -> None:
    """Where training has come to rest, the usual distance is tiny."""
    rest = Meetings(PeerDistances(known=16, usual=log(1e-3), gap=log(2.0)))
    assert rest.come(1e-3).counts
    assert rest.come(0.25 * LENGTH).counts
    assert not rest.come(0.26 * LENGTH).counts


def test_two_that_have_not_met_for_long_may_have_drifted_apart_all_the_while() -> None:
    assert not Meetings().meet().come(11.0, after_s=2.0).counts
    assert not Meetings().meet().come(11.0, after_s=4.0).counts
    assert Meetings().meet().come(11.0, after_s=5.0).counts


def test_one_that_comes_sooner_than_usual_is_not_judged_more_strictly() -> None:
    assert Meetings().meet().come(4.8, after_s=0.01).counts


def test_after_a_restart_nobody_knows_for_how_long_they_have_not_met() -> None:
    meetings = Meetings()
    assert meetings.come(11.0).counts, "the first one"
    assert not meetings.come(11.0).counts


def test_no_model_of_another_length_counts_however_long_they_have_not_met() -> None:
    trouble = "its model is not merged: it is 12.1 away from the model here, whose own length is 8"
    assert Meetings().come(12.1).alarm == trouble
    assert Meetings().meet().come(12.1, after_s=1e6).alarm == trouble
    assert Meetings().come(11.9).counts


def test_a_young_federation_meets_and_is_not_taken_over_by_what_is_no_model_of_its_task() -> None:
    young = Meetings(None)
    for number in range(16):
        assert young.come(0.01 * 1.2**number, age=number, peer_age=2.0 * number).counts
    assert not Meetings(None).come(100.0, age=0.0, peer_age=1.0).counts


def test_a_model_of_zeros_has_nothing_to_lose() -> None:
    assert Meetings().meet().come(5.0, length=0.0).counts


def test_a_region_that_has_hardly_trained_takes_the_model_of_one_that_has() -> None:
    """Its model may be all but zeros, which is what some tasks begin with, and has nothing to lose."""
    assert Meetings().meet().come(100.0, age=9.9, peer_age=80.0).counts
    assert Meetings(None).come(100.0, age=1.0, peer_age=10.0).counts
    assert not Meetings(None).come(100.0, age=1.0, peer_age=9.9).counts
    assert not Meetings(None).come(100.0, age=9.9, peer_age=79.0).counts
    assert not Meetings(None).come(100.0, age=10.0, peer_age=1e9).counts
    assert not Meetings(None).come(inf, age=0.0, peer_age=1e9).counts


def test_a_region_that_was_cut_off_takes_a_much_older_model_and_only_then() -> None:
    """Its disk lost, or no device left: the peer's model may have grown by any length."""
    assert Meetings().come(23.9, age=100.0, peer_age=200.0).counts
    assert not Meetings().come(23.9, age=100.0, peer_age=199.0).counts
    assert not Meetings().come(24.1, age=100.0, peer_age=1e9).counts
    assert not Meetings().meet().come(23.9, age=100.0, peer_age=200.0).counts, "in touch, no honest age jumps"


def test_a_peer_that_is_far_behind_is_no_stranger_and_teaches_nothing() -> None:
    """It came back without its disk; its model is not merged anyway, but has part in the federated model."""
    meetings = Meetings().meet()
    before = meetings.guard.snapshot()
    assert meetings.come(8.0, peer_age=1.0, merges=False) == Judged(counts=True)
    assert meetings.guard.snapshot() == before
    assert not meetings.come(12.1, peer_age=1.0, merges=False).counts


def test_before_a_distance_is_usual_there_is_none_to_compare_with() -> None:
    meetings = Meetings(None)
    for _ in range(7):
        assert meetings.come(USUAL).counts
    assert meetings.come(9.0).counts
    assert meetings.guard.snapshot().known == 8
    assert not meetings.come(9.0).counts


def test_the_first_distances_have_equal_parts_in_the_usual_one() -> None:
    meetings = Meetings(None)
    for distance in (1.0, 2.0, 1.0, 0.5):
        meetings.come(distance)
    assert exp(meetings.guard.snapshot().usual) == pytest.approx(1.0)
    assert exp(meetings.guard.snapshot().gap or 0.0) == pytest.approx(2.0)


def test_the_usual_distance_follows_the_models_slowly() -> None:
    meetings = Meetings().meet()
    meetings.come(USUAL * e**0.8)
    assert meetings.guard.snapshot().usual == pytest.approx(log(USUAL) + 0.8 / 16)
    for _ in range(100):
        meetings.come(0.1)
    assert exp(meetings.guard.snapshot().usual) == pytest.approx(0.1, rel=0.1)


def test_nobody_shifts_the_usual_distance_fast() -> None:
    meetings = Meetings().meet()
    for _ in range(4):
        assert meetings.come(4.9).counts
    assert exp(meetings.guard.snapshot().usual) < USUAL * 1.3
    for _ in range(100):
        assert not meetings.come(20.0).counts
    assert exp(meetings.guard.snapshot().usual) < USUAL * 1.3, "what is refused teaches nothing"


def test_peers_are_compared_with_one_another_and_judged_each_for_itself() -> None:
    meetings = Meetings(None)
    for _ in range(4):
        assert meetings.come(USUAL, peer="us").counts
        assert meetings.come(USUAL, peer="sa").counts
    assert not meetings.come(20.0, peer="sa").counts
    assert meetings.come(USUAL, peer="us") == Judged(counts=True)
    assert set(meetings.guard.snapshot().refused) == {"sa"}


def test_an_operator_lets_a_peer_in_and_what_is_usual_is_learned_anew() -> None:
    meetings = Meetings().meet()
    assert not meetings.guard.admit("us")
    assert not meetings.come(100.0).counts
    assert meetings.guard.admit("us")
    assert not meetings.guard.admit("nobody")
    again = Meetings(meetings.guard.snapshot())
    assert again.come(100.0).counts
    assert not again.come(100.0).counts, "it was for one merge"
    assert again.come(11.0).counts


def test_what_was_written_down_is_enough_to_go_on() -> None:
    meetings = Meetings().meet()
    meetings.come(20.0)
    again = Meetings(meetings.guard.snapshot())
    assert again.guard.snapshot().refused.keys() == {"us"}
    assert again.come(1.0).alarm == "its model is in bounds again"


@given(
    st.lists(
        st.tuples(
            st.floats(0.0, allow_infinity=True) | st.just(nan), st.floats(0.0, 1e30), st.floats(0.0, 1e12),
            st.floats(0.0, 1e12), st.floats(0.0, 1e9), st.sampled_from(["us", "sa"]), st.booleans(),
        ),
        max_size=40,
    )
)  # fmt: skip
def test_whatever_comes_is_judged_and_what_is_known_stays_finite(
    models: list[tuple[float, float, float, float, float, str, bool]],
) -> None:
    guard, now_s = PeerGuard(10.0, None, {"us", "sa"}), 0.0
    for distance, length, age, peer_age, after_s, peer, merges in models:
        now_s += after_s
        judged = guard.judge(peer, Measured(distance, length), age, peer_age, now_s, merges=merges)
        if judged.counts and merges:
            guard.merged(peer, now_s)
        known = guard.snapshot()
        assert judged.counts == (peer not in known.refused)
        assert abs(known.usual) < 800.0
        assert abs(known.gap or 0.0) < 800.0
        assert 0 <= known.known <= 16
