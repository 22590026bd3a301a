"""How much an update counts, and when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from skerry.algorithms.arrival import Arrival, Constant, FedBuff, Median, Spyker, TrimmedMean, staleness_discount


def arrival(staleness: float, sequence: int = 1) -> Arrival:
    return Arrival("pi", sequence, staleness, examples=100, loss=0.5, steps=20)


@pytest.mark.parametrize(("staleness", "weight"), [(0.0, 0.6), (3.0, 0.3), (99.0, 0.06), (1e9, 0.6 / 1001**0.5)])
def test_spyker_discounts_stale_updates(staleness: float, weight: float) -> None:
    assert list(Spyker().decide([arrival(staleness)]) or ()) == [pytest.approx(weight)]


@given(st.floats(0.0, 1e15), st.floats(0.0, 1e15))
def test_staler_never_counts_more(left: float, right: float) -> None:
    low, high = sorted([left, right])
    assert 0.0 < staleness_discount(high, 0.5) <= staleness_discount(low, 0.5) <= 1.0


def test_negative_staleness_counts_as_fresh() -> None:
    assert staleness_discount(-5.0, 0.5) == 1.0


def test_constant_ignores_staleness() -> None:
    assert Constant(0.4).decide([arrival(0.0), arrival(50.0)]) == [0.4, 0.4]


def test_fedbuff_waits_for_its_buffer_and_applies_the_mean() -> None:
    rule = FedBuff(size=3, server_rate=0.9)
    held = [arrival(0.0), arrival(9.0)]  # of now, and of three buffers ago
    assert rule.decide(held[:1]) is None
    assert rule.decide(held) is None
    assert list(rule.decide([*held, arrival(0.0)]) or ()) == [
        pytest.approx(0.3),
        pytest.approx(0.15),
        pytest.approx(0.3),
    ]


@pytest.mark.parametrize("rule", [TrimmedMean(size=3, trim=0.4, server_rate=0.9), Median(size=3, server_rate=0.9)])
def test_a_robust_mean_waits_for_devices_not_for_updates(rule: TrimmedMean | Median) -> None:
    held = [replace(arrival(9.0), device=device) for device in ("a", "a", "a", "b")]  # three buffers ago
    assert rule.decide(held) is None
    weights = rule.decide([*held, replace(arrival(0.0), device="c")])
    assert list(weights or ()) == pytest.approx([0.45] * 4 + [0.9])


def test_a_trimmed_mean_that_never_leaves_anybody_out_is_refused() -> None:
    TrimmedMean(size=10, trim=0.1)
    with pytest.raises(ValueError, match="less than one of 9 devices"):
        TrimmedMean(size=9, trim=0.1)


def test_only_means_average() -> None:
    assert FedBuff.averages
    assert TrimmedMean.averages
    assert Median.averages
    assert not Spyker.averages
    assert not Constant.averages
