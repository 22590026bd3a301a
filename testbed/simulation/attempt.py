"""An attempt to connect: its first packet, repeated until something answers. No asyncio."""

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from testbed.simulation.connection import Connection
from testbed.simulation.flow import Timer
from testbed.simulation.path import SYN_RTO_S, SYN_TRIES
from testbed.simulation.route import RouteState

if TYPE_CHECKING:
    from testbed.simulation.network import Host, SimulatedNetwork


class Attempt:
    """Calls `established` or `failed`, once."""

    def __init__(
        self,
        network: "SimulatedNetwork",
        client: "Host",
        server: "Host",
        port: int,
        established: Callable[[Connection], None],
        failed: Callable[[OSError], None],
        round_trips: int,
    ) -> None:
        self._network, self._client, self._server, self._port = network, client, server, port
        self._established, self._failed, self._round_trips = established, failed, round_trips
        self._route = network.route(client.name, server.name)
        self._rng = network.attempt_stream(client, server)
        self._tries = 0
        self._timer: Timer
        self._try()

    def cancel(self) -> None:
        """Forget about it."""
        self._timer.cancel()

    def _later(self, delay_s: float, callback: Callable[..., object], *args: object) -> None:
        clock = self._network.clock
        self._timer = clock.call_at(clock.time() + delay_s, callback, *args)

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
        if there.state is not RouteState.OPEN or back.state is not RouteState.OPEN:
            return True
        kept = (1.0 - there.path.loss_share) * (1.0 - back.path.loss_share)
        return kept < 1.0 and self._rng.random() >= kept

    def _reach(self, spent_s: float) -> None:
        """The packet has come to the server's host."""
        back = self._route.back
        if self._route.state is not RouteState.OPEN or back.state is not RouteState.OPEN:
            self._again(spent_s)
        elif self._port not in self._server.listeners:
            error = ConnectionRefusedError(
                errno.ECONNREFUSED, f"Connect call failed ({self._server.address!r}, {self._port})"
            )
            self._later(back.path.latency_s, self._failed, error)
        else:
            more_s = (self._round_trips - 1) * self._route.round_trip_s
            self._later(back.path.latency_s + more_s, self._open)

    def _open(self) -> None:
        network, server, port = self._network, self._server, self._port
        connection = network.new_connection(self._client, server, port)
        there, back = connection.flows
        self._established(connection)

        def accept() -> None:
            listener = server.listeners.get(port)
            if listener is not None:
                listener.accept(connection)
            else:  # closed meanwhile
                back.abort(tell=True)

        there.open(accept)
        lifetime_s = self._route.path.lifetime_s
        if lifetime_s is not None:
            at_s = network.clock.time() + connection.rng.expovariate(1.0 / lifetime_s)
            connection.lifetime = network.clock.call_at(at_s, connection.reset)
