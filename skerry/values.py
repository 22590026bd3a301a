"""How float32 values travel: as they are, halved, or in one byte each. Pure numpy: no I/O, no clock.

A device quantises before it computes its residual, so `quantise` returns exactly what the other side will decode, and
quantising twice changes nothing.
"""

from enum import StrEnum

import numpy as np
import numpy.typing as npt

from skerry.vector import Float32

FLOAT16_MAX = 65504.0
INT8_MAX = 127
# Bits of positive floats are in the order of the floats: the least normal one, and the largest over INT8_MAX.
_SCALE_BITS_MIN = int(np.finfo(np.float32).smallest_normal.view(np.uint32))
_SCALE_BITS_MAX = int(np.float32(np.finfo(np.float32).max / INT8_MAX).view(np.uint32))
_SCALE_MASK = np.uint32(0xFFFFFF80)  # a float32 without the seven lowest bits of its significand


class ValueEncoding(StrEnum):
    """How each value of a vector is written. The strings are the recipes' own words."""

    FLOAT32 = "float32"  # exact
    FLOAT16 = "float16"  # nearest even; beyond +-65504 saturates, below 2**-25 becomes zero
    INT8 = "int8"  # one float32 scale for the whole vector; the largest magnitude becomes +-127

    def beside(self, tail: int) -> "ValueEncoding":
        """Return what a model with `tail` untrainable entries takes instead: of int8 float16, as of no tail itself.

        Statistics and weights have no scale in common.
        """
        return ValueEncoding.FLOAT16 if tail and self is ValueEncoding.INT8 else self


def int8_scale(values: Float32) -> np.float32:
    """Return the step between neighbouring int8 values: max|values| / 127, cut to 17 significant bits.

    Every product of it with -127..127 is then an exact float32, which is why quantising is idempotent. Returns 0, which
    turns every value to zero, for no values and where the step would be subnormal (below 1.2e-38).
    """
    if len(values) == 0:
        return np.float32(0.0)
    magnitude: np.float32 = max(np.maximum.reduce(values), -np.minimum.reduce(values))
    scale: np.float32 = ((magnitude / np.float32(INT8_MAX)).view(np.uint32) & _SCALE_MASK).view(np.float32)
    return scale if is_int8_scale(scale) else np.float32(0.0)


def is_int8_scale(scale: np.float32) -> bool:
    """Say whether `scale` is one that `int8_scale` can return: zero, or normal and finite in 17 significant bits."""
    bits = int(scale.view(np.uint32))
    return bits == 0 or (not bits & 0x7F and _SCALE_BITS_MIN <= bits <= _SCALE_BITS_MAX)


def to_int8(values: Float32, scale: np.float32) -> npt.NDArray[np.int8]:
    """Return the nearest multiples of `scale`, ties to even, in -127..127; symmetric, so that -128 never occurs."""
    if scale == 0.0:
        return np.zeros(len(values), np.int8)
    steps: Float32 = np.minimum(np.maximum(np.rint(values / scale), -INT8_MAX), INT8_MAX)  # see `to_float16`
    return steps.astype(np.int8)


def to_float16(values: Float32) -> npt.NDArray[np.float16]:
    """Return the nearest float16 values; what lies beyond the largest finite one becomes that one."""
    # as `np.clip`, which takes four times as long for the few values of a small model
    return np.minimum(np.maximum(values, -FLOAT16_MAX), FLOAT16_MAX).astype(np.float16)


def quantise(values: Float32, encoding: ValueEncoding) -> Float32:
    """Return float32 of the same shape (k,): what a decoder will make of finite `values` written in `encoding`.

    Error per value: float32 none; float16 half a unit in the last place of 11 bits; int8 half of `int8_scale`.
    Not defined for NaN and infinite values: check before (`sparse.encode` refuses them).
    """
    match encoding:
        case ValueEncoding.FLOAT32:
            return values
        case ValueEncoding.FLOAT16:
            return to_float16(values).astype(np.float32)
        case ValueEncoding.INT8:
            scale = int8_scale(values)
            return to_int8(values, scale).astype(np.float32) * scale
