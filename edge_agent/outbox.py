"""The device's own mass: what was sent and waits for an answer, and what was not sent yet. In memory, no I/O.

Mass is conserved while the learning rate stays: every local difference is, entry by entry, either in the residual, in
an update that waits, or applied by the coordinator. A rate that falls takes its share of the residual, and of what
returns to it from updates of before: see `skerry.algorithms.error_feedback.fade`. Only `Outbox` changes the residual,
and it never changes an array in place: whoever has been given one may read it from any thread.
"""

import msgspec
import numpy as np
from msgspec.structs import replace

from skerry.algorithms.error_feedback import compress_with_error_feedback, fade, lasting_share, restore
from skerry.algorithms.uplink import Uplink
from skerry.protocol import sparse
from skerry.protocol.messages import ModelVersion
from skerry.values import ValueEncoding
from skerry.vector import Float32, Layout, SparseVector


class Update(msgspec.Struct, frozen=True):
    """One update as it stands in the outbox. `event` and `settled_event` order what happened to the residual."""

    sequence: int
    base: ModelVersion
    steps: int
    examples: int
    loss: float
    seconds_per_step: float
    learning_rate: float  # the highest of its steps; 0 also where it is not known
    payload: bytes  # sparse vector, see skerry.protocol.sparse
    event: int
    settled_event: int | None = None
    settled_weight: float | None = None  # what the coordinator applied of it; None: nothing returns
    whole: bool = False  # the payload is a model, no difference: the residual knows nothing of it
    base_age: float | None = None  # None: not known


class Outbox:
    """Updates that wait for their answer, and the residual."""

    def __init__(self, size: int, events: int = 0, residual: Float32 | None = None, learning_rate: float = 0.0) -> None:
        """Start with `residual`, float32 of shape (size,), None being zero, as it was after event number `events`.

        `learning_rate`: of the newest update that was taken out of it; 0 also where it is not known.
        """
        self.size = size
        self.events = events
        self.residual = np.zeros(size, np.float32) if residual is None else residual
        self.learning_rate = learning_rate
        self.waiting: dict[int, Update] = {}

    def take(self, update: Update, difference: Float32, uplink: Uplink, layout: Layout) -> Update:
        """Take an update out of `difference` and the residual; what is not sent stays in the residual.

        Returns `update` with payload and event filled in; it waits from now on.
        """
        if update.whole:
            return self._wait(update, SparseVector.full(difference), ValueEncoding.FLOAT32)
        kept = fade(self.residual, self.learning_rate, update.learning_rate)
        sent, self.residual = compress_with_error_feedback(uplink, difference, kept, layout)
        self.learning_rate = update.learning_rate
        return self._wait(update, sent, uplink.values.beside(layout.tail_size))

    def _wait(self, update: Update, sent: SparseVector, values: ValueEncoding) -> Update:
        self.events += 1
        taken = replace(update, payload=sparse.encode(sent, values), event=self.events)
        self.waiting[taken.sequence] = taken
        return taken

    def settle(self, sequence: int, weight: float | None) -> Update:
        """Remove the update that was answered; (1 - weight) of it returns to the residual, nothing if None."""
        self.events += 1
        update = self.waiting.pop(sequence)
        self._give_back(update, weight)
        return replace(update, settled_event=self.events, settled_weight=weight)

    def drop(self) -> None:
        """Forget all that was not answered, and what was not sent."""
        self.residual, self.learning_rate, self.waiting = np.zeros(self.size, np.float32), 0.0, {}

    def replay(self, updates: list[Update], after: int) -> None:
        """Redo what happened after event number `after`, when the residual was stored: see `Store.load`.

        What a later update left unsent was never stored: the entries that it did send are empty now, all others are as
        they were stored. So the mass of some unsent differences is lost, but none is counted twice.
        """
        happened = [(update.event, update, False) for update in updates if update.event > after and not update.whole]
        happened += [
            (update.settled_event, update, True)
            for update in updates
            if update.settled_event is not None and update.settled_event > after
        ]
        for _, update, settled in sorted(happened, key=lambda entry: entry[0]):
            if settled:
                self._give_back(update, update.settled_weight)
            else:
                sent = sparse.decode(update.payload, size=self.size)
                self.residual = fade(self.residual, self.learning_rate, update.learning_rate).copy()
                self.learning_rate = update.learning_rate
                self.residual[sent.indices[sent.values != 0.0]] = 0.0
        self.waiting = {update.sequence: update for update in updates if update.settled_event is None}

    def _give_back(self, update: Update, weight: float | None) -> None:
        if weight is not None and weight != 1.0 and not update.whole:
            share = lasting_share(update.learning_rate, self.learning_rate)
            self.residual = restore(self.residual, sparse.decode(update.payload, size=self.size), weight, share)
