"""The network model without aiohttp or a loop: hosts, and ends of connections that remember all they are told."""

from collections.abc import Callable

from testbed.simulation.connection import Connection
from testbed.simulation.network import SimulatedNetwork
from testbed.simulation.path import Path
from tests.simulation.virtual_clock import VirtualClock

PORT = 80


class Pipe:
    """One end of a connection, that remembers all it is told."""

    def __init__(self, world: "World", connection: Connection, *, at_client: bool) -> None:
        self.world, self.connection = world, connection
        out, into = self.out, self.into = connection.flows if at_client else connection.flows[::-1]
        self.arrived: list[tuple[float, bytes]] = []
        self.ended_at_s: float | None = None
        self.error: OSError | None = None
        out.writer = into.reader = self

    @property
    def data(self) -> bytes:
        return b"".join(data for _, data in self.arrived)

    def data_arrived(self, data: bytes) -> None:
        self.arrived.append((self.world.clock.now_s, data))

    def end_arrived(self) -> None:
        self.ended_at_s = self.world.clock.now_s

    def connection_reset(self, error: OSError) -> None:
        assert self.error is None
        self.error = error
        self.out.abort(tell=False)
        self.into.leave()

    def room_made(self) -> None:
        pass


class World:
    """A network and the ends of all its connections."""

    def __init__(self, path: Path | None = None, seed: int = 1) -> None:
        self.clock = VirtualClock()
        self.network = SimulatedNetwork(seed, self.clock, path)
        self.accepted: list[tuple[float, Pipe]] = []
        self.failed: list[tuple[float, OSError]] = []

    def listen(self, name: str, port: int = PORT) -> None:
        def accept(connection: Connection) -> None:
            self.accepted.append((self.clock.now_s, Pipe(self, connection, at_client=False)))

        self.network.host(name).listen(name, port, accept)

    def dial(self, source: str, target: str, then: Callable[[Pipe], None] | None = None) -> list[Pipe]:
        made: list[Pipe] = []

        def established(connection: Connection) -> None:
            made.append(Pipe(self, connection, at_client=True))
            if then is not None:
                then(made[0])

        def failed(error: OSError) -> None:
            self.failed.append((self.clock.now_s, error))

        self.network.connect(source, target, PORT, established, failed)
        return made

    def joined(self, source: str, target: str) -> tuple[Pipe, Pipe]:
        """Connect; return the client's end and the server's."""
        made = self.dial(source, target)
        before = len(self.accepted)
        while len(self.accepted) == before:
            self.clock.run(self.clock.now_s + 1.0)
        return made[0], self.accepted[-1][1]


def pair(path: Path | None = None, seed: int = 1, **rates: float) -> tuple[World, Pipe, Pipe]:
    """A device `d` with the given rates, joined to a server `s`."""
    world = World(path, seed)
    world.network.add_host("d", **rates)
    world.network.add_host("s")
    world.listen("s")
    return world, *world.joined("d", "s")
