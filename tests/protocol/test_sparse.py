"""Sparse vectors: exact both ways, near the entropy bound, and nothing but MalformedVector for anything else."""

import struct
from contextlib import suppress
from math import lgamma, log
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from skerry.protocol import sparse
from skerry.protocol.errors import MalformedVector
from skerry.protocol.rice import PARAMETER_MAX, RiceCode
from skerry.values import ValueEncoding, quantise
from skerry.vector import PARAMETERS_MAX, Float32, SparseVector

GOLDEN = Path(__file__).parent / "golden" / "vectors"
HEADER_BYTES = 12


def vector(size: int, entries: dict[int, float]) -> SparseVector:
    indices = np.array(sorted(entries), np.int64)
    return SparseVector(size, indices, np.array([entries[int(i)] for i in indices], np.float32))


FEW = vector(1000, {0: 1.0, 7: -0.5, 8: 0.25, 400: 127.0, 999: -65504.0})
EXAMPLES = {
    "few.float32": (FEW, ValueEncoding.FLOAT32),
    "few.float16": (FEW, ValueEncoding.FLOAT16),
    "few.int8": (FEW, ValueEncoding.INT8),
    "none.float32": (vector(1000, {}), ValueEncoding.FLOAT32),
    "none.int8": (vector(1000, {}), ValueEncoding.INT8),
    "all.float32": (vector(3, {0: 1.0, 1: 0.0, 2: -2.0}), ValueEncoding.FLOAT32),
    "all.float16": (vector(3, {0: 1.0, 1: 0.0, 2: -2.0}), ValueEncoding.FLOAT16),
    "all.int8": (vector(3, {0: 1.0, 1: 0.0, 2: -2.0}), ValueEncoding.INT8),
    "half.int8": (vector(16, {i: float(i) for i in range(0, 16, 2)}), ValueEncoding.INT8),
}
EVERY_EXAMPLE = pytest.mark.parametrize("name", EXAMPLES)


@st.composite
def vectors(draw: st.DrawFn) -> SparseVector:
    size = draw(st.one_of(st.integers(0, 60), st.integers(1, 5000), st.just(PARAMETERS_MAX)))
    if size == 0:
        return vector(0, {})
    chosen = draw(st.sets(st.integers(0, size - 1), max_size=80) | st.just(set(range(min(size, 60)))))
    floats = st.floats(allow_nan=False, allow_infinity=False, width=32)
    values = draw(npst.arrays(np.float32, len(chosen), elements=floats))
    return SparseVector(size, np.array(sorted(chosen), np.int64), values)


def golden(name: str) -> bytes:
    return bytes.fromhex((GOLDEN / f"{name}.hex").read_text())


@EVERY_EXAMPLE
def test_a_vector_has_the_bytes_that_were_agreed(name: str) -> None:
    assert sparse.encode(*EXAMPLES[name]).hex() == golden(name).hex()


@EVERY_EXAMPLE
def test_the_agreed_bytes_give_the_vector(name: str) -> None:
    wanted, encoding = EXAMPLES[name]
    assert_same(sparse.decode(golden(name), size=wanted.size), wanted, encoding)


def test_every_value_encoding_has_golden_bytes_in_both_forms() -> None:
    assert {path.stem for path in GOLDEN.glob("*.hex")} == set(EXAMPLES)
    assert {f"{form}.{encoding}" for form in ("few", "all") for encoding in ValueEncoding} <= set(EXAMPLES)


def assert_same(decoded: SparseVector, wanted: SparseVector, encoding: ValueEncoding) -> None:
    assert decoded.indices.dtype == np.int64
    assert decoded.values.dtype == np.float32
    np.testing.assert_array_equal(decoded.indices, wanted.indices)
    np.testing.assert_array_equal(decoded.values, quantise(wanted.values, encoding))
    assert decoded.indices.flags.writeable  # the caller's own arrays, not views of the message
    assert decoded.values.flags.writeable


