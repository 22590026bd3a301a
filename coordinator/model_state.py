"""The vectors of a region: its model, what it published, and its replicas of the peers. Arithmetic only, no I/O.

The engine and the replay after a restart change these vectors through the same methods and in the same order; that is
what makes a replayed model equal to the lost one, bit for bit.
"""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from skerry.algorithms.clipping import length_of
from skerry.algorithms.federation import MergedEntries
from skerry.algorithms.peer_guard import Measured
from skerry.algorithms.robust_mean import robust_mean
from skerry.algorithms.top_k import entries_kept, largest
from skerry.protocol import sparse
from skerry.protocol.messages import BroadcastId
from skerry.values import ValueEncoding
from skerry.vector import Float32, Indices, SparseVector

Versions = npt.NDArray[np.int64]


def buffered(
    members: Sequence[tuple[int, str, float]], vector_at: Callable[[int], SparseVector]
) -> list[tuple[str, SparseVector, float]]:
    """Return the updates of a buffer, as `ModelState.apply_buffer` takes them, from their places in the journal."""
    return [(device, vector_at(position), weight) for position, device, weight in members]


@dataclass(slots=True)
class Replica:
    """A coordinator's model as it last published it: the sum of its publications."""

    lineage: str
    number: int  # of the last publication
    broadcast: BroadcastId  # the exchange that it was part of
    age: float
    values: Float32  # shape (size,)
    named: Indices | slice | None = None  # the entries of the last publication; None: it is older than a checkpoint

    def copy(self) -> "Replica":
        """Return a replica that shares nothing with this one."""
        return replace(self, values=self.values.copy())

    def whole(self) -> bytes:
        """Encode it for a peer that does not hold the publication before."""
        return sparse.encode(SparseVector.full(self.values))


@dataclass(frozen=True, slots=True)
class Publication:
    """What one publication says of itself; see `skerry.protocol.messages.PeerModel`."""

    lineage: str
    number: int
    broadcast: BroadcastId
    age: float
    whole: bool  # its values stand for themselves, not on the publication before


@dataclass(slots=True)
class ModelState:
    """All vectors of a region, and the counters that say which ones they are."""

    model: Float32  # shape (size,)
    changed_at: Versions  # shape (size,): the version that last changed each entry
    version: int = 0
    age: float = 0.0
    published: Replica | None = None  # what the peers hold of this region; None before the first publication
    replicas: dict[str, Replica] = field(default_factory=dict)

    @classmethod
    def start(cls, initial: Float32, age: float = 0.0) -> "ModelState":
        """Return version 0, of `age`: `initial`, float32 of shape (size,), is copied."""
        return cls(initial.astype(np.float32, copy=True), np.zeros(len(initial), np.int64), age=age)

    @property
    def trained(self) -> bool:
        """Whether the model is more than the bundle's initial parameters."""
        return self.version > 0 or self.age > 0.0

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
            replicas={peer: replica.copy() for peer, replica in self.replicas.items()},
        )

    def replicas_of(self, peers: Container[str]) -> dict[str, tuple[Float32, float]]:
        """Return values and age of the replicas of `peers`; one that has left the federation counts no more."""
        return {peer: (one.values, one.age) for peer, one in self.replicas.items() if peer in peers}

    def apply(self, update: SparseVector, weight: float, version: int, age: float, *, whole: bool = False) -> None:
        """Add `weight` times `update` to the model; this makes `version`, of `age`.

        `whole`: move the model by `weight` towards `update`, which has every entry, in float32.
        """
        if whole:
            self._move(weight, update.values, version, age)
            return
        update.add_to(self.model, weight)
        self.changed_at[update.indices] = version
        self.version, self.age = version, age

    def apply_buffer(
        self, updates: Sequence[tuple[str, SparseVector, float]], trim: float, version: int, age: float
    ) -> None:
        """Add the robust mean of `updates`, (device, update, weight) each; this makes `version`, of `age`."""
        mean = robust_mean(updates, trim)
        self.model += mean
        self.changed_at[mean != 0.0] = version
        self.version, self.age = version, age

    def merge(self, peer: str, weight: float, version: int, age: float, entries: MergedEntries) -> None:
        """Move the model by `weight` towards the replica of `peer`, in float32; this makes `version`, of `age`.

        `entries`: "published": only those that the newest publication of the peer names, which came in the same group.
        """
        replica = self.replicas[peer]
        if entries == "all":
            self._move(weight, replica.values, version, age)
            return
        named = replica.named
        assert named is not None, "a publication and its merge are written together"
        self.model[named] += np.float32(weight) * (replica.values[named] - self.model[named])
        self.changed_at[named] = version
        self.version, self.age = version, age

    def _move(self, weight: float, towards: Float32, version: int, age: float) -> None:
        moved = self.model + np.float32(weight) * (towards - self.model)
        self.changed_at[moved != self.model] = version
        self.model[:] = moved
        self.version, self.age = version, age

    def measure(self, peer: str, publication: Publication, values: SparseVector) -> Measured | None:
        """Say how the model of `peer` will lie to this one, once it is taken; None: what it builds on is not here."""
        before = self.replicas.get(peer)
        if publication.whole:
            difference = -self.model
        elif before is not None and (before.lineage, before.number + 1) == (publication.lineage, publication.number):
            difference = before.values - self.model
        else:
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            values.add_to(difference)
        return Measured(length_of(difference), length_of(self.model))

    def take_peer_model(self, peer: str, publication: Publication, values: SparseVector) -> None:
        """Bring the replica of `peer` to what it published."""
        self.replicas[peer] = self._sum(self.replicas.get(peer), publication, values)

    def difference_to_publish(self, density: float, values: ValueEncoding) -> bytes:
        """Encode what the next publication adds to the last one.

        The first is the whole model, at least as float16. Later ones name the `density` * size entries, at least one,
        that moved furthest; the rest stays between model and publication and goes out with a later one.
        """
        if self.published is None:
            whole = values if values is ValueEncoding.FLOAT32 else ValueEncoding.FLOAT16
            return sparse.encode(SparseVector.full(self.model), whole)
        difference = self.model - self.published.values
        indices = np.flatnonzero(difference)
        count = entries_kept(self.size, density)
        if len(indices) > count:
            indices = indices[largest(difference[indices], count)]
        return sparse.encode(SparseVector(self.size, indices, difference[indices]), values)

    def publish(self, publication: Publication, values: SparseVector) -> None:
        """Make `values`, as the peers decode them, part of what is published."""
        self.published = self._sum(self.published, publication, values)

    def changes_since(self, base: int | None) -> bytes:
        """Encode the exact values of the entries that changed after version `base`, or all where that is smaller.

        None: all of them.
        """
        if base is None:
            return sparse.encode(SparseVector.full(self.model))
        indices = (self.changed_at > base).nonzero()[0]
        return sparse.encode(SparseVector(self.size, indices, self.model[indices]), background=self.model)

    def _sum(self, before: Replica | None, publication: Publication, values: SparseVector) -> Replica:
        # Added to zero, not set, where it is whole: -0.0 becomes 0.0 on both sides.
        total = np.zeros(self.size, np.float32) if before is None or publication.whole else before.values
        values.add_to(total)
        named = slice(None) if len(values) == self.size else values.indices
        return Replica(publication.lineage, publication.number, publication.broadcast, publication.age, total, named)
