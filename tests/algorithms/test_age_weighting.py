"""A peer's model counts by its age."""

from math import exp

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.algorithms.age_weighting import federated_model, merge_by_age

ages = st.floats(0.0, 1e300)


def test_merge_follows_the_formula() -> None:
    weight, age = merge_by_age(10.0, 20.0, eta=0.5, phi=1.5)
    assert weight == pytest.approx(0.5 / (1 + exp(-1.5)))
    assert age == pytest.approx((1 - weight) * 10.0 + weight * 20.0)


def test_models_of_equal_age_meet_half_way_of_the_rate() -> None:
    assert merge_by_age(0.0, 0.0, eta=0.5, phi=1.5) == (0.25, 0.0)
    assert merge_by_age(7.0, 7.0, eta=0.8, phi=3.0) == (0.4, 7.0)


@given(ages, ages)
def test_merged_age_lies_between(own: float, peer: float) -> None:
    weight, age = merge_by_age(own, peer, eta=0.5, phi=1.5)
    assert 0.0 < weight <= 0.5
    assert min(own, peer) * (1 - 1e-12) <= age <= max(own, peer) * (1 + 1e-12)


def test_federated_model_is_the_age_weighted_mean() -> None:
    own = np.array([1.0, 0.0], np.float32)
    replicas = {"b": (np.array([0.0, 1.0], np.float32), 30.0), "c": (np.array([0.0, 0.0], np.float32), 60.0)}
    assert federated_model(own, 10.0, replicas).tolist() == pytest.approx([0.1, 0.3])
    assert own.tolist() == [1.0, 0.0]


def test_federated_model_of_models_without_age_is_the_plain_mean() -> None:
    replicas = {"b": (np.array([3.0], np.float32), 0.0)}
    assert federated_model(np.array([1.0], np.float32), 0.0, replicas).tolist() == [2.0]


def test_federated_model_alone_is_the_own_model() -> None:
    own = np.array([0.1, -3.0], np.float32)
    assert federated_model(own, 12.0, {}).tobytes() == own.tobytes()


@given(ages, ages)
def test_federated_model_of_equal_models_is_that_model(own_age: float, peer_age: float) -> None:
    model = np.array([1.0, -2.0], np.float32)
    mean = federated_model(model, own_age, {"b": (model, peer_age)})
    assert mean.dtype == np.float32
    assert mean.tolist() == pytest.approx([1.0, -2.0], rel=1e-6)
