"""What one direction between two hosts does to what is sent on it. Pure: arithmetic and draws."""

import random
from dataclasses import dataclass

PACKET_BYTES = 1448  # of payload in a TCP segment on Ethernet
WINDOW_BYTES_FIRST = 10 * PACKET_BYTES  # of slow start (RFC 6928); grows by what is acknowledged: doubles a round trip
RTO_MIN_S, RTO_MAX_S = 0.2, 120.0  # Linux' bounds of TCP's retransmission time-out
GIVE_UP_S = 924.6  # without an acknowledgement: Linux' tcp_retries2 = 15
SYN_RTO_S = 1.0  # the first retry of a connection's first packet (RFC 6298); doubles
SYN_TRIES = 7  # Linux' tcp_syn_retries = 6: connecting fails after 127 s
FAST_PACKETS = 4  # of a segment: the packets behind a lost one report it (three duplicate acknowledgements, RFC 5681)


@dataclass(frozen=True, slots=True)
class Path:
    """How one direction between two hosts behaves, their bandwidths apart."""

    latency_s: float = 0.0  # one way, >= 0
    jitter_s: float = 0.0  # mean of what a segment is late beyond that; exponential
    loss_share: float = 0.0  # of packets, each by itself, in [0, 1); shown as delay
    lifetime_s: float | None = None  # mean time after which a connection is reset, exponential; None: never
    window_bytes_first: int = WINDOW_BYTES_FIRST  # what may be under way at first, and again after idleness, > 0

    def __post_init__(self) -> None:
        if not (self.latency_s >= 0.0 and self.jitter_s >= 0.0 and 0.0 <= self.loss_share < 1.0):
            raise ValueError(f"{self}: latency_s and jitter_s must be >= 0, loss_share in [0, 1)")
        if self.window_bytes_first <= 0:
            raise ValueError(f"{self}: window_bytes_first must be > 0")
        if self.lifetime_s is not None and not self.lifetime_s > 0.0:
            raise ValueError(f"{self}: lifetime_s must be > 0")

    @property
    def has_chance(self) -> bool:
        """Whether `late_s` draws anything."""
        return self.jitter_s > 0.0 or self.loss_share > 0.0

    def late_s(self, size: int, round_trip_s: float, rng: random.Random) -> float:
        """Draw how much later than its latency says a segment of `size` bytes arrives.

        A lost packet of a long segment costs a round trip (fast retransmit, RFC 5681), of a short one a retransmission
        time-out, and so does the loss of a repeat, twice as long each time (RFC 6298).
        """
        late_s = rng.expovariate(1.0 / self.jitter_s) if self.jitter_s else 0.0
        if self.loss_share:
            packets = max(1, -(-size // PACKET_BYTES))
            if rng.random() < 1.0 - (1.0 - self.loss_share) ** packets:
                again_s = timeout_s(round_trip_s)
                late_s += round_trip_s if packets >= FAST_PACKETS else again_s
                while rng.random() < self.loss_share:
                    again_s = min(2.0 * again_s, RTO_MAX_S)
                    late_s += again_s
        return late_s


def timeout_s(round_trip_s: float) -> float:
    """Return TCP's first retransmission time-out on a steady path."""
    return round_trip_s + RTO_MIN_S


def retried_at_s(since_s: float, now_s: float, first_s: float) -> float:
    """Return when a sender next tries, at `now_s` or later, what it has tried in vain since `since_s`.

    The pause before the first repeat is `first_s`; it doubles with each, up to RTO_MAX_S.
    """
    at_s, pause_s = since_s, first_s
    while at_s < now_s:
        at_s += pause_s
        pause_s = min(2.0 * pause_s, RTO_MAX_S)
    return at_s
