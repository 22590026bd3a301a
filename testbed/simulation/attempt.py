"""An attempt to connect: its first packet, repeated until something answers. No asyncio."""

import errno
import random
from collections.abc import Callable

from testbed.simulation.flow import Clock, Timer
from testbed.simulation.host import Host
from testbed.simulation.path import SYN_RTO_S, SYN_TRIES
from testbed.simulation.route import Route


class Attempt:
    """Calls `established` or `failed`, once."""

    def __init__(
        self,
        route: Route,
        server: Host,
        port: int,
        round_trips: int,
        established: Callable[[], None],
        failed: Callable[[OSError], None],
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """`rng` draws jitter and losses."""
        self._route, self._server, self._port, self._round_trips = route, server, port, round_trips
        self._established, self._failed = established, failed
        self._clock, self._rng = clock, rng
        self._tries = 0
        self._timer: Timer
        self._try()

    def cancel(self) -> None:
        """Forget about it."""
        self._timer.cancel()

    def _later(self, delay_s: float, callback: Callable[..., object], *args: object) -> None:
        self._timer = self._clock.call_at(self._clock.time() + delay_s, callback, *args)

    def _try(self) -> None:
        """Send the first packet."""
        self._tries += 1
        if self._tries > SYN_TRIES:
            self._failed(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))
        elif self._is_lost():
            self._again(0.0)
        else:
            late_s = self._route.path.latency_s
            if self._route.path.jitter_s:
                late_s += self._rng.expovariate(1.0 / self._route.path.jitter_s)
            self._later(late_s, self._reach, late_s)

    def _again(self, spent_s: float) -> None:
        self._later(max(0.0, SYN_RTO_S * 2 ** (self._tries - 1) - spent_s), self._try)

    def _is_lost(self) -> bool:
        """Draw whether the packet or its answer is lost; both certainly are where the way is closed."""
        there, back = self._route, self._route.back
        kept = (1.0 - there.path.loss_share) * (1.0 - back.path.loss_share)
        return not (there.is_open and back.is_open) or self._rng.random() >= kept

    def _reach(self, spent_s: float) -> None:
        """The packet has come to the server's host."""
        back = self._route.back
        if not (self._route.is_open and back.is_open):
            self._again(spent_s)
        elif self._port not in self._server.listeners:
            error = ConnectionRefusedError(
                errno.ECONNREFUSED, f"Connect call failed ({self._server.address!r}, {self._port})"
            )
            self._later(back.path.latency_s, self._failed, error)
        else:
            more_s = (self._round_trips - 1) * self._route.round_trip_s
            self._later(back.path.latency_s + more_s, self._established)
