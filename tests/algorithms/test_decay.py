"""Devices that contribute more learn more slowly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.algorithms.decay import BudgetLogistic, NoDecay, Relative

counts = st.lists(st.integers(0, 1 << 40), min_size=1, max_size=20)


def test_equal_devices_keep_the_initial_rate() -> None:
    assert NoDecay(0.3).learning_rate(10**9, [10**9]) == 0.3
    assert Relative(0.05).learning_rate(100, [100, 100, 100]) == 0.05
    assert Relative(0.05).learning_rate(0, []) == 0.05


def test_relative_decay_is_a_share_of_the_mean() -> None:
    rule = Relative(initial=0.1, beta=0.5)
    assert rule.learning_rate(150, [150, 50]) == pytest.approx(0.1 * (1 - 0.5 * 0.5))
    assert rule.learning_rate(150_000, [150_000, 50_000]) == pytest.approx(0.1 * (1 - 0.5 * 0.5)), "it does not grow"
    assert rule.learning_rate(50, [150, 50]) == 0.1
    assert rule.learning_rate(400, [400, 0, 0, 0]) == rule.minimum


def test_relative_decay_does_not_judge_the_first_updates() -> None:
    assert Relative(initial=0.1, beta=0.5).learning_rate(2, [2, 0]) == pytest.approx(0.1 * (1 - 0.5 * 0.1))


def test_budget_logistic_falls_when_the_budget_is_spent() -> None:
    rule = BudgetLogistic(initial=0.05, planned_updates=6000)
    everybody = [0] * 6  # 1000 each, 700 of them at full rate
    assert rule.learning_rate(0, everybody) == pytest.approx(0.05, rel=1e-6)
    assert rule.learning_rate(700, everybody) == pytest.approx(0.05 / (1 + 2.718281828459045**-4), rel=1e-4)
    assert rule.learning_rate(700 + 134, everybody) == pytest.approx(0.025, rel=0.02)
    assert rule.learning_rate(10**12, everybody) == pytest.approx(1e-6)


@given(counts, st.integers(0, 1 << 40))
def test_rates_stay_in_bounds_and_never_rise_with_updates(others: list[int], more: int) -> None:
    for rule in (Relative(), BudgetLogistic()):
        fewer_rate = rule.learning_rate(others[0], others)
        more_rate = rule.learning_rate(others[0] + more, [others[0] + more, *others[1:]])
        assert 1e-6 * (1 - 1e-9) <= more_rate <= fewer_rate <= 0.05


@pytest.mark.parametrize("rule", [Relative, BudgetLogistic])
def test_minimum_must_be_below_the_initial_rate(rule: type[Relative] | type[BudgetLogistic]) -> None:
    with pytest.raises(ValueError, match=r"minimum is 0\.1"):
        rule(initial=0.05, minimum=0.1)
