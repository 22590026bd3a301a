"""The stages together, as a device and a coordinator use them: what must hold for every default recipe."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from skerry.algorithms.arrival import Arrival, Constant, Spyker
from skerry.algorithms.error_feedback import compress_with_error_feedback, restore
from skerry.algorithms.merge import CarryOver, Merge, NextCycle
from skerry.algorithms.uplink import Flare, TopK, Uplink
from skerry.values import ValueEncoding
from skerry.vector import Float32, Layout, SparseVector, Tensor

LAYOUT = Layout((Tensor("weights", (6, 5), 0), Tensor("bias", (5,), 30)))
N = LAYOUT.size


def zeros() -> Float32:
    return np.zeros(N, np.float32)


def local_difference(model: Float32, optimum: Float32, steps: int) -> Float32:
    """Descend the distance to a device's own optimum."""
    parameters = model.copy()
    for _ in range(steps):
        parameters -= np.float32(0.3) * (parameters - optimum)
    return parameters - model


def reference_rounds(optima: list[Float32], rounds: int, kept: list[tuple[slice, int]]) -> Float32:
    """Error-feedback FedAvg, written down again without any of the product's functions."""
    model, residuals = zeros(), [zeros() for _ in optima]
    share = np.float32(1.0 / len(optima))
    for _ in range(rounds):
        start = model.copy()
        for device, optimum in enumerate(optima):
            total = local_difference(start, optimum, 2) + residuals[device]
            sent = zeros()
            for entries, count in kept:
                order = np.argsort(-np.abs(total[entries]), kind="stable")[:count]
                sent[entries][order] = total[entries][order]
            residuals[device] = total - sent
            model += share * sent
    return model


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 5), st.sampled_from([TopK, Flare]))
def test_fresh_updates_of_one_region_are_error_feedback_fedavg(
    seed: int, devices: int, rounds: int, kind: type[TopK] | type[Flare]
) -> None:
    rng = np.random.default_rng(seed)
    optima = [rng.normal(size=N).astype(np.float32) for _ in range(devices)]
    uplink: Uplink = TopK(density=0.2, values=ValueEncoding.FLOAT32)
    if kind is Flare:
        uplink = Flare(density=0.2, values=ValueEncoding.FLOAT32, strength=0.0)
    arrival_rule = Constant(1.0 / devices)
    model, residuals = zeros(), [zeros() for _ in optima]
    for _ in range(rounds):
        start = model.copy()
        for device, optimum in enumerate(optima):
            difference = local_difference(start, optimum, 2)
            sent, residuals[device] = compress_with_error_feedback(uplink, difference, residuals[device], LAYOUT)
            weights = arrival_rule.decide([Arrival("pi", 1, 0.0, 10, 0.1, 2)])
            assert weights is not None
            sent.add_to(model, weights[0])
    assert model.tobytes() == reference_rounds(optima, rounds, [(slice(0, 30), 6), (slice(30, 35), 1)]).tobytes()


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_mass_is_kept_whatever_the_network_does(seed: int, updates: int) -> None:
    """Applied + in flight + residual = sum of local differences: updates get lost and retried, rejected, weighed."""
    rng = np.random.default_rng(seed)
    uplink, rule = TopK(density=0.1), Spyker()
    applied, learned, residual = zeros(), zeros(), zeros()
    waiting: list[SparseVector] = []
    for _ in range(updates):
        difference = rng.normal(size=N).astype(np.float32)
        learned += difference
        sent, residual = compress_with_error_feedback(uplink, difference, residual, LAYOUT)
        waiting.append(sent)
        while waiting and rng.random() < 0.6:  # else lost: it stays, and the same bytes are sent again
            arrived = waiting.pop(0)
            if rng.random() < 0.2:
                residual = restore(residual, arrived, 0.0)
                continue
            weights = rule.decide([Arrival("pi", 1, float(rng.integers(0, 9)), 10, 0.1, 5)])
            assert weights is not None
            arrived.add_to(applied, weights[0])
            residual = restore(residual, arrived, weights[0])
    in_flight = zeros()
    for sent in waiting:
        sent.add_to(in_flight)
    np.testing.assert_allclose(applied + in_flight + residual, learned, atol=1e-4)


@given(st.integers(0, 10_000), st.integers(0, 6))
def test_merges_in_mid_cycle_discard_nothing(seed: int, merges: int) -> None:
    """Sent + residual = what the steps did, however often the base changed under them."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=N).astype(np.float32)
    parameters, learned = base.copy(), zeros()
    for number in range(merges + 1):
        step = rng.normal(size=N).astype(np.float32)
        parameters += step
        learned += step
        if number < merges:
            newer = rng.normal(size=N).astype(np.float32)
            before = newer.tobytes(), base.tobytes(), parameters.tobytes()
            merged = CarryOver().mid_cycle(parameters, base, newer)
            assert (newer.tobytes(), base.tobytes(), parameters.tobytes()) == before
            parameters, base = merged, newer
    sent, residual = compress_with_error_feedback(TopK(density=0.1), parameters - base, zeros(), LAYOUT)
    np.testing.assert_allclose(sent.dense() + residual, learned, atol=1e-4)


def test_next_cycle_does_not_merge() -> None:
    rule: Merge = NextCycle()
    assert rule.mid_cycle(zeros(), zeros(), zeros()) is None
