"""The simulated network: hosts, the paths between them, who listens, and what goes wrong. No asyncio.

All draws come from streams of their own, by connection: what one connection does never changes another's luck.
"""

import errno
import hashlib
import ipaddress
import itertools
import random
import socket
import struct
from collections.abc import Callable, Iterable

from testbed.simulation.attempt import Attempt
from testbed.simulation.connection import Connection
from testbed.simulation.flow import Clock, Flow, Mark
from testbed.simulation.path import Path
from testbed.simulation.route import Route, RouteState
from testbed.simulation.wire import Wire

ANY = "*"  # in a fault: every other host
PORT_FIRST = 49152  # of those that a host gives out by itself
_ADDRESS_FIRST = int(ipaddress.IPv4Address("127.1.0.1"))  # all hosts have a loopback address: nothing leaves here
_ADDRESSES = 2**24 - 2**16 - 2
_ARRIVAL = struct.Struct("<dIi")

Hosts = str | Iterable[str]


class Listener:
    """A port that is listened on."""

    def __init__(self, host: "Host", port: int, accept: Callable[[Connection], None]) -> None:
        self.host, self.port, self.accept = host, port, accept

    def close(self) -> None:
        """Refuse further connections; those that exist go on."""
        if self.host.listeners.get(self.port) is self:
            del self.host.listeners[self.port]


class Host:
    """One machine."""

    def __init__(self, name: str, address: str, up: Wire, down: Wire) -> None:
        self.name, self.address = name, address
        self.up, self.down = up, down
        self.on = True
        self.listeners: dict[int, Listener] = {}
        self.connections: dict[Connection, None] = {}  # in the order in which they were made
        self.ports = itertools.count(PORT_FIRST)


