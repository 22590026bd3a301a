"""How much a peer's model counts: the merge of two models by their ages, and the mean of all of them."""

from collections.abc import Mapping
from math import exp
from typing import NamedTuple

import numpy as np

from skerry.vector import Float32


class Merged(NamedTuple):
    """Outcome of `merge_by_age`."""

    weight: float  # of the peer's model, in (0, eta]: W += weight * (W_peer - W)
    age: float  # of the merged model


def merge_by_age(age: float, peer_age: float, eta: float, phi: float) -> Merged:
    """Return how a model of `age` takes in a peer's of `peer_age`.

    weight = eta / (1 + exp(-phi (peer_age - age) / max(1, age))); the merged age is the same mean of the two ages.
    Source: Spyker (2024, arXiv:2406.01439) and its released code.

    Args:
        age: of the own model, finite, >= 0.
        peer_age: of the peer's, finite, >= 0.
        eta: rate of the merge, in (0, 1].
        phi: how sharply age tells, >= 0.
    """
    weight = eta * _sigmoid(phi * (peer_age - age) / max(1.0, age))
    return Merged(weight, (1.0 - weight) * age + weight * peer_age)


def federated_model(own: Float32, own_age: float, replicas: Mapping[str, tuple[Float32, float]]) -> Float32:
    """Return the age-weighted mean of the own model and the replicas of the peers' models; all ages zero: plain mean.

    Args:
        own: float32, shape (n,); left alone.
        own_age: >= 0.
        replicas: by peer: model of the same shape, age >= 0.
    """
    ages = np.array([own_age, *(age for _, age in replicas.values())], np.float64)
    # By the largest age first: the sum of ages must not overflow.
    shares = ages / ages.max() if ages.max() > 0.0 else np.ones_like(ages)
    shares /= shares.sum()
    mean = own * np.float32(shares[0])
    scratch = np.empty_like(mean)
    for (replica, _), share in zip(replicas.values(), shares[1:], strict=True):
        mean += np.multiply(replica, np.float32(share), out=scratch)
    return mean


def _sigmoid(x: float) -> float:
    """Return 1 / (1 + exp(-x)) without overflow."""
    return 1.0 / (1.0 + exp(-x)) if x >= 0.0 else exp(x) / (1.0 + exp(x))
