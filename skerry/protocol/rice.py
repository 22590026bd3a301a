"""Strictly ascending indices as Rice-coded gaps. numpy only; decoding has no loop over entries.

A gap g, the number of entries skipped, is cut into a quotient g >> r and r low bits (Rice and Plaut, 1971). The two
go to separate streams, low bits packed side by side and quotients in unary, because then the positions of the ones in
the unary stream, less their rank, *are* the running sums of the quotients: one `nonzero` decodes all of them. Bits
fill bytes from the lowest.

For gaps of random top-k choices this takes within 1 % of log2 C(n, k) bits; r = 0 is a bitmap.
"""

import msgspec
import numpy as np
import numpy.typing as npt

from skerry.protocol.errors import MalformedVector
from skerry.vector import Indices

PARAMETER_MAX = 24  # r bits that start anywhere in a byte lie within one 32-bit word

# Eight low-bit fields of r bits are r bytes: where in these the word of each field starts, and by how much to shift it.
_FIELD_BYTES = [np.arange(8) * r >> 3 for r in range(PARAMETER_MAX + 1)]
_FIELD_SHIFTS = [(np.arange(8) * r & 7).astype(np.uint32) for r in range(PARAMETER_MAX + 1)]


class RiceCode(msgspec.Struct, frozen=True, eq=False):
    """Gaps and the parameter that codes them in the fewest bits."""

    parameter: int
    gaps: Indices  # int64, shape (k,)
    quotients: Indices  # gaps >> parameter
    bits: int  # length of both streams without the padding of each to whole bytes

    @classmethod
    def of(cls, indices: Indices) -> "RiceCode":
        """Choose the parameter for `indices`, int64 of shape (k,), k > 0.

        Bits as a function of the parameter are convex (each further bit saves at most half of what the one before it
        saved), so going downhill from the mean gap's logarithm finds the minimum over all parameters.

        Raises:
            ValueError: not strictly ascending from 0 on.
        """
        gaps = indices.copy()
        gaps[1:] -= indices[:-1]
        gaps[1:] -= 1
        if np.minimum.reduce(gaps) < 0:
            raise ValueError("indices must be strictly ascending and not negative")
        mean = (int(indices[-1]) + 1 - len(gaps)) // len(gaps)
        parameter = min(PARAMETER_MAX, max(0, mean.bit_length() - 1))
        quotients = gaps >> parameter
        bits = _bits(quotients, parameter)
        for step in (-1, 1):
            while 0 <= parameter + step <= PARAMETER_MAX:
                others = gaps >> parameter + step
                if (other_bits := _bits(others, parameter + step)) >= bits:
                    break
                parameter, quotients, bits = parameter + step, others, other_bits
        return cls(parameter, gaps, quotients, bits)

    def pack(self) -> bytes:
        """Return the low bits and behind them the quotients, each stream padded with zero bits to whole bytes."""
        return self._low_bits() + self._unary()

    def _low_bits(self) -> bytes:
        if self.parameter == 0:
            return b""
        # astype wraps: what lies above 32 bits belongs to the quotient, as all above `parameter` does
        columns = self.gaps.astype("<u4").view(np.uint8).reshape(-1, 4)
        bits = np.unpackbits(columns, axis=1, count=self.parameter, bitorder="little")
        return np.packbits(bits, bitorder="little").tobytes()

    def _unary(self) -> bytes:
        ones = self.quotients.cumsum()
        ones += np.arange(len(ones))
        bits = np.zeros(int(ones[-1]) + 1, np.uint8)
        bits[ones] = 1
        return np.packbits(bits, bitorder="little").tobytes()


def _bits(quotients: Indices, parameter: int) -> int:
    return len(quotients) * (parameter + 1) + int(np.add.reduce(quotients))


def unpack(data: bytes, parameter: int, count: int, size: int) -> Indices:
    """Return the `count` > 0 indices below `size`, int64 and strictly ascending, that `data` holds and nothing else.

    Memory: at most some 8 bytes for a byte of `data` and 24 for an index. `parameter` is at most PARAMETER_MAX.

    Raises:
        MalformedVector: truncated, too long, padded with ones, or an index of `size` or more.
    """
    low_bytes = (count * parameter + 7) >> 3
    unary_bytes = len(data) - low_bytes
    if not 0 < unary_bytes <= (count + (size >> parameter) + 7) >> 3:
        raise MalformedVector(f"{len(data)} bytes cannot hold {count} indices below {size}")
    bits = np.unpackbits(np.frombuffer(data, np.uint8, unary_bytes, low_bytes), bitorder="little").view(np.bool_)
    if np.count_nonzero(bits) != count:  # before anything of the size of `count` or of the ones is made
        raise MalformedVector(f"the indices' quotients are not {count}")
    indices = bits.nonzero()[0]
    if int(indices[-1]) >> 3 != unary_bytes - 1:
        raise MalformedVector("an empty byte behind the indices")
    if parameter > 0:
        rank = np.arange(count)
        indices -= rank
        indices <<= parameter
        indices += rank
        indices += _unpack_low_bits(data[:low_bytes], parameter, count).cumsum(dtype=np.int64)
    if indices[-1] >= size:
        raise MalformedVector(f"index {int(indices[-1])} in a vector of {size} entries")
    return indices


def _unpack_low_bits(data: bytes, parameter: int, count: int) -> npt.NDArray[np.uint32]:
    """Return `count` unsigned fields of `parameter` bits each, as uint32."""
    used = count * parameter & 7
    if used and data[-1] >> used:
        raise MalformedVector("ones in the padding of the indices' low bits")
    groups = (count + 7) >> 3
    # Row i holds a 32-bit word from each of the `parameter` bytes of group i on; the last ones reach 3 bytes further.
    padded = data + bytes(groups * parameter + 3 - len(data))
    words = np.ndarray((groups, parameter), "<u4", padded, strides=(parameter, 1))
    fields: npt.NDArray[np.uint32] = words[:, _FIELD_BYTES[parameter]]
    fields >>= _FIELD_SHIFTS[parameter]
    fields &= np.uint32((1 << parameter) - 1)
    return fields.reshape(-1)[:count]