def indices_bit_by_bit(data: bytes) -> list[int]:
    """Read the indices of the sparse form as docs/wire_format.md says, with nothing of the codec's."""
    parameter, count = data[2], int.from_bytes(data[8:12], "little")
    stream = int.from_bytes(data[HEADER_BYTES:], "little")
    unary = stream >> 8 * -(-count * parameter // 8)
    indices, index = [], -1
    for number in range(count):
        low = stream >> number * parameter & ((1 << parameter) - 1)
        quotient = 0
        while not unary & 1:
            quotient, unary = quotient + 1, unary >> 1
        unary >>= 1
        index += 1 + (quotient << parameter) + low
        indices.append(index)
    return indices


@pytest.mark.parametrize("name", [name for name in EXAMPLES if not name.startswith("all")])
def test_the_agreed_bytes_are_what_the_document_says(name: str) -> None:
    assert indices_bit_by_bit(golden(name)) == EXAMPLES[name][0].indices.tolist()


@given(wanted=vectors(), encoding=st.sampled_from(ValueEncoding))
@settings(deadline=None)
def test_the_decoder_returns_what_quantise_says(wanted: SparseVector, encoding: ValueEncoding) -> None:
    data = sparse.encode(wanted, encoding)
    decoded = sparse.decode(data, size=wanted.size)
    if len(decoded) == len(wanted):
        assert_same(decoded, wanted, encoding)
    else:  # all values took fewer bytes
        every = wanted.dense()
        assert_same(decoded, SparseVector.full(every), encoding)
        np.testing.assert_array_equal(decoded.values[wanted.indices], quantise(wanted.values, encoding))
    np.testing.assert_array_equal(
        sparse.decode(sparse.encode(decoded, encoding), size=wanted.size).values, decoded.values
    )


@given(wanted=vectors(), encoding=st.sampled_from(ValueEncoding))
@settings(deadline=None)
def test_a_vector_never_takes_more_bytes_than_all_its_values(wanted: SparseVector, encoding: ValueEncoding) -> None:
    value_bytes = {ValueEncoding.FLOAT32: 4, ValueEncoding.FLOAT16: 2, ValueEncoding.INT8: 1}[encoding]
    assert len(sparse.encode(wanted, encoding)) <= HEADER_BYTES + 4 + value_bytes * wanted.size


@given(chosen=st.sets(st.integers(0, 1 << 20), min_size=1, max_size=60))
@example(chosen={64, 129, 194, 387})  # gaps 64, 64, 64 and 192: more bits than the logarithm of their mean says
@settings(deadline=None)
def test_no_other_rice_parameter_takes_fewer_bits(chosen: set[int]) -> None:
    indices = np.array(sorted(chosen), np.int64)
    gaps = np.diff(indices, prepend=-1) - 1
    every = [len(gaps) * (r + 1) + int((gaps >> r).sum()) for r in range(PARAMETER_MAX + 1)]
    assert RiceCode.of(indices).bits == min(every)


@pytest.mark.parametrize("size", [1_000_000, 11_200_000])
@pytest.mark.parametrize("share", [1e-2, 1e-3])
def test_indices_take_within_1_percent_of_the_entropy_bound(size: int, share: float) -> None:
    count = int(size * share)
    rng = np.random.default_rng(1)
    indices = np.sort(rng.choice(size, count, replace=False, shuffle=False))
    data = sparse.encode(SparseVector(size, indices, np.ones(count, np.float32)))
    bound_bits = (lgamma(size + 1) - lgamma(count + 1) - lgamma(size - count + 1)) / log(2)
    assert 8 * (len(data) - HEADER_BYTES - 4 * count) < 1.01 * bound_bits


def test_the_dense_form_takes_what_is_not_named_from_the_background() -> None:
    """A receiver that sets values must not set to zero what did not change."""
    named = vector(100, dict.fromkeys(range(99), 5.0))
    background = np.full(100, 7.0, np.float32)
    decoded = sparse.decode(sparse.encode(named, background=background), size=100)
    assert decoded.values.tolist() == [5.0] * 99 + [7.0]
    assert (background == 7.0).all()
    assert sparse.decode(sparse.encode(named), size=100).values.tolist() == [5.0] * 99 + [0.0]


def test_the_sparse_form_does_not_look_at_the_background() -> None:
    assert sparse.encode(FEW, background=np.ones(1000, np.float32)) == sparse.encode(FEW)


@pytest.mark.parametrize(
    ("size", "indices", "values"),
    [
        (10, [1, 1], [1.0, 1.0]),
        (10, [2, 1], [1.0, 1.0]),
        (10, [-1, 1], [1.0, 1.0]),
        (10, [1, 10], [1.0, 1.0]),
        (10, [5, 4, 6], [1.0, 1.0, 1.0]),
        (10, [1, 2], [1.0]),
        (1, [0, 1], [1.0, 1.0]),
        (PARAMETERS_MAX + 1, [1], [1.0]),
        (10, [1, 2], [1.0, float("nan")]),
        (10, [1, 2], [1.0, float("inf")]),
        (3, [0, 0, 2], [1.0, 1.0, 1.0]),
        (4, [2, 1, 0, 3], [1.0, 1.0, 1.0, 1.0]),
    ],
)
@pytest.mark.parametrize("encoding", ValueEncoding)
def test_what_breaks_the_invariants_is_not_encoded(
    size: int, indices: list[int], values: list[float], encoding: ValueEncoding
) -> None:
    broken = SparseVector(size, np.array(indices, np.int64), np.array(values, np.float32))
    with pytest.raises(ValueError, match=r"indices|values"):
        sparse.encode(broken, encoding)


# --- what a peer may send instead ---


def header(form: int = 1, values: int = 1, parameter: int = 0, zero: int = 0, size: int = 16, count: int = 1) -> bytes:
    return struct.pack("<BBBBII", form, values, parameter, zero, size, count)


ONE = struct.pack("<f", 1.0)
INT8_SCALE = struct.pack("<f", 1.0)
BAD = {
    "nothing": b"",
    "half a header": header()[:6],
    "unknown form": header(form=3) + b"\x01" + ONE,
    "form 0": header(form=0) + b"\x01" + ONE,
    "unknown value encoding": header(values=4) + b"\x01" + ONE,
    "reserved byte": header(zero=1) + b"\x01" + ONE,
    "parameter too large": header(parameter=25) + bytes(4) + b"\x01" + ONE,
    "no indices": header() + ONE,
    "no values": header() + b"\x01",
    "half a value": header() + b"\x01" + ONE[:2],
    "a byte behind": header() + b"\x01" + ONE + b"\x00",
    "a byte behind the indices": header() + b"\x01\x00" + ONE,
    "no index": header() + b"\x00" + ONE,
    "two indices for one": header() + b"\x03" + ONE,
    "one index for two": header(count=2) + b"\x01" + ONE + ONE,
    "index 16 of 16": header() + b"\x00\x00\x01" + ONE,
    "index 16 of 16 by low bits": header(parameter=3, size=16) + b"\x00" + b"\x04" + ONE,
    "ones in the padding": header(parameter=3) + b"\x08" + b"\x01" + ONE,
    "more entries than the vector has": header(count=17) + b"\xff\xff\x01" + 17 * ONE,
    "2**32 - 1 entries": header(count=0xFFFFFFFF) + b"\x01" + ONE,
    "none, and a parameter": header(count=0, parameter=1),
    "none, and a byte": header(count=0) + b"\x00",
    "dense, but not all": header(form=2, count=15) + 15 * ONE,
    "dense and a parameter": header(form=2, count=16, parameter=1) + 16 * ONE,
    "dense and short": header(form=2, count=16) + 15 * ONE,
    "dense and long": header(form=2, count=16) + 17 * ONE,
    "int8 without scale": header(values=3) + b"\x01",
    "int8 value -128": header(values=3) + b"\x01" + INT8_SCALE + b"\x80",
    "int8 scale negative": header(values=3) + b"\x01" + struct.pack("<f", -1.0) + b"\x01",
    "int8 scale minus zero": header(values=3) + b"\x01" + struct.pack("<f", -0.0) + b"\x00",
    "int8 scale of 24 bits": header(values=3) + b"\x01" + b"\x01\x00\x80\x3f" + b"\x01",
    "int8 scale zero, value not": header(values=3) + b"\x01" + bytes(4) + b"\x01",
}
NOT_FINITE = {
    "float32 NaN": header() + b"\x01" + struct.pack("<f", float("nan")),
    "float32 infinite": header() + b"\x01" + struct.pack("<f", float("-inf")),
    "float16 NaN": header(values=2) + b"\x01" + b"\x00\x7e",
    "float16 infinite": header(values=2) + b"\x01" + b"\x00\x7c",
    "int8 scale NaN": header(values=3) + b"\x01" + struct.pack("<f", float("nan")) + b"\x01",
    "int8 scale infinite": header(values=3) + b"\x01" + struct.pack("<f", float("inf")) + b"\x01",
    "dense NaN": header(form=2, count=16) + 15 * ONE + struct.pack("<f", float("nan")),
}


def test_the_vectors_that_the_bad_ones_differ_from_are_good() -> None:
    assert sparse.decode(header() + b"\x01" + ONE, size=16).indices.tolist() == [0]
    assert sparse.decode(header() + b"\x00\x80" + ONE, size=16).indices.tolist() == [15]
    assert sparse.decode(header(parameter=3) + b"\x07" + b"\x02" + ONE, size=16).indices.tolist() == [15]
    assert sparse.decode(header(values=3) + b"\x01" + INT8_SCALE + b"\x81", size=16).values.tolist() == [-127.0]
    assert len(sparse.decode(header(form=2, count=16) + 16 * ONE, size=16)) == 16


@pytest.mark.parametrize("name", BAD)
def test_what_no_encoder_writes_is_malformed(name: str) -> None:
    with pytest.raises(MalformedVector) as caught:
        sparse.decode(BAD[name], size=16)
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize("name", NOT_FINITE)
def test_values_that_are_not_finite_are_refused_as_such(name: str) -> None:
    with pytest.raises(MalformedVector) as caught:
        sparse.decode(NOT_FINITE[name], size=16)
    assert caught.value.reason == "not_finite"


@pytest.mark.parametrize("size", [0, 15, 17])
def test_a_vector_of_another_size_is_refused_as_such(size: int) -> None:
    with pytest.raises(MalformedVector) as caught:
        sparse.decode(header() + b"\x01" + ONE, size=size)
    assert caught.value.reason == "wrong_size"


@EVERY_EXAMPLE
def test_one_flipped_bit_gives_malformed_or_a_valid_vector(name: str) -> None:
    size = EXAMPLES[name][0].size
    good = golden(name)
    for bit in range(8 * len(good)):
        flipped = bytearray(good)
        flipped[bit >> 3] ^= 1 << (bit & 7)
        try:
            decoded = sparse.decode(bytes(flipped), size=size)
        except MalformedVector:
            continue
        assert_valid(decoded, size)


def assert_valid(decoded: SparseVector, size: int) -> None:
    assert decoded.size == size
    assert len(decoded.indices) == len(decoded.values)
    assert (np.diff(decoded.indices, prepend=-1) > 0).all()
    assert (decoded.indices < size).all()
    assert np.isfinite(decoded.values).all()


@given(wanted=vectors(), encoding=st.sampled_from(ValueEncoding), data=st.data())
@settings(deadline=None)
def test_a_vector_that_ends_early_is_malformed_or_valid(
    wanted: SparseVector, encoding: ValueEncoding, data: st.DataObject
) -> None:
    encoded = sparse.encode(wanted, encoding)
    length = data.draw(st.integers(0, len(encoded) - 1))
    with suppress(MalformedVector):  # the values then start earlier: now and then that is a vector too
        assert_valid(sparse.decode(encoded[:length], size=wanted.size), wanted.size)


def test_float_arrays_of_another_kind_are_encoded_as_they_are_meant(rng: np.random.Generator) -> None:
    """Views with strides and big-endian arrays reach the wire as little-endian values in order."""
    values: Float32 = rng.standard_normal(20).astype(np.float32)
    plain = sparse.encode(SparseVector(100, np.arange(10), values[::2].copy()))
    assert sparse.encode(SparseVector(100, np.arange(10), values[::2])) == plain
