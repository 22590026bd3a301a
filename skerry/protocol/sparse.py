"""Sparse vectors to bytes and back, near the information-theoretic size; byte by byte in docs/wire_format.md.

A header of 12 bytes, the indices as Rice-coded gaps, the values. Where all `size` values take fewer bytes than some of
them and their indices, all are sent and no index.
"""

import struct

import numpy as np

from skerry.protocol import rice
from skerry.protocol.errors import MalformedVector
from skerry.values import ValueEncoding, int8_scale, is_int8_scale, to_float16, to_int8
from skerry.vector import PARAMETERS_MAX, Float32, SparseVector

_HEADER = struct.Struct("<BBBBII")  # form, value encoding, Rice parameter, 0, size, count
HEADER_BYTES = _HEADER.size
_SPARSE, _DENSE = 1, 2
_CODE = {ValueEncoding.FLOAT32: 1, ValueEncoding.FLOAT16: 2, ValueEncoding.INT8: 3}
_ENCODING = {code: encoding for encoding, code in _CODE.items()}
_VALUE_BYTES = {ValueEncoding.FLOAT32: 4, ValueEncoding.FLOAT16: 2, ValueEncoding.INT8: 1}
_SCALE_BYTES = 4  # in front of int8 values


def encode(
    vector: SparseVector, values: ValueEncoding = ValueEncoding.FLOAT32, *, background: Float32 | None = None
) -> bytes:
    """Return the bytes of `vector`, the smaller of the two forms.

    In the dense form the unnamed entries are those of `background` (float32, shape (size,)), zeros where it is None:
    give it where the receiver sets values instead of adding them. The values of both forms are what
    `quantise(vector.values, values)` returns, except that the scale of int8 is then over the background too.

    Raises:
        ValueError: indices not strictly ascending in [0, size), or NaN or infinite values.
    """
    size, count = vector.size, len(vector)
    if count != len(vector.values) or not 0 <= count <= size <= PARAMETERS_MAX:
        raise ValueError(f"{count} indices and {len(vector.values)} values of {size} entries")
    if count == 0:
        return _header(_SPARSE, values, 0, size, 0) + _pack_values(vector.values, values)
    if not 0 <= int(vector.indices[0]) <= int(vector.indices[-1]) < size:
        raise ValueError(f"indices {int(vector.indices[0])} to {int(vector.indices[-1])} of {size} entries")
    bits = 8 * _VALUE_BYTES[values]
    if count * (bits + 1) < size * bits:  # an index takes at least one bit: else it is not worth the search
        code = rice.RiceCode.of(vector.indices)
        if code.bits + bits * count < bits * size:
            header = _header(_SPARSE, values, code.parameter, size, count)
            return header + code.pack() + _pack_values(vector.values, values)
    elif not (vector.indices[1:] > vector.indices[:-1]).all():
        raise ValueError("indices must be strictly ascending and not negative")
    every = vector.values
    if count < size:
        every = np.zeros(size, np.float32) if background is None else background.astype(np.float32)
        vector.set_in(every)
    return _header(_DENSE, values, 0, size, size) + _pack_values(every, values)


def decode(data: bytes, *, size: int) -> SparseVector:
    """Return the vector of `size` entries that an untrusted peer wrote: indices and values are fresh arrays.

    Memory: bounded by the length of `data` and the number of entries it holds, whatever it claims.

    Raises:
        MalformedVector: of another size, truncated, too long, an index out of range, NaN or infinite values, or
            anything that `encode` does not write; no other error.
    """
    if len(data) < _HEADER.size:
        raise MalformedVector(f"{len(data)} bytes, a sparse vector has at least {_HEADER.size}")
    form, value_code, parameter, zero, claimed_size, count = _HEADER.unpack_from(data)
    encoding = _ENCODING.get(value_code)
    if form not in {_SPARSE, _DENSE} or encoding is None or parameter > rice.PARAMETER_MAX or zero != 0:
        raise MalformedVector(f"no known form of a sparse vector: {data[:4].hex()}")
    if claimed_size != size:
        raise MalformedVector(f"a vector of {claimed_size} entries, expected {size}", "wrong_size")
    if count > size or (form == _DENSE and count != size) or (parameter > 0 and (form == _DENSE or count == 0)):
        raise MalformedVector(f"{count} of {size} entries with Rice parameter {parameter} in form {form}")
    value_bytes = count * _VALUE_BYTES[encoding] + (_SCALE_BYTES if encoding is ValueEncoding.INT8 else 0)
    values_at = len(data) - value_bytes
    if values_at < _HEADER.size or (values_at > _HEADER.size and (form == _DENSE or count == 0)):
        raise MalformedVector(f"{len(data)} bytes for {count} of {size} entries")
    values = _unpack_values(data, values_at, count, encoding)
    if form == _DENSE or count == 0:
        return SparseVector(size, np.arange(count, dtype=np.int64), values)
    return SparseVector(size, rice.unpack(data[_HEADER.size : values_at], parameter, count, size), values)


def _header(form: int, values: ValueEncoding, parameter: int, size: int, count: int) -> bytes:
    return _HEADER.pack(form, _CODE[values], parameter, 0, size, count)


def _pack_values(values: Float32, encoding: ValueEncoding) -> bytes:
    if not np.isfinite(values).all():
        raise ValueError("NaN or infinite values")
    match encoding:
        case ValueEncoding.FLOAT32:
            return values.astype("<f4").tobytes()
        case ValueEncoding.FLOAT16:
            return to_float16(values).astype("<f2").tobytes()
        case ValueEncoding.INT8:
            scale = int8_scale(values)
            return struct.pack("<f", scale) + to_int8(values, scale).tobytes()


def _unpack_values(data: bytes, at: int, count: int, encoding: ValueEncoding) -> Float32:
    """Return float32 of shape (count,) from the end of `data`, which is known to be long enough."""
    values: Float32
    match encoding:
        case ValueEncoding.FLOAT32:
            values = np.frombuffer(data, "<f4", count, at).astype(np.float32)
        case ValueEncoding.FLOAT16:
            values = np.frombuffer(data, "<f2", count, at).astype(np.float32)
        case ValueEncoding.INT8:
            return _unpack_int8(data, at, count)
    if not np.isfinite(values).all():
        raise MalformedVector("NaN or infinite values", "not_finite")
    return values


def _unpack_int8(data: bytes, at: int, count: int) -> Float32:
    scale: np.float32 = np.frombuffer(data, "<f4", 1, at).astype(np.float32)[0]
    if not np.isfinite(scale):
        raise MalformedVector("a NaN or infinite scale", "not_finite")
    steps = np.frombuffer(data, np.int8, count, at + _SCALE_BYTES)
    if not is_int8_scale(scale) or (scale == 0.0 and steps.any()) or (count > 0 and steps.min() == -128):
        raise MalformedVector("an int8 scale or value that no encoder writes")
    values: Float32 = steps.astype(np.float32) * scale
    return values
