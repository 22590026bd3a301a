"""A machine of the simulated network, and the ports on which it listens. No asyncio."""

import errno
import itertools
from collections.abc import Callable

from testbed.simulation.connection import Connection
from testbed.simulation.route import Route
from testbed.simulation.wire import Wire

PORT_FIRST = 49152  # of those that a host gives out by itself
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - a simulated one


class Host:
    """What it has with the network."""

    def __init__(self, name: str, address: str, up: Wire, down: Wire) -> None:
        self.name, self.address = name, address
        self.up, self.down = up, down
        self.on = True
        self.routes: list[Route] = []  # from it and to it
        self.listeners: dict[int, Listener] = {}
        self.connections: dict[Connection, None] = {}  # in the order in which they were made
        self.ports = itertools.count(PORT_FIRST)

    def listen(self, address: str, port: int, accept: Callable[[Connection], None]) -> "Listener":
        """Listen on `port` (0: a free one) of `address`: the name, the address or 0.0.0.0.

        Raises:
            OSError: the address is not this host's, or the port is in use.
        """
        if address not in {self.name, self.address, ANY_ADDRESS}:
            raise OSError(errno.EADDRNOTAVAIL, f"host {self.name} has the address {self.address}, not {address}")
        port = port or next(free for free in self.ports if free not in self.listeners)
        if port in self.listeners:
            raise OSError(errno.EADDRINUSE, "address already in use")
        listener = self.listeners[port] = Listener(self, port, accept)
        return listener


class Listener:
    """A port that is listened on."""

    def __init__(self, host: Host, port: int, accept: Callable[[Connection], None]) -> None:
        self.host, self.port, self.accept = host, port, accept

    def close(self) -> None:
        """Refuse further connections; those that exist go on."""
        if self.host.listeners.get(self.port) is self:
            del self.host.listeners[self.port]
