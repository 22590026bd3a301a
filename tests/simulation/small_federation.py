"""Two regions, six uneven devices, the activity data: a world in which the production services run for a while.

As a program it runs one and prints its digest: `small_federation.py SEED SECONDS FOLDER`.
"""

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from coordinator.config import Checkpoints, CoordinatorConfig, Evaluation
from coordinator.recovery import rebuild
from edge_agent.config import AgentConfig, Data, HeldOut, Limits
from skerry.policy import Policy
from skerry.profile import Jitter, Lab, Throttling
from skerry.recipe import Recipe
from testbed.simulation.clock import WallClock
from testbed.simulation.coordinator import PORT, SimulatedCoordinator
from testbed.simulation.device import SimulatedDevice
from testbed.simulation.loop import VirtualLoop, run
from testbed.simulation.machine import Machine, World
from testbed.simulation.network import SimulatedNetwork
from testbed.simulation.path import Path as NetworkPath
from testbed.simulation.speed import Speed
from testbed.simulation.threads import ServerWork

REGIONS = {"eu-1": "eu", "us-1": "us"}
STEP_S = {"pi-1": 0.02, "pi-2": 0.05, "pi-3": 0.03, "nano-1": 0.01, "nano-2": 0.04, "nano-3": 0.08}
LAB = Lab(jitter=Jitter(sigma=0.1), throttling=Throttling(every_s=60.0, lasts_s=20.0, slowdown=3.0))


class SmallFederation:
    """The machines, by name; started by `running`."""

    def __init__(self, seed: int, folder: Path, slower: float, recipe: Recipe) -> None:
        """Make the world inside the running loop."""
        self._slower, self._recipe = slower, recipe
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        network = SimulatedNetwork(seed, loop, NetworkPath(latency_s=0.015, jitter_s=0.003, loss_share=0.002))
        for name in REGIONS:
            network.add_host(name)
        for name in STEP_S:
            network.add_host(name, up_bytes_per_s=500e3, down_bytes_per_s=2e6)
        network.set_path("eu-1", "us-1", NetworkPath(0.08, 0.01))
        network.set_path("us-1", "eu-1", NetworkPath(0.08, 0.01))
        self.world = World(seed, folder, network, loop)
        self.coordinators = {name: self._coordinator(name) for name in REGIONS}
        self.devices = {name: self._device(number, name) for number, name in enumerate(STEP_S)}

    @property
    def machines(self) -> dict[str, Machine]:
        """All of them."""
        return {**self.coordinators, **self.devices}

    def _coordinator(self, name: str) -> SimulatedCoordinator:
        address = self.world.network.address
        config = CoordinatorConfig(
            name=name,
            region=REGIONS[name],
            bundle="builtin:activity",
            recipe=self._recipe,
            peers={other: f"http://{address(other)}:{PORT}" for other in REGIONS if other != name},
            insecure=True,
            evaluation=Evaluation(source="builtin:activity?split=test", every_s=10.0),
            checkpoints=Checkpoints(every_updates=25, history_versions=1 << 30),
        )
        syncs = self.world.draws(name, "syncs")  # slower than an acknowledgement: one ahead of its commit would show
        return SimulatedCoordinator(
            self.world, config, work=ServerWork(0.002), sync_s=lambda: syncs.uniform(0.02, 0.06)
        )

    def _device(self, number: int, name: str) -> SimulatedDevice:
        world, loop = self.world, self.world.loop
        config = AgentConfig(
            device=name,
            coordinators=(list(self.coordinators.values())[number % 2].url,),
            data=Data(f"builtin:activity?part={number}&parts={len(STEP_S)}"),
            insecure=True,
            held_out=HeldOut(examples_max=0),
            limits=Limits(reconnect_max_s=5.0),
            policy=Policy(enabled=False),
        )
        speed = Speed(self._slower * STEP_S[name], LAB, loop.time, world.draws(name, "speed"))
        clock = WallClock(loop.time, offset_s=-100.0 * number, drift=1e-5 * number)
        syncs = world.draws(name, "syncs")
        return SimulatedDevice(world, config, speed, sync_s=lambda: syncs.uniform(0.005, 0.05), clock=clock)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start all; at the end, stop them in good order, the agents first."""
        for machine in self.machines.values():
            machine.start()
        yield
        for machine in reversed(self.machines.values()):
            if not machine.running:
                machine.start()
                await asyncio.sleep(1.0)
            await machine.stop()

    def model(self, coordinator: str) -> bytes:
        """Return the model of a region that is up."""
        service = self.coordinators[coordinator].service
        assert service is not None
        return service.engine.model().values.tobytes()

    def replayed(self, coordinator: str) -> bytes:
        """Return a region's model as its first checkpoint and its journal have it; it may be up or down."""
        service = self.coordinators[coordinator].service
        assert service is not None
        return rebuild(self.coordinators[coordinator].disk.folder, service.engine.version.number).tobytes()

    def digest(self) -> str:
        """Return a hash of every message that has arrived, and of both models."""
        digest = hashlib.sha256(self.world.network.digest.encode())
        for name in self.coordinators:
            digest.update(self.model(name))
        return digest.hexdigest()


def in_world(
    seed: int,
    folder: Path,
    happens: Callable[[SmallFederation], Awaitable[Any]],
    slower: float = 1.0,
    recipe: Recipe = Recipe(),  # noqa: B008 - frozen
) -> SmallFederation:
    """Let the federation run while `happens` does, and stop it; return what is left.

    With devices so many times `slower` there are as many fewer steps to compute.
    """

    async def main() -> SmallFederation:
        federation = SmallFederation(seed, folder, slower, recipe)
        async with federation.running():
            await happens(federation)
        return federation

    return run(main(), seed=seed)


if __name__ == "__main__":
    seed, seconds, folder = int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])
    print(in_world(seed, folder, lambda _: asyncio.sleep(seconds), slower=4.0).digest())
