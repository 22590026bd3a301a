"""The vectors of a region: its model, what it published, and its replicas of the peers. Arithmetic only, no I/O.

The engine and the replay after a restart change these vectors through the same methods and in the same order; that is
what makes a replayed model equal to the lost one, bit for bit.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from skerry.algorithms.top_k import entries_kept, largest
from skerry.protocol import sparse
from skerry.values import ValueEncoding
from skerry.vector import Float32, SparseVector

Versions = npt.NDArray[np.int64]


@dataclass(slots=True)
class Replica:
    """A peer's model as that peer last published it."""

    lineage: str
    publication: int
    age: float
    values: Float32  # shape (size,)

    def copy(self) -> "Replica":
        """Return a replica that shares nothing with this one."""
        return Replica(self.lineage, self.publication, self.age, self.values.copy())


@dataclass(slots=True)
class ModelState:
    """All vectors of a region, and the counters that say which ones they are."""

    model: Float32  # shape (size,)
    changed_at: Versions  # shape (size,): the version that last changed each entry
    version: int = 0
    age: float = 0.0
    published: Float32 | None = None  # None before the first publication
    publication: int = 0
    replicas: dict[str, Replica] = field(default_factory=dict)

    @classmethod
    def start(cls, initial: Float32) -> "ModelState":
        """Return version 0: `initial`, float32 of shape (size,), is copied."""
        return cls(initial.astype(np.float32, copy=True), np.zeros(len(initial), np.int64))

    @property
    def size(self) -> int:
        """Number of entries of the model."""
        return len(self.model)

    def copy(self) -> "ModelState":
        """Return a state that shares no vector with this one."""
        return ModelState(
            model=self.model.copy(),
            changed_at=self.changed_at.copy(),
            version=self.version,
            age=self.age,
            published=None if self.published is None else self.published.copy(),
            publication=self.publication,
            replicas={peer: replica.copy() for peer, replica in self.replicas.items()},
        )

    def apply(self, update: SparseVector, weight: float, version: int, age: float) -> None:
        """Add `weight` times `update` to the model; this makes `version`, of `age`."""
        update.add_to(self.model, weight)
        self.changed_at[update.indices] = version
        self.version, self.age = version, age

    def merge(self, peer: str, weight: float, version: int, age: float) -> None:
        """Move the model by `weight` towards the replica of `peer`, in float32; this makes `version`, of `age`."""
        moved = self.model + np.float32(weight) * (self.replicas[peer].values - self.model)
        self.changed_at[moved != self.model] = version
        self.model[:] = moved
        self.version, self.age = version, age

    def take_peer_model(
        self, peer: str, values: SparseVector, *, lineage: str, publication: int, age: float, whole: bool
    ) -> None:
        """Bring the replica of `peer` to `publication`: `values` added to the one before, or to zero where `whole`."""
        if whole:
            self.replicas[peer] = Replica(lineage, publication, age, np.zeros(self.size, np.float32))
        replica = self.replicas[peer]
        values.add_to(replica.values)  # also to zero: -0.0 becomes 0.0 on both sides
        replica.publication, replica.age = publication, age

    def difference_to_publish(self, density: float, values: ValueEncoding) -> bytes:
        """Encode what the next publication adds to the last one.

        The first is the whole model, exactly. Later ones name the `density` * size entries, at least one, that moved
        furthest; the rest stays between model and publication and goes out with a later one.
        """
        if self.published is None:
            return sparse.encode(SparseVector.full(self.model))
        difference = self.model - self.published
        indices = np.flatnonzero(difference)
        count = entries_kept(self.size, density)
        if len(indices) > count:
            indices = indices[largest(difference[indices], count)]
        return sparse.encode(SparseVector(self.size, indices, difference[indices]), values)

    def publish(self, difference: bytes, publication: int) -> None:
        """Make the encoded `difference` part of what is published: exactly what the peers will add."""
        if self.published is None:
            self.published = np.zeros(self.size, np.float32)
        sparse.decode(difference, size=self.size).add_to(self.published)
        self.publication = publication

    def whole_publication(self) -> bytes:
        """Encode the last publication for a peer that does not hold the one before it."""
        assert self.published is not None
        return sparse.encode(SparseVector.full(self.published))

    def changes_since(self, base: int | None) -> bytes:
        """Encode the exact values of the entries that changed after version `base`, or all where that is smaller.

        None: all of them.
        """
        if base is None:
            return sparse.encode(SparseVector.full(self.model))
        indices = np.flatnonzero(self.changed_at > base)
        return sparse.encode(SparseVector(self.size, indices, self.model[indices]), background=self.model)
