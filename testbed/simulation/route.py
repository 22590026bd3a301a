"""The way from one host to another: their wires, the path between, and what is wrong with it now. Pure."""

import random
from enum import Enum, auto
from typing import TYPE_CHECKING

from testbed.simulation.path import PACKET_BYTES, Path
from testbed.simulation.wire import Wire

if TYPE_CHECKING:
    from testbed.simulation.flow import Flow

SEGMENT_S = 0.02  # what one segment occupies of the slower wire, where the rate allows
SEGMENT_BYTES_MAX = 64 << 10
WINDOW_BYTES_MIN, WINDOW_BYTES_MAX = 64 << 10, 4 << 20  # of what a connection may have under way: Linux' defaults


class RouteState(Enum):
    """Whether segments pass."""

    OPEN = auto()
    STALLED = auto()  # held on the way, and delivered when it ends
    CUT = auto()  # lost, and sent again by TCP when its timers say so


class Route:
    """One directed pair of hosts."""

    __slots__ = ("back", "down", "path", "source", "state", "target", "up", "waiting")

    back: "Route"  # the other direction

    def __init__(self, source: str, target: str, up: Wire, down: Wire, path: Path, state: RouteState) -> None:
        self.source, self.target = source, target
        self.up, self.down = up, down
        self.path = path
        self.state = state
        self.waiting: dict[Flow, None] = {}  # for the route to open again, in the order in which they began to

    @property
    def round_trip_s(self) -> float:
        """There and back, without jitter."""
        return self.path.latency_s + self.back.path.latency_s

    @property
    def segment_bytes(self) -> int:
        """Into what pieces a stream is cut: small against the rate, so that connections take turns on a wire."""
        rate = self._bytes_per_s()
        return SEGMENT_BYTES_MAX if rate is None else min(max(int(rate * SEGMENT_S), PACKET_BYTES), SEGMENT_BYTES_MAX)

    @property
    def window_bytes(self) -> int:
        """What a connection may have under way: two bandwidth-delay products, within what Linux grants."""
        rate = self._bytes_per_s()
        if rate is None:
            return WINDOW_BYTES_MAX
        return min(max(int(2.0 * rate * self.round_trip_s), WINDOW_BYTES_MIN), WINDOW_BYTES_MAX)

    def late_s(self, size: int, rng: random.Random | None) -> float:
        """Return how long after it has left the source's wire a segment reaches the target's; `rng` draws."""
        return self.path.latency_s + (0.0 if rng is None else self.path.late_s(size, self.round_trip_s, rng))

    def _bytes_per_s(self) -> float | None:
        rates = [rate for rate in (self.up.bytes_per_s, self.down.bytes_per_s) if rate is not None]
        return min(rates, default=None)
