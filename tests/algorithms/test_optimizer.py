"""Optimizers, worked out by hand and against torch's own."""

from collections.abc import Callable
from itertools import pairwise
from math import sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.algorithms.optimizer import BLOCK, Adam, Optimizer, Sgd
from skerry.vector import Float32

RATES = (0.1, 0.05, 0.2)


def after(rule: Optimizer, start: list[float], gradients: list[list[float]], rates: list[float]) -> list[float]:
    """Return where `rule` goes from `start`."""
    parameters = np.array(start, np.float32)
    state = rule.start(len(start))
    for gradient, rate in zip(gradients, rates, strict=True):
        state.step(parameters, np.array(gradient, np.float32), rate)
    return [float(value) for value in parameters]


# --- by hand ---


@given(
    momentum=st.sampled_from([0.0, 0.1, 0.9]),
    weight_decay=st.sampled_from([0.0, 0.01]),
    nesterov=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_sgd_follows_the_formula(momentum: float, weight_decay: float, nesterov: bool, seed: int) -> None:
    nesterov = nesterov and momentum > 0.0
    rng = np.random.default_rng(seed)
    parameters = rng.normal(size=9).astype(np.float32)
    expected, velocity = parameters.astype(np.float64), np.zeros(9)
    state = Sgd(momentum, weight_decay, nesterov).start(9)
    for rate in RATES:
        gradient = rng.normal(size=9).astype(np.float32)
        state.step(parameters, gradient, rate)
        direction = gradient + weight_decay * expected
        velocity = momentum * velocity + direction
        expected = expected - rate * (direction + momentum * velocity if nesterov else velocity)
    assert parameters == pytest.approx(expected, rel=1e-5, abs=1e-6)


@given(
    beta1=st.sampled_from([0.0, 0.9]),
    beta2=st.sampled_from([0.0, 0.9, 0.999]),
    weight_decay=st.sampled_from([0.0, 0.1]),
    decoupled=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_adam_follows_the_formula(beta1: float, beta2: float, weight_decay: float, decoupled: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parameters = rng.normal(size=9).astype(np.float32)
    expected, mean, square = parameters.astype(np.float64), np.zeros(9), np.zeros(9)
    state = Adam(beta1, beta2, 1e-3, weight_decay, decoupled).start(9)
    for step, rate in enumerate(RATES, 1):
        gradient = rng.normal(size=9).astype(np.float32)
        state.step(parameters, gradient, rate)
        direction = gradient + (0.0 if decoupled else weight_decay * expected)
        expected *= 1.0 - rate * weight_decay * decoupled
        mean = beta1 * mean + (1.0 - beta1) * direction
        square = beta2 * square + (1.0 - beta2) * direction**2
        root = np.sqrt(square / (1.0 - beta2**step)) + 1e-3
        expected = expected - rate * mean / (1.0 - beta1**step) / root
    assert parameters == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_two_steps_of_adam() -> None:
    """The first is one rate long whatever the gradient; the second: m = 0.9 * 0.1 * 2 + 0.1 * 1, v likewise."""
    assert after(Adam(), [1.0], [[2.0]], [0.1]) == pytest.approx([0.9])
    mean, square = (0.9 * 0.2 + 0.1) / 0.19, (0.999 * 0.004 + 0.001) / (1 - 0.999**2)
    assert after(Adam(), [1.0], [[2.0], [1.0]], [0.1, 0.1]) == pytest.approx([0.9 - 0.1 * mean / sqrt(square)])


def test_decoupled_decay_does_not_go_through_the_moments() -> None:
    assert after(Adam(weight_decay=0.5, decoupled=True), [1.0], [[0.0]], [0.1]) == pytest.approx([0.95])
    assert after(Adam(weight_decay=0.5), [1.0], [[0.0]], [0.1]) == pytest.approx([0.9])


@pytest.mark.parametrize("rule", [Sgd(momentum=0.0, weight_decay=0.0, clip_norm=1.0), Sgd(0.5, 0.0, True, 1.0)])
def test_a_long_gradient_is_cut_to_length_and_a_short_one_is_not(rule: Sgd) -> None:
    times = 1.5 if rule.nesterov else 1.0
    assert after(rule, [0.0, 0.0], [[3.0, 4.0]], [1.0]) == pytest.approx([-0.6 * times, -0.8 * times], rel=1e-6)
    assert after(rule, [0.0, 0.0], [[0.3, 0.4]], [1.0]) == pytest.approx([-0.3 * times, -0.4 * times], rel=1e-6)


def test_clipping_comes_before_weight_decay() -> None:
    assert after(Sgd(0.0, 0.1, clip_norm=1.0), [10.0], [[5.0]], [1.0]) == pytest.approx([10.0 - 1.0 - 1.0], rel=1e-6)


# --- what all have in common ---

ALL = [
    Sgd(momentum=0.0, weight_decay=0.0),
    Sgd(momentum=0.9, weight_decay=0.01, nesterov=True, clip_norm=0.5),
    Adam(weight_decay=0.01, clip_norm=0.5),
    Adam(weight_decay=0.01, decoupled=True),
]


@pytest.mark.parametrize("rule", ALL)
@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5])
def test_blocks_leave_no_seam_and_nothing_else_is_touched(rule: Optimizer, size: int) -> None:
    """Equal entries stay equal, those behind the parameters and the gradient stay as they are."""
    parameters, gradient = np.full(size + 3, 0.5, np.float32), np.full(size, 0.25, np.float32)
    state = rule.start(size)
    heights = [0.5]
    for _ in range(3):
        state.step(parameters, gradient, 0.1)
        assert np.all(parameters[:size] == parameters[:size][:1])
        heights += parameters[: min(size, 1)].tolist()
    assert all(lower < higher for higher, lower in pairwise(heights))
    assert parameters[size:].tolist() == [0.5] * 3
    assert np.all(gradient == 0.25)


@pytest.mark.parametrize("rule", ALL)
def test_a_seam_between_different_blocks(rule: Optimizer) -> None:
    """A vector of three blocks goes the way of its scattered entries; clipping apart, which looks at all of them."""
    rng = np.random.default_rng(4)
    clipped = rule.clip_norm is not None
    size = 2 * BLOCK + 77
    chosen = np.array([0, 1, BLOCK - 1, BLOCK, 2 * BLOCK - 1, 2 * BLOCK, size - 1])
    start = rng.standard_normal(size).astype(np.float32)
    gradient = np.zeros(size, np.float32) if clipped else rng.standard_normal(size).astype(np.float32)
    gradient[chosen] = rng.standard_normal(len(chosen))
    whole, few = start.copy(), start[chosen]
    state, few_state = rule.start(size), rule.start(len(chosen))
    for _ in range(3):
        state.step(whole, gradient, 0.1)
        few_state.step(few, gradient[chosen], 0.1)
    np.testing.assert_allclose(whole[chosen], few, rtol=1e-5)


@pytest.mark.parametrize("rule", ALL)
def test_every_run_starts_at_rest(rule: Optimizer) -> None:
    once = after(rule, [1.0, 2.0], [[0.5, -0.5]], [0.1])
    assert after(rule, [1.0, 2.0], [[0.5, -0.5]], [0.1]) == once


@pytest.mark.parametrize("rule", ALL)
def test_a_rate_of_zero_moves_nothing(rule: Optimizer) -> None:
    assert after(rule, [1.0, 2.0], [[0.5, -0.5]], [0.0]) == [1.0, 2.0]


@pytest.mark.parametrize("rule", [*ALL, Adam(clip_norm=1.0)])
@pytest.mark.parametrize("value", [1e30, np.inf, np.nan])
def test_a_gradient_that_left_the_numbers_makes_no_noise(rule: Optimizer, value: float) -> None:
    """Warnings are errors here; whoever runs the steps sees a loss or a model that is no number."""
    parameters = np.ones(2, np.float32)
    state = rule.start(2)
    for _ in range(3):
        state.step(parameters, np.array([value, 1.0], np.float32), 0.1)
    if not np.isfinite(value):
        assert not np.isfinite(parameters[0])


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(ValueError, match="momentum"):
        Sgd(momentum=0.0, nesterov=True)


# --- against torch ---

shapes = st.lists(st.lists(st.integers(1, 7), min_size=0, max_size=3), min_size=1, max_size=4)
rates = st.lists(st.floats(1e-5, 0.2), min_size=1, max_size=12)
clip_norms = st.none() | st.floats(1e-3, 30.0)
decays = st.just(0.0) | st.floats(1e-5, 0.5)
betas = st.just(0.0) | st.floats(0.1, 0.9999)


def by_torch(
    make: Callable[[Any], Any], shapes: list[list[int]], start: Float32, gradients: Float32, rates: list[float],
    clip_norm: float | None,
) -> Float32:  # fmt: skip
    """Return where torch's optimizer goes, with one tensor for each shape."""
    import torch

    counts = [int(np.prod(shape)) for shape in shapes]
    tensors = [
        torch.nn.Parameter(torch.from_numpy(part.copy()).reshape(shape))
        for part, shape in zip(np.split(start, np.cumsum(counts)[:-1]), shapes, strict=True)
    ]
    optimizer = make(tensors)
    for gradient, rate in zip(gradients, rates, strict=True):
        for tensor, part in zip(tensors, np.split(gradient, np.cumsum(counts)[:-1]), strict=True):
            tensor.grad = torch.from_numpy(part.copy()).reshape(tensor.shape)
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(tensors, clip_norm)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    return np.concatenate([tensor.detach().numpy().reshape(-1) for tensor in tensors]).astype(np.float32)


def assert_as_torch(
    rule: Optimizer, make: Callable[[Any], Any], shapes: list[list[int]], rates: list[float], seed: int, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    size = sum(int(np.prod(shape)) for shape in shapes)
    start = rng.standard_normal(size).astype(np.float32)
    gradients = (scale * rng.standard_normal((len(rates), size))).astype(np.float32)
    parameters, state = start.copy(), rule.start(size)
    for gradient, rate in zip(gradients, rates, strict=True):
        state.step(parameters, gradient, rate)
    expected = by_torch(make, shapes, start, gradients, rates, rule.clip_norm)
    np.testing.assert_allclose(parameters, expected, rtol=2e-4, atol=2e-5 * max(1.0, scale))


@pytest.mark.torch
@settings(max_examples=60, deadline=None)
@given(
    shapes=shapes,
    rates=rates,
    momentum=st.just(0.0) | st.floats(0.01, 0.99),
    weight_decay=decays,
    nesterov=st.booleans(),
    clip_norm=clip_norms,
    scale=st.sampled_from([1e-3, 1.0, 100.0]),
    seed=st.integers(0, 1 << 30),
)
def test_sgd_is_torchs(
    shapes: list[list[int]], rates: list[float], momentum: float, weight_decay: float, nesterov: bool,
    clip_norm: float | None, scale: float, seed: int,
) -> None:  # fmt: skip
    import torch

    rule = Sgd(momentum, weight_decay, nesterov and momentum > 0.0, clip_norm)

    def make(tensors: Any) -> Any:
        return torch.optim.SGD(tensors, momentum=momentum, weight_decay=weight_decay, nesterov=rule.nesterov)

    assert_as_torch(rule, make, shapes, rates, seed, scale)


@pytest.mark.torch
@settings(max_examples=60, deadline=None)
@given(
    shapes=shapes,
    rates=rates,
    beta1=betas,
    beta2=betas,
    epsilon=st.floats(1e-8, 1e-2),
    weight_decay=decays,
    decoupled=st.booleans(),
    clip_norm=clip_norms,
    scale=st.sampled_from([1e-3, 1.0, 100.0]),
    seed=st.integers(0, 1 << 30),
)
def test_adam_is_torchs(
    shapes: list[list[int]], rates: list[float], beta1: float, beta2: float, epsilon: float, weight_decay: float,
    decoupled: bool, clip_norm: float | None, scale: float, seed: int,
) -> None:  # fmt: skip
    import torch

    rule = Adam(beta1, beta2, epsilon, weight_decay, decoupled, clip_norm)

    def make(tensors: Any) -> Any:
        kind = torch.optim.AdamW if decoupled else torch.optim.Adam
        return kind(tensors, betas=(beta1, beta2), eps=epsilon, weight_decay=weight_decay)

    assert_as_torch(rule, make, shapes, rates, seed, scale)
