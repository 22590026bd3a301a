"""What is known of a connected device; when it is offered a model, and against which base. Pure."""

from collections import deque
from dataclasses import dataclass, field

import msgspec

from skerry.protocol.messages import Telemetry

REJECTED_MAX = 64  # that are remembered: more than a device has under way


class OfferedState(msgspec.Struct, frozen=True, tag="offered"):
    """What a coordinator must not forget of the model that devices are offered. Plain: it was always the region's."""

    follows: bool = False  # it is not the region's, but one that follows that, and is lost when the process ends
    after: int = -1  # only of later versions is known what a device holds

    def start(self, version: int, *, follows: bool) -> "OfferedState":
        """Return the state of a process that begins at `version`; `follows`: as its recipe has it."""
        if not (self.follows or follows):
            return self
        return OfferedState(follows, -1 if follows and version == 0 else version)  # each such model begins alike at 0


@dataclass(slots=True)
class Downlink:
    """What is known of the device, and of its model, at the other end of one stream."""

    base: int | None  # version that the device holds; None: none of this lineage
    offered_at_s: float | None = None  # start of the last offer on this connection
    in_flight: int | None = None  # version that is being written to the stream
    invited: int = 0  # newest round that it was invited to on this connection
    minor: int = 0  # of the protocol that it speaks
    owed: bool = False  # an answer that waits until the federation lets the region go on
    told: Telemetry | None = None  # what the device said of itself last on this stream
    # Updates that this stream was told will never be applied. A copy that is still under way must not be either: the
    # device has taken its mass back.
    rejected: deque[int] = field(default_factory=lambda: deque(maxlen=REJECTED_MAX))

    def due(self, version: int, wait_s: float, now_s: float) -> bool:
        """Say whether to offer `version` now, if `wait_s` have passed since the last offer; one at a time."""
        if self.in_flight is not None or self.base == version:
            return False
        return self.offered_at_s is None or now_s - self.offered_at_s >= wait_s

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
