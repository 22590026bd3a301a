"""The simulated network: hosts, the paths between them, who listens, and what goes wrong. No asyncio.

All draws come from streams of their own, by connection: what one connection does never changes another's luck.
"""

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
from testbed.simulation.host import Host
from testbed.simulation.path import Path
from testbed.simulation.route import Route, RouteState
from testbed.simulation.wire import Wire

ANY = "*"  # in a fault: every other host
_ADDRESS_FIRST = int(ipaddress.IPv4Address("127.1.0.1"))  # all hosts have a loopback address: nothing leaves here
_ADDRESSES = 2**24 - 2**16 - 2
_ARRIVAL = struct.Struct("<dq")  # when, bytes

Hosts = str | Iterable[str]


class SimulatedNetwork:
    """See the module."""

    def __init__(self, seed: int, clock: Clock, path: Path | None = None) -> None:
        """`path`: what two hosts have between them for which nothing else is set."""
        self.clock = clock
        self.arrivals = 0  # segments that have arrived
        self.tap: Callable[[str, bytes], None] | None = None  # told of all data that arrives: by which flow, and what
        self._seed = seed
        self._path = path or Path()
        self._hosts: dict[str, Host] = {}
        self._by_address: dict[str, Host] = {}
        self._paths: dict[tuple[str, str], Path] = {}
        self._routes: dict[tuple[str, str], Route] = {}
        self._attempts: dict[tuple[str, str], int] = {}  # by client and server: to connect, so far
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
        route = self._routes.get(pair)
        if route is not None:
            route.path = path
            route.measure()
            route.back.measure()

    @property
    def digest(self) -> str:
        """Hash of all that has arrived: when, where from, where to, which bytes."""
        return self._digest.hexdigest()

    # --- connections ---

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
        client, server = self.host(source), self.host(target)
        pair = client.name, server.name
        number = self._attempts[pair] = self._attempts.get(pair, 0) + 1
        name = f"{client.name}>{server.name}#{number}"
        route = self._route(client, server)

        def connected() -> None:
            flows = [
                Flow(way, f"{name} {word}", self._seed, self.clock, self._record)
                for way, word in ((route, "there"), (route.back, "back"))
            ]
            connection = Connection(client, server, port, (flows[0], flows[1]), self.clock)
            established(connection)
            connection.flows[0].open(connection.accept)
            if lifetime_s is not None:
                connection.reset_after(lifetime_s)

        stream = random.Random(f"{self._seed}/{name}")  # noqa: S311 - a simulation
        lifetime_s = route.path.lifetime_s and stream.expovariate(1.0 / route.path.lifetime_s)
        return Attempt(route, server, port, round_trips, connected, failed, self.clock, stream)

    def _route(self, source: Host, target: Host) -> Route:
        """Return the route between two hosts."""
        pair = source.name, target.name
        if pair not in self._routes:
            for one, other in ((source, target), (target, source)):
                names = one.name, other.name
                route = Route(*names, one.up, other.down, self._paths.get(names, self._path))
                route.set_state(self._state(*names))
                self._routes[names] = route
            there, back = self._routes[pair], self._routes[pair[::-1]]
            there.back, back.back = back, there
            for route in (there, back):
                route.measure()
                source.routes.append(route)
                target.routes.append(route)
        return self._routes[pair]

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

        def ends(one: str, other: str) -> bool:
            return (one in ours or ANY in ours) and (other in theirs or ANY in theirs)

        for pairs in self._faults.values():
            pairs -= {pair for pair in pairs if ends(*pair) or ends(*pair[::-1])}
        self._refresh((*ours, *theirs))

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
        """Take a host's power: no reset, no answer; it just falls silent, and its kernel repeats nothing any more."""
        host = self.host(name)
        host.on = False
        for route in host.routes:
            if route.source == host.name:
                route.power_cuts += 1
        self._refresh((name,))
        host.listeners.clear()
        for connection in list(host.connections):
            connection.kill(host, tell=False)

    def power_on(self, name: str) -> None:
        """Give a host power again: it answers what is sent to connections of its past with resets."""
        self.host(name).on = True
        self._refresh((name,))

    def _set_fault(self, state: RouteState, a: Hosts, b: Hosts, *, one_way: bool) -> None:
        ours, theirs = _names(a), _names(b)
        for name in (*ours, *theirs):
            if name != ANY and name not in self._hosts:
                raise ValueError(f"host {name!r} does not exist")
        self._faults[state].update(itertools.product(ours, theirs))
        if not one_way:
            self._faults[state].update(itertools.product(theirs, ours))
        self._refresh((*ours, *theirs))

    def _state(self, source: str, target: str) -> RouteState:
        if not (self._hosts[source].on and self._hosts[target].on):
            return RouteState.CUT
        if source != target:
            for state, pairs in self._faults.items():  # a cut counts before a stall
                if not pairs.isdisjoint(((source, target), (source, ANY), (ANY, target))):
                    return state
        return RouteState.OPEN

    def _refresh(self, names: tuple[str, ...]) -> None:
        """Bring the state of these hosts' routes up to date (without names: of all), and let go on what has waited."""
        opened: list[Route] = []
        named = [self._hosts[name] for name in names if name != ANY]
        routes = [route for host in named for route in host.routes] if named else self._routes.values()
        for route in dict.fromkeys(routes):
            state = self._state(route.source, route.target)
            if state is RouteState.OPEN and not route.is_open:
                opened.append(route)
            route.set_state(state)
        for route in opened:
            waiting, route.waiting = list(route.waiting), {}
            for flow in waiting:
                flow.route_opened()

    def _record(self, flow: Flow, content: bytes | Mark) -> None:
        data = content if isinstance(content, bytes) else content.name.encode()
        self.arrivals += 1
        self._digest.update(_ARRIVAL.pack(self.clock.time(), len(data)) + flow.name)
        self._digest.update(data)
        if self.tap is not None and isinstance(content, bytes):
            self.tap(flow.name.decode(), content)


def _names(hosts: Hosts) -> tuple[str, ...]:
    return (hosts,) if isinstance(hosts, str) else tuple(hosts)
