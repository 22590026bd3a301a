"""What becomes of a value on its way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from skerry.values import FLOAT16_MAX, ValueEncoding, int8_scale, is_int8_scale, quantise, to_int8
from skerry.vector import Float32

FLOATS = npst.arrays(
    np.float32, st.integers(0, 40), elements=st.floats(allow_nan=False, allow_infinity=False, width=32)
)
LARGEST = np.finfo(np.float32).max


@given(values=FLOATS, encoding=st.sampled_from(ValueEncoding))
@settings(deadline=None)
def test_quantising_twice_changes_nothing(values: Float32, encoding: ValueEncoding) -> None:
    """A device quantises before it keeps its residual and the codec quantises again: both must agree to the bit."""
    once = quantise(values, encoding)
    assert once.dtype == np.float32
    assert np.isfinite(once).all()
    np.testing.assert_array_equal(quantise(once, encoding), once)


@given(values=FLOATS)
@settings(deadline=None)
def test_an_int8_value_is_off_by_half_a_step_at_most(values: Float32) -> None:
    scale = int8_scale(values)
    error = np.abs(quantise(values, ValueEncoding.INT8).astype(np.float64) - values)
    # A scale of 17 bits lies up to 2**-16 below the ideal one: the largest value may be off by that much of 127 steps
    # more. A scale that would be subnormal is zero.
    assert np.all(error <= float(scale) * (0.5 + 127 * 2.0**-16) + (127 * 1.2e-38 if scale == 0 else 0))


@given(values=FLOATS)
@settings(deadline=None)
def test_the_int8_scale_is_one_that_decoders_take(values: Float32) -> None:
    scale = int8_scale(values)
    assert is_int8_scale(scale)
    assert abs(to_int8(values, scale)).max(initial=0) == (127 if scale > 0 else 0)


def test_int8_is_symmetric_and_uses_the_whole_range() -> None:
    values = np.array([-127.0, -63.6, 0.0, 1.4, 127.0], np.float32)
    assert quantise(values, ValueEncoding.INT8).tolist() == [-127.0, -64.0, 0.0, 1.0, 127.0]


@pytest.mark.parametrize("values", [[0.0, -0.0], [1e-40, -1e-40], []])
def test_what_int8_cannot_hold_becomes_zero(values: list[float]) -> None:
    assert not quantise(np.array(values, np.float32), ValueEncoding.INT8).any()


def test_the_largest_float32_survives_int8() -> None:
    values = quantise(np.array([LARGEST, -LARGEST], np.float32), ValueEncoding.INT8)
    assert np.isfinite(values).all()
    np.testing.assert_allclose(values, [LARGEST, -LARGEST], rtol=1e-4)


@pytest.mark.parametrize("bits", [0x80000000, 0x3F800001, 0x00000080, 0x7F800000, 0x7FC00000, 0xBF800000, 0x7C820000])
def test_decoders_take_no_scale_that_no_encoder_writes(bits: int) -> None:
    """-0, more than 17 bits, subnormal, infinite, NaN, negative, and one whose 127-fold is infinite."""
    assert not is_int8_scale(np.array([bits], np.uint32).view(np.float32)[0])


def test_statistics_beside_weights_are_no_case_for_one_scale() -> None:
    assert [one.beside(0) for one in ValueEncoding] == list(ValueEncoding)
    assert ValueEncoding.INT8.beside(1) is ValueEncoding.FLOAT16
    assert ValueEncoding.FLOAT32.beside(1) is ValueEncoding.FLOAT32


def test_float16_saturates() -> None:
    values = np.array([1e6, -1e6, 65519.0, 65520.0, 1e-8, 1.0], np.float32)
    expected = [FLOAT16_MAX, -FLOAT16_MAX, FLOAT16_MAX, FLOAT16_MAX, 0.0, 1.0]
    assert quantise(values, ValueEncoding.FLOAT16).tolist() == expected


def test_float32_is_exact() -> None:
    values = np.array([1e-45, -0.0, LARGEST], np.float32)
    assert quantise(values, ValueEncoding.FLOAT32).tobytes() == values.tobytes()
