"""A TCP connection: two flows, and the hosts at its ends. No asyncio."""

import errno
from typing import TYPE_CHECKING

from testbed.simulation.flow import Clock, Flow, Timer

if TYPE_CHECKING:
    from testbed.simulation.host import Host


class Connection:
    """Alive as long as one of its ends is."""

    __slots__ = ("_clock", "_left", "_lifetime", "client", "client_port", "flows", "port", "server")

    def __init__(self, client: "Host", server: "Host", port: int, flows: tuple[Flow, Flow], clock: Clock) -> None:
        """`flows`: the client's to the server, and back."""
        self.client, self.server = client, server
        self.client_port, self.port = next(client.ports), port
        self.flows = flows
        self._clock = clock
        self._lifetime: Timer | None = None
        self._left = 2  # ends
        client.connections[self] = None
        server.connections[self] = None

    def accept(self) -> None:
        """Give it to who listens at the server; reset it if nobody does (any more)."""
        listener = self.server.listeners.get(self.port)
        if listener is not None:
            listener.accept(self)
        else:
            self.flows[1].abort(tell=True)
            self.end_left()

    def end_left(self) -> None:
        """One end is gone; call once for each."""
        self._left -= 1
        if not self._left:
            self._forget()

    def reset_after(self, delay_s: float) -> None:
        """Break it, if it lives so long."""
        self._lifetime = self._clock.call_at(self._clock.time() + delay_s, self.reset)

    def reset(self) -> None:
        """Break it; both ends are told at once."""
        self._forget()
        error = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        ends = [flow.writer for flow in self.flows]
        for flow in self.flows:
            flow.abort(tell=False)
            flow.leave()
        for end in ends:
            if end is not None:
                end.connection_reset(error)

    def kill(self, host: "Host", *, tell: bool) -> None:
        """The end at `host` dies; with `tell` its kernel resets the connection, without nobody hears of it."""
        out, into = self.flows if host is self.client else (self.flows[1], self.flows[0])
        end = out.writer
        out.abort(tell=tell)
        into.leave()
        host.connections.pop(self, None)
        if end is None:
            self.end_left()
        else:
            end.connection_reset(ConnectionResetError(errno.ECONNRESET, "the process at this end has died"))

    def _forget(self) -> None:
        if self._lifetime is not None:
            self._lifetime.cancel()
        self.client.connections.pop(self, None)
        self.server.connections.pop(self, None)
