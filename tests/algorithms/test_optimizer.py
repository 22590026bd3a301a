"""Stochastic gradient descent, against its textbook form in double precision."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.algorithms.optimizer import BLOCK, Sgd


@given(
    momentum=st.sampled_from([0.0, 0.1, 0.9]),
    weight_decay=st.sampled_from([0.0, 0.01]),
    nesterov=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_steps_follow_the_formula(momentum: float, weight_decay: float, nesterov: bool, seed: int) -> None:
    nesterov = nesterov and momentum > 0.0
    rng = np.random.default_rng(seed)
    parameters = rng.normal(size=12).astype(np.float32)
    expected, velocity = parameters[:9].astype(np.float64), np.zeros(9)
    state = Sgd(momentum, weight_decay, nesterov).start(9)
    tail = parameters[9:].tolist()
    for rate in (0.1, 0.05, 0.2):
        gradient = rng.normal(size=9).astype(np.float32)
        before = gradient.tobytes()
        state.step(parameters, gradient, rate)
        assert gradient.tobytes() == before
        direction = gradient + weight_decay * expected
        velocity = momentum * velocity + direction
        expected = expected - rate * (direction + momentum * velocity if nesterov else velocity)
    assert parameters[:9] == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert parameters[9:].tolist() == tail, "what is not trainable stays"


def test_blocks_leave_no_seam() -> None:
    size = 2 * BLOCK + 5
    parameters, gradient = np.zeros(size, np.float32), np.ones(size, np.float32)
    state = Sgd(momentum=0.5, weight_decay=0.0).start(size)
    state.step(parameters, gradient, 0.1)
    state.step(parameters, gradient, 0.1)
    assert np.all(parameters == parameters[0])
    assert parameters[0] == pytest.approx(-0.25)


def test_every_run_starts_at_rest() -> None:
    rule, gradient = Sgd(momentum=0.9, weight_decay=0.0), np.ones(1, np.float32)
    for _ in range(2):
        parameters = np.zeros(1, np.float32)
        rule.start(1).step(parameters, gradient, 1.0)
        assert parameters[0] == -1.0


def test_model_without_parameters() -> None:
    Sgd().start(0).step(np.empty(0, np.float32), np.empty(0, np.float32), 0.1)


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(ValueError, match="momentum"):
        Sgd(momentum=0.0, nesterov=True)
