"""The Gaussian mechanism: what leaves is the clipped difference and noise in every entry."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.algorithms.privacy import Gaussian, NoPrivacy

HUSHED = 1e-9  # a noise multiplier that leaves next to nothing of the noise


def generator() -> np.random.Generator:
    return np.random.default_rng(1)


def test_nothing_is_done_without_privacy() -> None:
    difference = np.array([3.0, 4.0], np.float32)
    assert NoPrivacy().protect(difference, generator) is difference


@given(st.lists(st.floats(-(2.0**60), 2.0**60, width=32), min_size=1, max_size=30), st.floats(1e-3, 1e3))
def test_a_difference_is_never_longer_than_the_bound(values: list[float], clip_norm: float) -> None:
    difference = np.array(values, np.float32)
    kept = difference.copy()
    clipped = Gaussian(clip_norm=clip_norm, noise_multiplier=HUSHED).protect(difference, generator)
    assert np.linalg.norm(clipped.astype(np.float64)) <= clip_norm * (1 + 1e-5)
    np.testing.assert_array_equal(difference, kept)


def test_a_short_one_stays_as_it_is() -> None:
    difference = np.array([0.3, -0.4], np.float32)
    protected = Gaussian(clip_norm=1.0, noise_multiplier=HUSHED).protect(difference, generator)
    np.testing.assert_allclose(protected, difference, rtol=1e-6)


@pytest.mark.parametrize(("clip_norm", "noise_multiplier"), [(1.0, 5.0), (0.1, 2.0)])
def test_every_entry_gets_noise_of_the_promised_size(clip_norm: float, noise_multiplier: float) -> None:
    difference = np.zeros(200_000, np.float32)
    difference[0] = 100.0
    rule = Gaussian(clip_norm=clip_norm, noise_multiplier=noise_multiplier)
    protected = rule.protect(difference, lambda: np.random.default_rng(1))
    noise = protected[1:].astype(np.float64) / (clip_norm * noise_multiplier)
    assert noise.std() == pytest.approx(1.0, rel=0.01)
    assert noise.mean() == pytest.approx(0.0, abs=0.01)
    assert np.count_nonzero(protected) == len(protected)
    assert np.abs(protected[0]) < clip_norm * (1 + 6 * noise_multiplier)
    again = rule.protect(difference, lambda: np.random.default_rng(2))
    assert not np.array_equal(protected, again)


def test_the_norm_that_is_chosen_keeps_the_noise_of_one_device_within_what_it_can_teach() -> None:
    """Over as many updates of weight 1 as move the model by a length of 1, the noise moves it by no more."""
    for entries, noise_multiplier in ((1_500, 5.0), (1_500, 20.0), (1_000_000, 5.0)):
        rule = Gaussian(noise_multiplier=noise_multiplier)
        norm = rule.norm(entries)
        updates = 1.0 / norm
        assert noise_multiplier * norm * np.sqrt(updates * entries) == pytest.approx(1.0)
        assert rule.devices_wanted(entries) == pytest.approx(1.2)
    assert Gaussian(noise_multiplier=5.0).norm(1_500) == pytest.approx(1.0 / 37_500)
    assert Gaussian(noise_multiplier=0.01).norm(100) == 1.0, "with hardly any noise it need not be short"
    assert Gaussian(noise_multiplier=5.0).norm(0) == pytest.approx(0.04)


def test_a_norm_that_was_asked_for_is_taken_and_wants_its_devices() -> None:
    rule = Gaussian(clip_norm=0.5, noise_multiplier=5.0)
    assert rule.norm(1_500) == 0.5
    assert rule.devices_wanted(1_500) == pytest.approx(1.2 * 0.5 * 37_500)
    twice = Gaussian(clip_norm=1.2, noise_multiplier=5.0)
    assert twice.devices_wanted(1_500) == pytest.approx(1.2 * 1.2 * 37_500)


def test_noise_and_difference_follow_the_chosen_norm() -> None:
    difference = np.zeros(10_000, np.float32)
    difference[0] = 100.0
    rule = Gaussian(noise_multiplier=5.0)
    protected = rule.protect(difference, generator)
    assert protected[1:].std() == pytest.approx(5.0 * rule.norm(10_000), rel=0.03)
    assert abs(protected[0]) < rule.norm(10_000) * 31
