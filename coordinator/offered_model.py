"""The model that a region's devices hold. Arithmetic only, no I/O."""

import numpy as np

from coordinator.model_state import ModelState
from skerry.algorithms.downlink import TopK
from skerry.algorithms.top_k import entries_kept, largest
from skerry.protocol import sparse
from skerry.values import ValueEncoding, quantise
from skerry.vector import Float32, SparseVector

ENTRIES_MIN = 16  # that go each time, if there are so many: they weigh less than what they are sent in


class OfferedModel:
    """Follows the region's model a few entries at a time.

    It lives as long as the process: after a restart it begins as the region's model, and what devices held of the one
    before is of no use.
    """

    def __init__(self, rule: TopK, state: ModelState, tail: int) -> None:
        """Begin as the model of `state`; its last `tail` entries are not trainable."""
        self._trainable = state.size - tail
        self._encoding = ValueEncoding.FLOAT32 if tail else rule.values
        self._count = min(self._trainable, max(ENTRIES_MIN, entries_kept(self._trainable, rule.density)))
        self._values: Float32 = quantise(state.model, self._encoding).copy()
        self._changed_at = np.full(state.size, state.version, np.int64)
        self.version = state.version
        self.age = state.age

    def follow(self, state: ModelState) -> None:
        """Take over the entries that are furthest from the model of `state`: this makes the state's version of it."""
        newest = quantise(state.model, self._encoding)
        apart = newest - self._values
        furthest = largest(apart[: self._trainable], self._count)
        tail = np.arange(self._trainable, state.size)
        indices = np.concatenate((furthest, tail))
        indices = indices[apart[indices] != 0.0]
        self._values[indices] = newest[indices]
        self._changed_at[indices] = state.version
        self.version, self.age = state.version, state.age

    def changes_since(self, base: int | None) -> bytes:
        """Encode the values of the entries that changed after version `base`, or all where that is smaller.

        None: all of them.
        """
        if base is None:
            return sparse.encode(SparseVector.full(self._values), self._encoding)
        indices = np.flatnonzero(self._changed_at > base)
        changes = SparseVector(len(self._values), indices, self._values[indices])
        return sparse.encode(changes, self._encoding, background=self._values)
