"""A robust mean is a mean that a minority cannot move far."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.algorithms.robust_mean import SORTED_AT_ONCE, robust_mean, trimmed
from skerry.vector import Float32, SparseVector

VALUES = st.floats(-100.0, 100.0, width=32)
LIES = st.floats(-(2.0**99), 2.0**99, width=32)
TRIMS = st.floats(0.0, 0.5)


def full(*values: float) -> SparseVector:
    return SparseVector.full(np.array(values, np.float32))


def by_device(vectors: Sequence[SparseVector], weight: float = 1.0) -> list[tuple[str, SparseVector, float]]:
    return [(f"d{number}", vector, weight) for number, vector in enumerate(vectors)]


@pytest.mark.parametrize(
    ("devices", "trim", "count"),
    [(10, 0.2, 2), (10, 0.19, 1), (10, 0.3, 3), (3, 0.3, 0), (5, 0.5, 2), (6, 0.5, 2), (1, 0.5, 0), (2, 0.5, 0)],
)
def test_how_many_are_left_out(devices: int, trim: float, count: int) -> None:
    assert trimmed(devices, trim) == count


def test_the_extremes_of_every_coordinate_are_left_out() -> None:
    vectors = [full(1, 50), full(2, 1), full(3, 2), full(4, 3), full(-90, 4)]
    assert robust_mean(by_device(vectors), 0.2).tolist() == [2.0, 3.0]
    assert robust_mean(by_device(vectors), 0.5).tolist() == [2.0, 3.0]
    assert robust_mean(by_device(vectors[:4]), 0.5).tolist() == [2.5, 2.5]
    assert robust_mean(by_device(vectors), 0.0) == pytest.approx([-16.0, 12.0])


def test_weights_count_before_anything_is_left_out() -> None:
    updates = [("a", full(8), 0.5), ("b", full(5), 1.0), ("c", full(30), 0.1)]
    assert robust_mean(updates, 0.5).tolist() == [4.0]


def test_the_updates_of_one_device_count_as_one() -> None:
    updates = [("fast", full(9), 1.0), ("fast", full(7), 1.0), ("fast", full(8), 0.5), ("b", full(1), 1.0)]
    assert robust_mean([*updates, ("c", full(2), 1.0)], 0.5).tolist() == [2.0]
    assert robust_mean(updates, 0.0) == pytest.approx([((9 + 7 + 4) / 3 + 1) / 2])


def test_what_is_not_named_is_zero() -> None:
    named = SparseVector(3, np.array([1]), np.array([6.0], np.float32))
    assert robust_mean(by_device([named, full(0, 3, 3), full(0, 3, 3)]), 0.0).tolist() == [0.0, 4.0, 2.0]
    assert robust_mean(by_device([named, named, full(3, 3, 3)]), 0.5).tolist() == [0.0, 6.0, 0.0]


@given(
    honest=st.lists(VALUES, min_size=3, max_size=12),
    lies=st.lists(LIES, max_size=12),
    trim=TRIMS,
    order=st.randoms(use_true_random=False),
)
def test_as_many_liars_as_are_left_out_stay_within_what_honest_devices_say(
    honest: list[float], lies: list[float], trim: float, order: "np.random.Generator"
) -> None:
    lies = lies[: len(honest) - 1]
    while len(lies) > trimmed(len(honest) + len(lies), trim):
        lies.pop()
    said = [*honest, *lies]
    order.shuffle(said)
    mean = float(robust_mean(by_device([full(value) for value in said]), trim)[0])
    assert min(honest) - 1e-4 <= mean <= max(honest) + 1e-4


@given(values=st.lists(st.lists(VALUES, min_size=2, max_size=2), min_size=1, max_size=9), trim=TRIMS)
def test_it_is_the_mean_of_the_middle_of_the_sorted_values(values: list[list[float]], trim: float) -> None:
    left_out = trimmed(len(values), trim)
    middle = np.sort(np.array(values, np.float64), axis=0)[left_out : len(values) - left_out]
    found = robust_mean(by_device([full(*row) for row in values]), trim)
    np.testing.assert_allclose(found, middle.mean(axis=0), atol=1e-3)


def test_long_vectors_are_taken_piece_by_piece() -> None:
    rng = np.random.default_rng(1)
    rows: list[Float32] = [rng.standard_normal(SORTED_AT_ONCE + 7).astype(np.float32) for _ in range(5)]
    found = robust_mean(by_device([SparseVector.full(row) for row in rows]), 0.5)
    np.testing.assert_array_equal(found, np.median(np.stack(rows), axis=0))
