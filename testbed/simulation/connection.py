"""A TCP connection: two flows, and the hosts at its ends. No asyncio."""

import errno
import random
from typing import TYPE_CHECKING

from testbed.simulation.flow import Flow, Timer

if TYPE_CHECKING:
    from testbed.simulation.network import Host


class Connection:
    """Alive as long as one of its ends is."""

    __slots__ = ("_left", "client", "client_port", "flows", "lifetime", "port", "rng", "server")

    def __init__(self, client: "Host", server: "Host", port: int, flows: tuple[Flow, Flow], rng: random.Random) -> None:
        """`flows`: the client's to the server, and back."""
        self.client, self.server, self.port = client, server, port
        self.client_port = next(client.ports)
        self.flows = flows
        self.rng = rng
        self.lifetime: Timer | None = None  # at its end the connection is reset
        self._left = 2  # ends
        client.connections[self] = None
        server.connections[self] = None

    def end_left(self) -> None:
        """One end is gone; call once for each."""
        self._left -= 1
        if not self._left:
            self._forget()

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
        if end is not None:
            end.connection_reset(ConnectionResetError(errno.ECONNRESET, "the host's process has died"))

    def _forget(self) -> None:
        if self.lifetime is not None:
            self.lifetime.cancel()
        self.client.connections.pop(self, None)
        self.server.connections.pop(self, None)
