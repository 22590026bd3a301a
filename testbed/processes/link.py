"""When bytes come out of a link that went into it: the arithmetic of latency, bandwidth and loss. No I/O, no clock.

A `Link` has two `Wire`s, one per direction, shared by every connection on it; each connection has one `Pipe` per
direction. A wire sends one chunk after the other at its rate (store and forward), and everything arrives one latency
after it was sent, and what chance adds to that; order within a connection is kept.
"""

import random
from collections import deque
from dataclasses import dataclass

END = b""  # in a pipe: the sender has closed its side
QUEUE_BYTES_MIN = 64 << 10
PACKET_BYTES = 1448  # of payload in a TCP segment on Ethernet


@dataclass(frozen=True, slots=True)
class Shape:
    """How one direction of a link behaves."""

    latency_s: float = 0.0  # one way, >= 0
    bits_per_s: float | None = None  # > 0; None: not limited
    jitter_s: float = 0.0  # mean of what a chunk is late beyond the latency; exponential
    loss_share: float = 0.0  # of packets; TCP sends a lost one again, so that its chunk is a round trip late

    @property
    def queue_bytes(self) -> int:
        """What a pipe takes before its sender has to wait: two bandwidth-delay products, at least 64 KiB."""
        if self.bits_per_s is None:
            return 16 * QUEUE_BYTES_MIN
        return max(QUEUE_BYTES_MIN, int(2 * self.latency_s * self.bits_per_s / 8))


class Wire:
    """One direction of a link."""

    def __init__(self, shape: Shape, rng: random.Random | None = None) -> None:
        """`rng` draws jitter and losses; a shape that has neither needs none."""
        assert rng is not None or (shape.jitter_s == 0.0 and shape.loss_share == 0.0)
        self.shape = shape
        self._rng = rng
        self.stalled = False
        self.carried_bytes = 0
        self._free_at_s = float("-inf")

    def send(self, size: int, now_s: float) -> float:
        """Occupy the wire for `size` bytes, behind what it is sending already; return when the last of them arrives."""
        start_s = max(now_s, self._free_at_s)
        duration_s = size * 8 / self.shape.bits_per_s if self.shape.bits_per_s else 0.0
        self._free_at_s = start_s + duration_s
        self.carried_bytes += size
        return self._free_at_s + self.shape.latency_s + self._late_s(size)

    def _late_s(self, size: int) -> float:
        """Draw how much later a chunk arrives than its latency says.

        A loss costs one round trip, as with TCP's fast retransmit (RFC 5681), and so does each loss of a repeat.
        """
        if self._rng is None:
            return 0.0
        shape = self.shape
        late_s = self._rng.expovariate(1.0 / shape.jitter_s) if shape.jitter_s else 0.0
        share = 1.0 - (1.0 - shape.loss_share) ** -(-size // PACKET_BYTES)  # that any of its packets is lost
        while share and self._rng.random() < share:
            late_s += 2.0 * shape.latency_s
            share = shape.loss_share
        return late_s


class Pipe:
    """One connection's bytes in one direction.

    While the wire is stalled nothing leaves the pipe; what is pushed then is sent from `resume` on, and what was on its
    way arrives after it.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._waiting: deque[bytes] = deque()  # pushed during a stall
        self._flying: deque[tuple[float, bytes]] = deque()  # arrival time, in order
        self.queued_bytes = 0

    @property
    def has_room(self) -> bool:
        """Whether the sender may push more; a hint, `push` never refuses."""
        return self.queued_bytes < self._wire.shape.queue_bytes

    @property
    def wake_at_s(self) -> float | None:
        """When `pull` will next return something, if nothing else happens."""
        return None if self._wire.stalled or not self._flying else self._flying[0][0]

    def push(self, data: bytes, now_s: float) -> None:
        """Take `data` (END: the sender has closed) from the sender."""
        self.queued_bytes += len(data)
        if self._wire.stalled:
            self._waiting.append(data)
        else:
            self._send(data, now_s)

    def pull(self, now_s: float) -> list[bytes]:
        """Return what has arrived by now, in order."""
        arrived: list[bytes] = []
        while not self._wire.stalled and self._flying and self._flying[0][0] <= now_s:
            arrived.append(self._flying.popleft()[1])
            self.queued_bytes -= len(arrived[-1])
        return arrived

    def resume(self, now_s: float) -> None:
        """Send what has been waiting; the wire must no longer be stalled."""
        assert not self._wire.stalled
        while self._waiting:
            self._send(self._waiting.popleft(), now_s)

    def _send(self, data: bytes, now_s: float) -> None:
        """Put `data` on the wire; it never overtakes what was sent before it."""
        arrives_s = self._wire.send(len(data), now_s)
        before_s = self._flying[-1][0] if self._flying else arrives_s
        self._flying.append((max(arrives_s, before_s), data))


class Link:
    """Both directions between two ends, called a and b."""

    def __init__(self, a_to_b: Shape, b_to_a: Shape, rng: random.Random | None = None) -> None:
        """`rng` draws jitter and losses of both directions."""
        self.a_to_b = Wire(a_to_b, rng)
        self.b_to_a = Wire(b_to_a, rng)

    @property
    def round_trip_s(self) -> float:
        """What a connection's set-up takes before its first byte can leave."""
        return self.a_to_b.shape.latency_s + self.b_to_a.shape.latency_s

    def set_stalled(self, stalled: bool) -> None:
        """Stall or free both directions."""
        self.a_to_b.stalled = self.b_to_a.stalled = stalled
