"""The model as one vector: its layout, and sparse vectors over it. The nouns that protocol and algorithms share.

Pure numpy: no I/O, no clock.
"""

from functools import cached_property
from math import prod
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

PARAMETERS_MAX = 1 << 31  # entries of a model: every index fits a signed 32-bit integer


class Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One named tensor's place in the vector."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    shape: tuple[int, ...]  # () is a scalar
    offset: int  # of the first entry
    trainable: bool = True  # False: a float buffer such as a batch-norm statistic

    @property
    def size(self) -> int:
        """Number of entries."""
        return prod(self.shape)


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):  # dict: what is computed once
    """How the tensors of a model lie in its flat float32 vector, in order and without gaps.

    Trainable tensors come first; the untrainable tail travels dense.
    """

    tensors: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        """Check order and bounds.

        Raises:
            ValueError: a negative dimension, a gap, an overlap, or a trainable tensor behind an untrainable one.
        """
        offset, tail = 0, False
        for tensor in self.tensors:
            if any(dimension < 0 for dimension in tensor.shape):
                raise ValueError(f"tensor {tensor.name!r} has a negative dimension: {tensor.shape}")
            if tensor.offset != offset:
                raise ValueError(f"tensor {tensor.name!r} starts at {tensor.offset}, expected {offset}")
            if tensor.trainable and tail:
                raise ValueError(f"trainable tensor {tensor.name!r} stands behind an untrainable one")
            tail = not tensor.trainable
            offset += tensor.size
        if offset > PARAMETERS_MAX:
            raise ValueError(f"{offset} parameters, at most {PARAMETERS_MAX}")

    @cached_property
    def size(self) -> int:
        """Number of entries of the whole vector."""
        return sum(tensor.size for tensor in self.tensors)

    @cached_property
    def trainable_size(self) -> int:
        """Number of entries of the trainable head."""
        return sum(tensor.size for tensor in self.tensors if tensor.trainable)

    @property
    def tail_size(self) -> int:
        """Number of entries at its end that are not."""
        return self.size - self.trainable_size


class SparseVector(msgspec.Struct, frozen=True, eq=False):
    """Some entries of a vector of `size` entries; what is not named is zero, or unchanged, as the context says.

    Invariants (the codec checks them on everything that comes from outside): `indices` strictly ascending, in
    [0, size); `values` as long as `indices`.
    """

    size: int
    indices: Indices  # int64, shape (k,)
    values: Float32  # shape (k,)

    def __len__(self) -> int:
        return len(self.indices)

    @classmethod
    def full(cls, values: Float32) -> "SparseVector":
        """Return the vector in which every entry of `values` is named."""
        return cls(len(values), np.arange(len(values), dtype=np.int64), values)

    def dense(self) -> Float32:
        """Return float32 of shape (size,), zero where nothing is named."""
        out = np.zeros(self.size, np.float32)
        out[self.indices] = self.values
        return out

    def add_to(self, target: Float32, weight: float = 1.0) -> None:
        """Add `weight` times the values to `target` in place, in float32; replay depends on this exact arithmetic."""
        if len(self.indices) == self.size:
            target += np.float32(weight) * self.values
        else:
            target[self.indices] += np.float32(weight) * self.values

    def set_in(self, target: Float32) -> None:
        """Overwrite the named entries of `target` in place."""
        target[self.indices] = self.values
