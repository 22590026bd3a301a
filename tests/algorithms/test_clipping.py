from math import isnan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.algorithms.clipping import SUMMED_AT_ONCE, clip_factor


def vector(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_a_gradient_may_be_as_long_as_it_may_be() -> None:
    assert clip_factor(vector(3, 4), 5.1) == 1.0
    assert clip_factor(vector(3, 4), 2.5) == pytest.approx(0.5, rel=1e-6)
    assert clip_factor(vector(3, 4), None) == 1.0
    assert clip_factor(vector(0, 0), 1e-3) == 1.0
    assert clip_factor(vector(), 1.0) == 1.0


@pytest.mark.parametrize("size", [SUMMED_AT_ONCE - 1, SUMMED_AT_ONCE, SUMMED_AT_ONCE + 1, 3 * SUMMED_AT_ONCE + 7])
def test_every_entry_counts_once_wherever_it_stands(size: int) -> None:
    assert clip_factor(np.ones(size, np.float32), 1.0) == pytest.approx(size**-0.5, rel=1e-5)


def test_a_norm_that_is_no_number_is_not_hidden() -> None:
    assert isnan(clip_factor(vector(np.nan, 1), 1.0))
    assert clip_factor(vector(np.inf, 1), 1.0) == 0.0


@pytest.mark.torch
@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    norm_max=st.floats(1e-6, 1e3),
    scale=st.sampled_from([0.0, 1e-6, 1.0, 1e4]),
    seed=st.integers(0, 1 << 30),
)
def test_it_is_torchs_whatever_the_tensors(sizes: list[int], norm_max: float, scale: float, seed: int) -> None:
    import torch

    gradient = (scale * np.random.default_rng(seed).standard_normal(sum(sizes))).astype(np.float32)
    tensors = [torch.nn.Parameter(torch.zeros(size)) for size in sizes]
    for tensor, part in zip(tensors, np.split(gradient, np.cumsum(sizes)[:-1]), strict=True):
        tensor.grad = torch.from_numpy(part.copy())
    torch.nn.utils.clip_grad_norm_(tensors, norm_max)
    clipped = np.concatenate([tensor.grad.numpy() for tensor in tensors if tensor.grad is not None])
    np.testing.assert_allclose(gradient * np.float32(clip_factor(gradient, norm_max)), clipped, rtol=1e-5, atol=1e-12)
