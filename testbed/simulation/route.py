"""The way from one host to another: their wires, the path between, and what is wrong with it now. Pure."""

from enum import Enum, auto
from typing import TYPE_CHECKING

from testbed.simulation.path import PACKET_BYTES, Path, timeout_s
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

    __slots__ = (
        *("back", "down", "is_open", "path", "power_cuts", "source", "target", "up", "waiting", "was_cut"),
        *("round_trip_s", "segment_bytes", "timeout_s", "window_bytes"),
    )

    back: "Route"  # the other direction
    round_trip_s: float  # there and back, without jitter
    timeout_s: float  # the first retransmission time-out
    segment_bytes: int  # into what pieces a stream is cut: small against the rate, so that connections take turns
    window_bytes: int  # what a connection may have under way: two bandwidth-delay products, within what Linux grants

    def __init__(self, source: str, target: str, up: Wire, down: Wire, path: Path) -> None:
        self.source, self.target = source, target
        self.up, self.down = up, down
        self.path = path
        self.power_cuts = 0  # of the source: a flow older than the last has lost what its kernel kept
        self.is_open = True
        self.was_cut = False  # not just stalled, since it was last open or, if it is now, before
        self.waiting: dict[Flow, None] = {}  # for the route to open again, in the order in which they began to

    def set_state(self, state: RouteState) -> None:
        """Let segments pass or not."""
        self.was_cut = state is RouteState.CUT or (self.was_cut and not self.is_open)
        self.is_open = state is RouteState.OPEN

    def measure(self) -> None:
        """Find out what follows from the paths of both directions."""
        self.round_trip_s = self.path.latency_s + self.back.path.latency_s
        self.timeout_s = timeout_s(self.round_trip_s)
        rate = min((rate for rate in (self.up.bytes_per_s, self.down.bytes_per_s) if rate is not None), default=None)
        if rate is None:
            self.segment_bytes, self.window_bytes = SEGMENT_BYTES_MAX, WINDOW_BYTES_MAX
        else:
            self.segment_bytes = min(max(int(rate * SEGMENT_S), PACKET_BYTES), SEGMENT_BYTES_MAX)
            self.window_bytes = min(max(int(2.0 * rate * self.round_trip_s), WINDOW_BYTES_MIN), WINDOW_BYTES_MAX)
