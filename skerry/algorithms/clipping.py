"""Clipping of a gradient by its length, so that one odd batch cannot throw the model far away."""

from math import sqrt

import numpy as np

from skerry.vector import Float32

SUMMED_AT_ONCE = 1 << 15  # squares in float32; the sums of such blocks are added in double precision
NORM_MIN = 1e-6  # added to the norm: torch's guard against a gradient of zero


def clip_factor(gradient: Float32, norm_max: float | None) -> float:
    """Return what to multiply `gradient` with so that its L2 norm is at most `norm_max`, as torch's clip_grad_norm_.

    In [0, 1]; 1 where `norm_max` is None. A norm beyond float32 gives 0, one that is no number gives nan.

    Args:
        gradient: float32, shape (n,), of all trainable parameters together; left alone.
        norm_max: > 0; None: whatever it is.

    Source: Pascanu, Mikolov and Bengio 2013, arXiv:1211.5063.
    """
    if norm_max is None:
        return 1.0
    return min(norm_max / (length_of(gradient) + NORM_MIN), 1.0)  # in this order: nan stays nan


def length_of(values: Float32) -> float:
    """Return the L2 norm of float32 `values` of shape (n,): infinite beyond float32, nan where one is no number."""
    blocks = (values[start : start + SUMMED_AT_ONCE] for start in range(0, len(values), SUMMED_AT_ONCE))
    with np.errstate(over="ignore", invalid="ignore"):
        return sqrt(sum(float(np.dot(block, block)) for block in blocks))
