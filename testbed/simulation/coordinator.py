"""A simulated coordinator: the production service on a machine of the simulated world."""

import asyncio
import random
from collections.abc import Callable

from msgspec.structs import replace

from coordinator.checkpoint import CHECKPOINTS
from coordinator.config import CoordinatorConfig, Listen
from coordinator.metrics import Metrics
from coordinator.service import Service
from testbed.simulation.clock import WallClock
from testbed.simulation.connector import ServerNetwork
from testbed.simulation.machine import Machine, World
from testbed.simulation.threads import ServerWork, WorkInline

PORT = 8470


class SimulatedCoordinator(Machine):
    """Its host is to be in the network already, and has its name."""

    def __init__(
        self,
        world: World,
        config: CoordinatorConfig,
        *,
        work: ServerWork | None = None,
        sync_s: Callable[[], float] = lambda: 0.0,
        clock: WallClock | None = None,
        in_memory: bool = False,
    ) -> None:
        """`config` says where to listen and where its state is only as far as the world has no say in that.

        `work`: what changes of the model take; None: no time. `sync_s`, `in_memory`: see `Disk`.
        """
        super().__init__(world, config.name, sync_s, clock, CHECKPOINTS, in_memory=in_memory)
        self._config = replace(config, listen=Listen(world.network.address(config.name), PORT))
        self.work = work
        self.service: Service | None = None  # that was started last; None: it has not begun
        self.staleness: list[float] = []  # of every update that was journalled

    def start(self) -> None:
        """See `Machine`; the service before is forgotten."""
        self.service = None
        super().start()

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://{self._config.listen.host}:{PORT}"

    async def _serve(self, stop: asyncio.Event, draws: random.Random) -> None:
        """Do what `skerry-coordinator run` does."""
        world = self._world
        self.service = service = Service(
            replace(self._config, state_dir=self.disk.folder),
            network=ServerNetwork(world.network, self.name),
            run_in_thread=WorkInline(self.disk),
            wall_clock=self.clock,
            rng=draws,
            open_database=self.disk.open_database,
            open_trainer=world.trainers,
            toll=self.work,
            metrics=Metrics(self.staleness.append),
        )
        await service.start()
        working, stopping = asyncio.create_task(service.run()), asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
        finally:
            working.cancel()
            stopping.cancel()
            await service.stop()
