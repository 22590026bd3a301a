"""The region's direction: a fading mean of updates that few entries are named of."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.algorithms.direction import Direction
from skerry.vector import Float32, Indices


def entries(*pairs: tuple[int, float]) -> tuple[Indices, Float32, float]:
    """Return an update's entries, and its length."""
    values = np.array([value for _, value in pairs], np.float32)
    return np.array([index for index, _ in pairs]), values, float(np.linalg.norm(values))


def test_there_is_no_cosine_where_nothing_was_ever_named() -> None:
    direction = Direction(4)
    assert direction.cosine(*entries((0, 1.0))) is None
    direction.turn(*entries((1, 2.0)), 1.0, 10.0)
    assert direction.cosine(*entries((0, 1.0))) is None
    assert direction.updates == 1.0


def test_only_the_entries_that_an_update_names_are_compared() -> None:
    direction = Direction(100)
    direction.turn(*entries(*((index, 1.0) for index in range(100))), 1.0, 10.0)
    assert direction.cosine(*entries((3, 5.0), (4, 5.0))) == pytest.approx(1.0)
    assert direction.cosine(*entries((3, -5.0), (4, -5.0))) == pytest.approx(-1.0)
    assert direction.cosine(*entries((3, 5.0), (4, -5.0))) == pytest.approx(0.0, abs=1e-6)


@given(st.floats(1e-15, 1e15), st.floats(1e-15, 1e15))
def test_length_counts_for_nothing(first: float, second: float) -> None:
    direction = Direction(2)
    direction.turn(*entries((0, first)), 1.0, 1e9)
    direction.turn(*entries((1, second)), 1.0, 1e9)
    assert direction.cosine(*entries((0, 1.0), (1, 1.0))) == pytest.approx(1.0, abs=1e-5)


def test_what_is_old_fades() -> None:
    direction = Direction(2)
    direction.turn(*entries((0, 1.0)), 1.0, 4.0)
    direction.turn(*entries((1, 1.0)), 1.0, 4.0)
    assert direction.cosine(*entries((0, 1.0), (1, 0.0))) == pytest.approx(0.75 / np.hypot(0.75, 1.0), rel=1e-5)
    assert direction.updates == pytest.approx(1.75)


def test_a_share_counts_and_fades_by_as_much() -> None:
    direction = Direction(2)
    direction.turn(*entries((0, 1.0)), 1.0, 4.0)
    direction.turn(*entries((1, 1.0)), 0.5, 4.0)
    assert direction.cosine(*entries((0, 0.0), (1, 1.0))) == pytest.approx(0.5 / np.hypot(0.875, 0.5), rel=1e-5)


def test_it_fades_for_ever_without_losing_its_digits() -> None:
    direction = Direction(3)
    for number in range(2000):
        direction.turn(*entries((number % 2, 1.0), (2, 3.0)), 1.0, 8.0)
    assert direction.updates == pytest.approx(8.0)
    assert direction.cosine(*entries((0, 0.0), (1, 0.0), (2, 1.0))) == pytest.approx(0.973, abs=0.02)
