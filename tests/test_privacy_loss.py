"""Epsilon of what has left a device."""

from math import exp, inf, sqrt
from statistics import NormalDist

import pytest

from skerry import extras
from skerry.errors import ConfigError
from skerry.privacy_loss import epsilon


def exact(noise_multiplier: float, updates: int, delta: float) -> float:
    """Epsilon of the Gaussian mechanism, exactly: Balle and Wang 2018 (arXiv:1805.06530), theorem 8."""
    mu, cdf = 2.0 * sqrt(updates) / noise_multiplier, NormalDist().cdf
    low, high = 0.0, 1000.0
    for _ in range(200):
        middle = (low + high) / 2
        missed = cdf(mu / 2 - middle / mu) - exp(min(middle, 700.0)) * cdf(-mu / 2 - middle / mu)
        low, high = (middle, high) if missed > delta else (low, middle)
    return high


def test_what_never_left_tells_nothing_and_what_left_without_noise_everything() -> None:
    assert epsilon({}) == 0.0
    assert epsilon({5.0: 0}) == 0.0
    assert epsilon({0.0: 1}) == inf
    assert epsilon({5.0: 100, 0.0: 1}) == inf


def test_without_the_accountant_its_name_and_the_remedy_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"epsilon needs dp-accounting: pip install '\.\[privacy\]'"):
        epsilon({5.0: 3})


@pytest.mark.parametrize(("noise_multiplier", "updates"), [(5.0, 10), (20.0, 100), (40.0, 100)])
def test_it_bounds_the_exact_value_and_not_by_far(noise_multiplier: float, updates: int) -> None:
    pytest.importorskip("dp_accounting")
    found = epsilon({noise_multiplier: updates}, 1e-5)
    known = exact(noise_multiplier, updates, 1e-5)
    assert known <= found <= 1.25 * known


def test_updates_under_several_recipes_add_up() -> None:
    pytest.importorskip("dp_accounting")
    both = epsilon({10.0: 50, 20.0: 50})
    assert max(epsilon({10.0: 50}), epsilon({20.0: 50})) < both < epsilon({10.0: 100})
    assert epsilon({10.0: 50, 20.0: 50}, 1e-8) > both
