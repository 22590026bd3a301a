"""Made-up examples fit the manifest that they are made from."""

import numpy as np
import pytest

from skerry.tasks.manifest import Input, Label
from skerry.training.made_up import made_up


def test_features_have_mean_0_and_variance_1() -> None:
    x = made_up(Input(shape=(100,)), Label(classes=2), 0, 1000, seed=1).x
    assert x.dtype == np.float32
    assert abs(float(x.mean())) < 0.01
    assert abs(float(x.var()) - 1.0) < 0.01


def test_tokens_and_classes_are_of_every_allowed_number() -> None:
    x, y, noise = made_up(Input(shape=(9,), dtype="int64", values_below=5), Label(classes=3, shape=(9,)), 0, 99, seed=1)
    assert x.dtype == y.dtype == np.int64
    assert (x.shape, sorted(set(x.ravel().tolist()))) == ((99, 9), [0, 1, 2, 3, 4])
    assert (y.shape, sorted(set(y.ravel().tolist()))) == ((99, 9), [0, 1, 2])
    assert noise is None


@pytest.mark.parametrize("loss", ["mse", "bce_with_logits"])
def test_values_and_noise_are_in_the_unit_interval(loss: str) -> None:
    made = made_up(Input(shape=(2,)), Label(loss=loss, shape=(4,)), 7, 500, seed=1)  # type: ignore[arg-type]
    assert made.noise is not None
    for array, shape in ((made.y, (500, 4)), (made.noise, (500, 7))):
        assert array.dtype == np.float32
        assert array.shape == shape
        assert 0.0 <= array.min() < 0.01
        assert 0.99 < array.max() < 1.0


def test_the_same_seed_makes_the_same_batch() -> None:
    first, again, other = (made_up(Input(shape=(3,)), Label(classes=9), 2, 8, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))  # type: ignore[arg-type]
    assert not np.array_equal(first.x, other.x)
