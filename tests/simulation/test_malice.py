"""What lying devices make of what they learned, and that a guard finds them among production services."""

import random

import numpy as np
import pytest

from skerry.vector import Float32
from testbed.comparison.scenario import Malicious
from testbed.simulation.malice import lie

LEARNED: Float32 = np.array([3.0, 0.0, -4.0], np.float32)


def test_a_sign_flip_is_the_opposite() -> None:
    assert lie(Malicious(attack="sign_flip"), random.Random(1))(LEARNED).tolist() == [-3.0, 0.0, 4.0]
    assert lie(Malicious(attack="sign_flip", factor=2.0), random.Random(1))(LEARNED).tolist() == [-6.0, 0.0, 8.0]


def test_a_scaled_one_is_more_of_the_same() -> None:
    assert lie(Malicious(attack="scaled", factor=10.0), random.Random(1))(LEARNED).tolist() == [30.0, 0.0, -40.0]


def test_noise_has_the_length_and_nothing_else_of_it() -> None:
    learned = np.zeros(10_000, np.float32)
    learned[7] = 5.0
    alter = lie(Malicious(attack="noise", factor=3.0), random.Random(1))
    first, second = alter(learned), alter(learned)
    assert first.dtype == np.float32
    assert np.linalg.norm(first) == pytest.approx(15.0, rel=1e-4)
    assert abs(first[7]) < 1.0
    assert abs(float(np.dot(first, second))) < 10.0
    np.testing.assert_array_equal(lie(Malicious(attack="noise", factor=3.0), random.Random(1))(learned), first)
