"""One direction of a TCP connection: when what was written arrives. No asyncio.

A flow cuts what is written into segments, keeps no more of them under way than its windows allow, and hands them over
in order. Segments travel each by itself; one that is late holds up those behind it, as with TCP.
"""

import errno
import random
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Protocol

from testbed.simulation.path import GIVE_UP_S, PACKET_BYTES, retried_at_s
from testbed.simulation.route import Route

UNSENT_BYTES = 64 << 10  # what the sender's kernel takes beyond what is under way


class Timer(Protocol):
    """Something that was scheduled."""

    def cancel(self) -> None:
        """Take it back."""


class Clock(Protocol):
    """The time, and a way to be called at one. An event loop is one."""

    def time(self) -> float:
        """Return the time in seconds."""

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call `callback` at `when`; at the same time, in the order of these calls."""


class End(Protocol):
    """One end of a connection: it writes into one flow and reads from the other."""

    def data_arrived(self, data: bytes) -> None:
        """Take what the other end wrote, in order."""

    def end_arrived(self) -> None:
        """The other end has closed; all it wrote has come."""

    def connection_reset(self, error: OSError) -> None:
        """The connection is no more."""

    def room_made(self) -> None:
        """Some of what this end wrote was acknowledged."""


class Mark(Enum):
    """What travels like data and is none."""

    OPEN = auto()  # the first of a client's: by it the server learns of the connection
    END = auto()
    RESET = auto()


class Segment:
    """What travels at once."""

    __slots__ = ("arrived", "content", "size")

    def __init__(self, content: bytes | Mark, size: int) -> None:
        """`size`: bytes of payload, 0 for a mark."""
        self.content, self.size = content, size
        self.arrived = False


class Flow:
    """See the module."""

    __slots__ = (
        *("heard_at_s", "name", "reader", "route", "unsent_bytes_max", "writer"),
        *("_accept", "_clock", "_power_cuts", "_record", "_rng", "_seed"),
        *("_aborted", "_ended", "_ending", "_flight_bytes", "_queue", "_queued_bytes", "_sent_at_s", "_window_bytes"),
        *("_flying", "_lost", "_lost_since_s", "_unheard_bytes", "_unheard_since_s"),
        *("_paused", "_unread", "_unread_bytes"),
    )

    def __init__(
        self,
        route: Route,
        name: str,
        seed: int,
        clock: Clock,
        record: Callable[["Flow", bytes | Mark], None],
    ) -> None:
        """`name` is no other flow's: with `seed` it decides the draws. `record` is told what arrives."""
        self.route, self.name = route, name.encode()
        self.writer: End | None = None
        self.reader: End | None = None  # None: not yet, or no longer
        self.unsent_bytes_max = UNSENT_BYTES
        self.heard_at_s = clock.time()  # when the last bytes arrived
        self._clock, self._seed, self._record = clock, seed, record
        self._rng: random.Random | None = None  # made when the path first needs it: most never do
        self._accept: Callable[[], None] | None = None
        # Where it is written.
        self._queue: deque[bytes | memoryview] = deque()
        self._queued_bytes = 0
        self._ending = False  # END is to be sent behind what is queued
        self._ended = False  # and was
        self._aborted = False  # nothing is sent any more, not even again
        self._power_cuts = route.power_cuts  # before the writer
        self._window_bytes = self._first_window_bytes()
        self._flight_bytes = 0  # sent and not acknowledged
        self._sent_at_s = clock.time()
        # On the way.
        self._flying: deque[Segment] = deque()  # sent and not handed over, in order
        self._lost: list[Segment] = []  # those of them that wait for the route to open
        self._lost_since_s = 0.0
        self._unheard_bytes = 0  # arrived, but the acknowledgement could not come back
        self._unheard_since_s = 0.0
        # Where it is read.
        self._paused = False
        self._unread: deque[bytes | Mark] = deque()  # arrived while nobody read
        self._unread_bytes = 0

    # --- for the writer ---

    @property
    def backlog_bytes(self) -> int:
        """What was written and the writer's kernel has not taken."""
        return max(0, self._queued_bytes + self._flight_bytes - self._window_bytes - self.unsent_bytes_max)

    def open(self, accept: Callable[[], None]) -> None:
        """Send the first segment of a connection; `accept` is called when it arrives."""
        self._accept = accept
        self._send(Mark.OPEN)

    def write(self, data: bytes) -> None:
        """Send `data` as soon as the windows allow."""
        if self._aborted:
            return
        if not self._flight_bytes and self._clock.time() - self._sent_at_s > self.route.timeout_s:
            self._window_bytes = self._first_window_bytes()  # slow start again after idleness (RFC 5681, section 4.1)
        size = len(data)
        if not self._queued_bytes and size <= min(self._room_bytes(), self.route.segment_bytes):
            self._send(data, size)  # what nearly all messages do
            return
        self._queue.append(data)
        self._queued_bytes += size
        self._pump()

    def end(self) -> None:
        """Close this direction behind what was written."""
        self._ending = True
        self._pump()

    def drop_backlog(self) -> None:
        """Forget what the kernel has not taken."""
        excess = min(self.backlog_bytes, self._queued_bytes)
        while excess:
            last = self._queue.pop()
            kept = last[: max(0, len(last) - excess)]
            if kept:
                self._queue.append(kept)
            excess -= len(last) - len(kept)
            self._queued_bytes -= len(last) - len(kept)

    def abort(self, *, tell: bool) -> None:
        """Send nothing any more, not even again; with `tell`, reset the connection behind what is on its way."""
        if self._aborted:
            return
        self._aborted = True
        self._queue.clear()
        self._queued_bytes = 0
        for segment in self._lost:
            self._flying.remove(segment)
        self._lost.clear()
        if tell:
            self._send(Mark.RESET)

    # --- for the reader ---

    def pause(self) -> None:
        """Keep what arrives."""
        self._paused = True

    def resume(self) -> None:
        """Hand over what was kept and what arrives from now on."""
        self._paused = False
        while self._unread and not self._paused:
            content = self._unread.popleft()
            if isinstance(content, bytes):
                self._unread_bytes -= len(content)
            self._hand_over(content)
        if self._queued_bytes:
            self._acknowledge(0)  # there is room again

    def leave(self) -> None:
        """Nobody reads any more; whoever writes is told so."""
        self.reader = self._accept = None
        self._paused = False  # what still arrives is refused, not kept
        if self._unread_bytes:
            self._refuse()
        self._unread.clear()
        self._unread_bytes = 0

    # --- for the route ---

    def route_opened(self) -> None:
        """Go on after a cut or a stall of this direction or the other."""
        route, back = self.route, self.route.back
        if back.is_open and (self._unheard_bytes or self._queued_bytes):
            count, self._unheard_bytes = self._unheard_bytes, 0
            at_s = self._tried_at_s(back, self._unheard_since_s) + back.path.latency_s
            self._clock.call_at(at_s, self._acknowledged, count)
        if route.is_open and self._lost:
            self._clock.call_at(self._tried_at_s(route, self._lost_since_s), self._send_again)

    def _tried_at_s(self, route: Route, since_s: float) -> float:
        """Return when what was held up since then on a route, which is open again, passes."""
        now_s = self._clock.time()
        return retried_at_s(since_s, now_s, route.timeout_s) if route.was_cut else now_s

    # --- sending ---

    def _pump(self) -> None:
        """Send what the windows of both ends allow."""
        self._notice_power_cut()
        while self._queued_bytes:
            room = self._room_bytes()
            if room <= 0:
                return
            data = self._next_bytes(min(self.route.segment_bytes, max(room, PACKET_BYTES)))
            self._send(data, len(data))
        if self._ending and not (self._ended or self._aborted):
            self._ended = True
            self._send(Mark.END)

    def _first_window_bytes(self) -> int:
        return min(self.route.path.window_bytes_first, self.route.window_bytes)

    def _room_bytes(self) -> int:
        """Return what may be sent now; 0 or less: nothing."""
        return min(self._window_bytes, self.route.window_bytes - self._unread_bytes) - self._flight_bytes

    def _next_bytes(self, size: int) -> bytes:
        """Take up to `size` bytes from the queue."""
        pieces: list[bytes | memoryview] = []
        left = min(size, self._queued_bytes)
        self._queued_bytes -= left
        while left:
            piece = self._queue.popleft()
            if len(piece) > left:
                view = memoryview(piece)
                self._queue.appendleft(view[left:])
                piece = view[:left]
            pieces.append(piece)
            left -= len(piece)
        if len(pieces) == 1:
            return bytes(pieces[0])  # no copy of what is bytes already
        return b"".join(pieces)

    def _send(self, content: bytes | Mark, size: int = 0) -> None:
        segment = Segment(content, size)
        self._flying.append(segment)
        self._flight_bytes += size
        self._depart(segment)

    def _depart(self, segment: Segment) -> None:
        route, now_s = self.route, self._clock.time()
        self._sent_at_s = now_s
        if not route.is_open:
            self._lose(segment)
            return
        left_s = route.up.carry(segment.size, now_s)
        self._clock.call_at(left_s + self._travel_s(segment.size), self._reach, segment)

    def _travel_s(self, size: int) -> float:
        """Return how long after the writer's wire a segment comes to the reader's."""
        path = self.route.path
        if not path.has_chance:
            return path.latency_s
        if self._rng is None:
            self._rng = random.Random(f"{self._seed}/{self.name.decode()}")  # noqa: S311 - a simulation
        return path.latency_s + path.late_s(size, self.route.round_trip_s, self._rng)

    def _lose(self, segment: Segment) -> None:
        """Keep a segment until it can be sent again."""
        if self._aborted:
            self._flying.remove(segment)
            return
        if not self._lost:
            self._lost_since_s = now_s = self._clock.time()
            self._clock.call_at(now_s + GIVE_UP_S, self._give_up, now_s)
        self._lost.append(segment)
        self.route.waiting[self] = None

    def _notice_power_cut(self) -> None:
        """Forget what the writer's kernel kept, if it is no more: of a closed connection nobody else says so."""
        if self.route.power_cuts != self._power_cuts:
            self.abort(tell=False)

    def _send_again(self) -> None:
        self._notice_power_cut()
        if not self.route.is_open:
            self.route.waiting[self] = None
            return
        lost, self._lost = self._lost, []
        for segment in lost:
            self._depart(segment)

    def _give_up(self, since_s: float) -> None:
        if self._lost and self._lost_since_s == since_s:
            self._break(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))

    def _acknowledged(self, count: int) -> None:
        self._flight_bytes -= count
        self._window_bytes = min(self._window_bytes + count, self.route.window_bytes)
        if self._queued_bytes:
            self._pump()
        if self.writer is not None:
            self.writer.room_made()

    def _break(self, error: OSError) -> None:
        """The writer's kernel has found out that the connection is no more."""
        if not self._aborted:
            self.abort(tell=False)
            if self.writer is not None:
                self.writer.connection_reset(error)

    # --- arriving ---

    def _reach(self, segment: Segment) -> None:
        """A segment has come to the reader's wire."""
        route, now_s = self.route, self._clock.time()
        if not route.is_open:
            self._lose(segment)
            return
        passed_s = route.down.carry(segment.size, now_s)
        if passed_s > now_s:
            self._clock.call_at(passed_s, self._arrive, segment)
        else:
            self._arrive(segment)

    def _arrive(self, segment: Segment) -> None:
        """A segment is there; hand over what is in order now."""
        segment.arrived = True
        while self._flying and self._flying[0].arrived:
            first = self._flying.popleft()
            content = first.content
            self._record(self, content)
            if first.size:
                self.heard_at_s = self._clock.time()
                self._acknowledge(first.size)
            if self._paused:
                self._unread.append(content)
                self._unread_bytes += first.size
            else:
                self._hand_over(content)

    def _acknowledge(self, count: int) -> None:
        back = self.route.back
        if not back.is_open:
            if not self._unheard_bytes:
                self._unheard_since_s = self._clock.time()
            self._unheard_bytes += count
            back.waiting[self] = None
        elif self._queued_bytes:
            self._clock.call_at(self._clock.time() + back.path.latency_s, self._acknowledged, count)
        else:
            self._acknowledged(count)  # nothing waits for it: when it comes is all the same

    def _hand_over(self, content: bytes | Mark) -> None:
        if content is Mark.OPEN:
            if self._accept is not None:
                self._accept()
        elif self.reader is None:
            if isinstance(content, bytes):
                self._refuse()
        elif content is Mark.END:
            self.reader.end_arrived()
        elif content is Mark.RESET:
            self.reader.connection_reset(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))
        else:
            assert isinstance(content, bytes)
            self.reader.data_arrived(content)

    def _refuse(self) -> None:
        """Tell the writer that nobody reads."""
        back = self.route.back
        if back.is_open:
            error = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
            self._clock.call_at(self._clock.time() + back.path.latency_s, self._break, error)