class SimulatedNetwork:
    """See the module."""

    def __init__(self, seed: int, clock: Clock, path: Path | None = None) -> None:
        """`path`: what two hosts have between them for which nothing else is set."""
        self.clock = clock
        self.arrivals = 0  # segments that have arrived
        self._seed = seed
        self._path = path or Path()
        self._hosts: dict[str, Host] = {}
        self._by_address: dict[str, Host] = {}
        self._paths: dict[tuple[str, str], Path] = {}
        self._routes: dict[tuple[str, str], Route] = {}
        self._connected: dict[tuple[str, str], int] = {}  # by client and server: connections made so far
        self._faults: dict[RouteState, set[tuple[str, str]]] = {RouteState.CUT: set(), RouteState.STALLED: set()}
        self._digest = hashlib.blake2b(digest_size=16)

    # --- the world ---

    def add_host(self, name: str, up_bytes_per_s: float | None = None, down_bytes_per_s: float | None = None) -> None:
        """Add a machine with what it sends and receives at most, all of its connections together; None: no limit.

        Raises:
            ValueError: there is one of that name, or a rate is not > 0.
        """
        if name in self._hosts or name == ANY:
            raise ValueError(f"host {name!r} exists already")
        if len(self._hosts) >= _ADDRESSES:
            raise ValueError(f"more than {_ADDRESSES} hosts")
        address = str(ipaddress.IPv4Address(_ADDRESS_FIRST + len(self._hosts)))
        host = Host(name, address, Wire(up_bytes_per_s), Wire(down_bytes_per_s))
        self._hosts[name] = self._by_address[address] = host

    def address(self, name: str) -> str:
        """Return the IPv4 address of a host: one of the loopback network, which leaves no machine."""
        return self.host(name).address

    def host(self, name: str) -> Host:
        """Return the host of that name or address.

        Raises:
            socket.gaierror: there is none.
        """
        found = self._hosts.get(name) or self._by_address.get(name)
        if found is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found

    def set_path(self, source: str, target: str, path: Path) -> None:
        """Set what lies between two hosts, in this direction; connections that exist are on it from now on."""
        pair = self.host(source).name, self.host(target).name
        self._paths[pair] = path
        if pair in self._routes:
            self._routes[pair].path = path

    @property
    def digest(self) -> str:
        """Hash of all that has arrived: when, where from, where to, which bytes."""
        return self._digest.hexdigest()

    # --- connections ---

    def listen(self, name: str, address: str, port: int, accept: Callable[[Connection], None]) -> Listener:
        """Listen on a host's `port` (0: a free one); `accept` is called with every connection.

        `address` is the host's name or address, or 0.0.0.0.

        Raises:
            OSError: the address is not the host's, or the port is in use.
        """
        host = self.host(name)
        if address not in {host.name, host.address, "0.0.0.0"}:  # noqa: S104 - a simulated one
            raise OSError(
                errno.EADDRNOTAVAIL, f"cannot assign requested address: host {name} has {host.address}, not {address}"
            )
        port = port or next(free for free in host.ports if free not in host.listeners)
        if port in host.listeners:
            raise OSError(errno.EADDRINUSE, "address already in use")
        host.listeners[port] = Listener(host, port, accept)
        return host.listeners[port]

    def connect(
        self,
        source: str,
        target: str,
        port: int,
        established: Callable[[Connection], None],
        failed: Callable[[OSError], None],
        round_trips: int = 1,
    ) -> Attempt:
        """Connect; one of the two is called later, unless the attempt is cancelled.

        Set-up takes `round_trips`: 1 with TCP. A host that is down or cut off does not answer at all; one on which
        nobody listens refuses.

        Raises:
            socket.gaierror: there is no such host.
        """
        return Attempt(self, self.host(source), self.host(target), port, established, failed, round_trips)

    def route(self, source: str, target: str) -> Route:
        """Return the route between two hosts."""
        pair = source, target
        if pair not in self._routes:
            for one, other in (pair, (target, source)):
                a, b = self._hosts[one], self._hosts[other]
                path = self._paths.get((one, other), self._path)
                self._routes[one, other] = Route(one, other, a.up, b.down, path, self._state(one, other))
            there, back = self._routes[pair], self._routes[target, source]
            there.back, back.back = back, there
        return self._routes[pair]

    def new_connection(self, client: Host, server: Host, port: int) -> Connection:
        """Make the two flows of an established connection."""
        pair = client.name, server.name
        number = self._connected[pair] = self._connected.get(pair, 0) + 1
        there = self.route(*pair)
        rng = random.Random(f"{self._seed}/{client.name}>{server.name}#{number}")  # noqa: S311 - a simulation
        flows = [
            Flow(route, number, self.clock, random.Random(rng.getrandbits(64)), self._record)  # noqa: S311
            for route in (there, there.back)
        ]
        return Connection(client, server, port, (flows[0], flows[1]), rng)

    def attempt_stream(self, client: Host, server: Host) -> random.Random:
        """Return what the next attempt to connect draws from."""
        number = self._connected.get((client.name, server.name), 0)
        return random.Random(f"{self._seed}/{client.name}>{server.name}?{number}")  # noqa: S311 - a simulation

    # --- faults ---

    def partition(self, a: Hosts, b: Hosts = ANY, *, one_way: bool = False) -> None:
        """Lose everything between `a` and `b` (without b: everything else) until `heal`; `one_way`: from a to b only.

        TCP repeats what is lost, ever more rarely, so that traffic returns some time after the end.
        """
        self._set_fault(RouteState.CUT, a, b, one_way=one_way)

    def stall(self, a: Hosts, b: Hosts = ANY, *, one_way: bool = False) -> None:
        """Hold everything between `a` and `b` back until `heal`, and deliver it then."""
        self._set_fault(RouteState.STALLED, a, b, one_way=one_way)

    def heal(self, a: Hosts = ANY, b: Hosts = ANY) -> None:
        """End every partition and stall between `a` and `b`; without b: all that concern a; without both: all."""
        ours, theirs = _names(a), _names(b)
        for pairs in self._faults.values():
            for one, other in sorted(pairs):
                if (_meets(one, ours) and _meets(other, theirs)) or (_meets(other, ours) and _meets(one, theirs)):
                    pairs.discard((one, other))
        self._refresh()

    def reset(self, a: str, b: str | None = None) -> None:
        """Reset every connection of `a` (with b: those between both), as something on the way may do."""
        for connection in list(self.host(a).connections):
            if b is None or b in {connection.client.name, connection.server.name}:
                connection.reset()

    def kill(self, name: str) -> None:
        """End all that a host's process has with the network: ports are closed, connections reset, nobody is told."""
        host = self.host(name)
        host.listeners.clear()
        for connection in list(host.connections):
            connection.kill(host, tell=True)

    def power_off(self, name: str) -> None:
        """Take a host's power: no reset, no answer; it just falls silent."""
        host = self.host(name)
        host.on = False
        self._refresh()
        host.listeners.clear()
        for connection in list(host.connections):
            connection.kill(host, tell=False)

    def power_on(self, name: str) -> None:
        """Give a host power again: it answers what is sent to connections of its past with resets."""
        self.host(name).on = True
        self._refresh()

    def _set_fault(self, state: RouteState, a: Hosts, b: Hosts, *, one_way: bool) -> None:
        for one, other in itertools.product(_names(a), _names(b)):
            for name in (one, other):
                if name != ANY:
                    self.host(name)  # that it exists
            self._faults[state].add((one, other))
            if not one_way:
                self._faults[state].add((other, one))
        self._refresh()

    def _state(self, source: str, target: str) -> RouteState:
        if not (self._hosts[source].on and self._hosts[target].on):
            return RouteState.CUT
        if source != target:
            for state, pairs in self._faults.items():  # a cut counts before a stall
                if not pairs.isdisjoint(((source, target), (source, ANY), (ANY, target))):
                    return state
        return RouteState.OPEN

    def _refresh(self) -> None:
        """Bring the routes' state up to date, and let go on what has waited."""
        opened: list[Route] = []
        for route in self._routes.values():
            state = self._state(route.source, route.target)
            if state is RouteState.OPEN and route.state is not RouteState.OPEN:
                opened.append(route)
            route.state = state
        for route in opened:
            waiting, route.waiting = list(route.waiting), {}
            for flow in waiting:
                flow.route_opened()

    def _record(self, flow: Flow, content: bytes | Mark) -> None:
        self.arrivals += 1
        data = content if isinstance(content, bytes) else content.name.encode()
        size = len(data) if isinstance(content, bytes) else -1
        route = flow.route
        self._digest.update(_ARRIVAL.pack(self.clock.time(), flow.number, size))
        self._digest.update(f"{route.source}>{route.target}".encode())
        self._digest.update(data)


def _names(hosts: Hosts) -> tuple[str, ...]:
    return (hosts,) if isinstance(hosts, str) else tuple(hosts)


def _meets(name: str, names: tuple[str, ...]) -> bool:
    return ANY in names or name in names
