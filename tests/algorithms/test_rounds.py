"""Who takes part in a round, and when it is over."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.algorithms.arrival import Arrival, FedAvg
from skerry.algorithms.rounds import Rounds, RoundState

NAMES = [f"d{number}" for number in range(10)]


def rounds(state: RoundState | None = None, delivered: Iterable[str] = (), **keys: float) -> Rounds:
    return Rounds(FedAvg(**keys), "here/00000001", 0.0, state, delivered)  # type: ignore[arg-type]


def test_a_round_is_over_when_the_slowest_has_delivered() -> None:
    one = rounds()
    assert not one.under_way
    assert one.begin(NAMES, 7, 0.0)
    assert set(one.awaited) == set(NAMES)
    for name in NAMES:
        assert not one.is_over(1.0)
        assert one.takes(name, 7)
        one.delivered(name)
        assert not one.takes(name, 7)
    assert one.is_over(1.0)
    one.end()
    assert not one.under_way
    assert not one.is_over(1.0)


def test_a_dead_device_cannot_stop_the_rounds() -> None:
    one = rounds(round_timeout_s=30.0)
    one.begin(["dead", "live"], 0, 100.0)
    one.delivered("live")
    assert not one.is_over(129.9)
    assert one.is_over(130.0)


def test_a_device_whose_update_cannot_be_used_is_not_waited_for() -> None:
    one = rounds()
    one.begin(["bad", "live"], 0, 0.0)
    one.excuse("bad")
    assert not one.is_over(0.0)
    one.delivered("live")
    assert one.is_over(0.0)


def test_an_update_of_an_older_model_or_between_rounds_is_late() -> None:
    one = rounds()
    assert not one.takes("d0", 0)
    one.begin(["d0"], 5, 0.0)
    assert not one.takes("d0", 4)
    assert one.takes("d0", 5)
    assert one.takes("d0", 6)  # a peer's model was merged in mid-round
    assert one.takes("stranger", 5)
    one.end()
    assert not one.takes("d0", 5)


def test_no_round_begins_before_enough_devices_are_there() -> None:
    one = rounds(devices_min=3)
    assert not one.begin(NAMES[:2], 0, 0.0)
    assert (one.under_way, one.number) == (False, 0)
    assert one.begin(NAMES[:3], 0, 0.0)
    assert one.number == 1


@given(st.floats(0.001, 1.0), st.integers(1, 50), st.integers(0, 20))
def test_a_fraction_is_drawn_and_nobody_twice(fraction: float, devices: int, earlier: int) -> None:
    one = rounds(RoundState(earlier, 0, ()), fraction=fraction)
    names = [f"d{number}" for number in range(devices)]
    one.begin(names, 0, 0.0)
    selected = one.snapshot().selected
    assert len(selected) == len(set(selected)) == max(1, round(fraction * devices))
    assert set(selected) <= set(names)
    assert one.number == earlier + 1


def test_a_draw_follows_from_seed_and_number_and_changes_with_them() -> None:
    def draws(order: list[str], seed: str) -> list[tuple[str, ...]]:
        one, drawn = Rounds(FedAvg(fraction=0.3), seed, 0.0, None, ()), []
        for _ in range(20):
            one.begin(order, 0, 0.0)
            drawn.append(one.snapshot().selected)
            one.end()
        return drawn

    first = draws(NAMES, "a")
    assert first == draws(NAMES[::-1], "a")
    assert first != draws(NAMES, "b")
    assert {name for selected in first for name in selected} == set(NAMES)


def test_a_restart_goes_on_with_the_round_and_gives_it_its_time_again() -> None:
    one = rounds(round_timeout_s=10.0)
    one.begin(["d0", "d1", "d2"], 4, 0.0)
    one.delivered("d1")
    again = Rounds(FedAvg(round_timeout_s=10.0), "here/00000001", 1000.0, one.snapshot(), ["d1"])
    assert again.under_way
    assert set(again.awaited) == {"d0", "d2"}
    assert not again.takes("d1", 4)
    assert not again.takes("d0", 3)
    assert not again.is_over(1009.0)
    assert again.is_over(1010.0)


def test_the_mean_is_weighted_by_examples() -> None:
    held = [Arrival(name, 1, 0.0, examples, 0.5, 20) for name, examples in (("a", 100), ("b", 300))]
    assert FedAvg().decide(held) == pytest.approx([0.25, 0.75])
    assert FedAvg(server_rate=0.5).decide(held) == pytest.approx([0.125, 0.375])
