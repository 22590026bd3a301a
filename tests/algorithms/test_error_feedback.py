"""No mass is lost: what was learned is sent, or waits in the residual."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from skerry.algorithms.error_feedback import compress_with_error_feedback, fade, lasting_share, restore
from skerry.algorithms.errors import DivergedError
from skerry.algorithms.uplink import Dense, Flare, TopK, Uplink
from skerry.values import ValueEncoding
from skerry.vector import Float32, Layout, SparseVector, Tensor

LAYOUT = Layout((Tensor("weights", (6, 5), 0), Tensor("bias", (5,), 30), Tensor("mean", (3,), 35, trainable=False)))

vectors = st_np.arrays(np.float32, LAYOUT.size, elements=st.floats(-1e5, 1e5, width=32))
uplinks: st.SearchStrategy[Uplink] = st.one_of(
    st.builds(TopK, density=st.floats(0.01, 1.0), scope=st.sampled_from(["tensor", "global"]), values=...),
    st.builds(Flare, density=st.floats(0.01, 1.0), values=...),
    st.builds(Dense, values=...),
)


@given(uplinks, vectors, vectors)
def test_sent_and_residual_are_difference_and_old_residual(
    uplink: Uplink, difference: Float32, residual: Float32
) -> None:
    before = difference.tobytes(), residual.tobytes()
    sent, left = compress_with_error_feedback(uplink, difference, residual, LAYOUT)
    total = difference + residual
    expected = total.copy()
    expected[sent.indices] -= sent.values
    assert left.tobytes() == expected.tobytes()
    unsent = np.setdiff1d(np.arange(LAYOUT.size), sent.indices)
    assert left[unsent].tobytes() == total[unsent].tobytes(), "what was not sent waits, exactly"
    assert (difference.tobytes(), residual.tobytes()) == before
    assert left.dtype == sent.values.dtype == np.float32


@given(vectors, vectors)
def test_exact_values_leave_nothing_of_what_was_sent(difference: Float32, residual: Float32) -> None:
    for uplink in (Dense(), TopK(density=0.2, values=ValueEncoding.FLOAT32)):
        sent, left = compress_with_error_feedback(uplink, difference, residual, LAYOUT)
        assert not left[sent.indices].any()
    assert not compress_with_error_feedback(Dense(), difference, residual, LAYOUT)[1].any()


def test_rounding_error_waits_for_the_next_update() -> None:
    difference = np.full(LAYOUT.size, 1.0 + 2.0**-13, np.float32)
    sent, left = compress_with_error_feedback(TopK(density=1.0), difference, np.zeros(LAYOUT.size, np.float32), LAYOUT)
    assert np.all(sent.values == 1.0)
    assert np.all(left == np.float32(2.0**-13))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("uplink", [TopK(), Flare(), Dense()])
def test_run_that_diverged_is_not_sent(uplink: Uplink, bad: float) -> None:
    difference = np.zeros(LAYOUT.size, np.float32)
    difference[17] = bad
    with pytest.raises(DivergedError, match=r"1 of 38 entries of the update are NaN or infinite.*decay\.initial"):
        compress_with_error_feedback(uplink, difference, np.zeros(LAYOUT.size, np.float32), LAYOUT)


def test_overflow_is_divergence() -> None:
    huge = np.full(LAYOUT.size, 3e38, np.float32)
    with pytest.raises(DivergedError):
        compress_with_error_feedback(TopK(), huge, huge, LAYOUT)


@given(uplinks, vectors, vectors, st.floats(0.0, 1.0))
def test_unapplied_mass_returns(uplink: Uplink, difference: Float32, residual: Float32, weight: float) -> None:
    sent, left = compress_with_error_feedback(uplink, difference, residual, LAYOUT)
    applied = np.zeros(LAYOUT.size, np.float32)
    sent.add_to(applied, weight)
    restored = restore(left, sent, weight)
    scale = np.abs(difference) + np.abs(residual) + 1.0
    assert np.all(np.abs(applied + restored - (difference + residual)) <= 1e-6 * scale)


def test_rejected_update_returns_whole_and_leaves_the_old_residual_alone() -> None:
    residual = np.array([1, 2, 3], np.float32)
    sent = SparseVector(3, np.array([0, 2], np.int64), np.array([10, 20], np.float32))
    assert restore(residual, sent, 0.0).tolist() == [11, 2, 23]
    assert restore(residual, sent, 0.75).tolist() == [3.5, 2, 8]
    assert residual.tolist() == [1, 2, 3]


@pytest.mark.parametrize("weight", [1.0, 1.5])
def test_fully_applied_update_returns_nothing(weight: float) -> None:
    residual = np.array([1, 2, 3], np.float32)
    assert restore(residual, SparseVector.full(residual), weight) is residual


@pytest.mark.parametrize(
    ("learned_at", "rate", "share"),
    [
        (0.1, 0.1, 1.0),  # while the rate stays nothing is lost
        (0.1, 0.2, 1.0),  # nor is anything enlarged
        (0.1, 0.025, 0.25),
        (0.1, 0.0, 0.0),
        (0.0, 0.1, 1.0),
        (0.0, 0.0, 1.0),
    ],
)
def test_what_was_learned_counts_by_the_rate_never_more(learned_at: float, rate: float, share: float) -> None:
    assert lasting_share(learned_at, rate) == share
    residual = np.array([4, -2, 0], np.float32)
    faded = fade(residual, learned_at, rate)
    assert faded.dtype == np.float32
    assert faded.tolist() == [4 * share, -2 * share, 0]
    assert (faded is residual) == (share == 1.0)
    assert residual.tolist() == [4, -2, 0]


def test_what_returns_is_no_more_than_what_still_counts() -> None:
    residual = np.array([1, 2, 3], np.float32)
    sent = SparseVector(3, np.array([0, 2], np.int64), np.array([10, 20], np.float32))
    assert restore(residual, sent, 0.5, share=0.5).tolist() == [3.5, 2, 8]
    assert restore(residual, sent, 0.5, share=0.0) is residual
