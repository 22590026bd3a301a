"""What is known of a connected device; when it is offered the newest model, and against which base. Pure.

Not after every update: a device that answers often would be sent one model per answer, each nearly the same. One offer
per half cycle keeps a device about as fresh as its own training, and at most one is on its way at any time.
"""

from collections import deque
from dataclasses import dataclass, field

from skerry.protocol.messages import Telemetry

DUE_AFTER_CYCLES = 0.5  # since the last offer, when the device has just delivered an update
REJECTED_MAX = 64  # that are remembered: more than a device has under way
OVERDUE_AFTER_CYCLES = 1.0  # since the last offer, when it has not


@dataclass(slots=True)
class Downlink:
    """What is known of the device, and of its model, at the other end of one stream."""

    base: int | None  # version that the device holds; None: none of this lineage
    offered_at_s: float | None = None  # start of the last offer on this connection
    in_flight: int | None = None  # version that is being written to the stream
    invited: int = 0  # newest round that it was invited to on this connection
    owed: bool = False  # an answer that waits until the federation lets the region go on
    told: Telemetry | None = None  # what the device said of itself last on this stream
    # Updates that this stream was told will never be applied. A copy that is still under way must not be either: the
    # device has taken its mass back.
    rejected: deque[int] = field(default_factory=lambda: deque(maxlen=REJECTED_MAX))

    def due(self, version: int, cycle_s: float, now_s: float, *, answering: bool) -> bool:
        """Say whether to offer `version` now; `answering`: an update of this device was just taken."""
        if self.in_flight is not None or self.base == version:
            return False
        if self.offered_at_s is None:
            return True
        wait = DUE_AFTER_CYCLES if answering else OVERDUE_AFTER_CYCLES
        return now_s - self.offered_at_s >= wait * cycle_s

    def invite(self, round_number: int) -> bool:
        """Say whether to offer the model now as an invitation to a round; once for each."""
        if self.in_flight is not None or self.invited == round_number:
            return False
        self.invited = round_number
        return True

    def answer(self) -> bool:
        """Say whether to offer the model now, changed or not, to a device that waits for an answer."""
        self.owed = False
        return self.in_flight is None  # what is on its way is one already

    def offer(self, version: int, now_s: float) -> int | None:
        """Note that `version` is on its way; return the base against which it is to be written."""
        self.in_flight, self.offered_at_s = version, now_s
        return self.base

    def done(self, version: int) -> None:
        """Note that `version` was written whole. One that is not on its way is of no interest."""
        if self.in_flight == version:
            self.base, self.in_flight = version, None
