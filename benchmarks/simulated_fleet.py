"""A fleet in virtual time, measured: production agents and coordinators, in a process of its own.

`python -m benchmarks.simulated_fleet PLAN`, the plan as JSON; see `benchmarks.simulated_services`.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.process_memory import memory_of
from coordinator.config import CoordinatorConfig, Limits
from edge_agent.config import AgentConfig, Data, HeldOut, Training
from skerry.algorithms.local_steps import Cycle, Fixed
from skerry.policy import Policy
from skerry.profile import Jitter, Lab
from skerry.protocol import frames
from skerry.protocol.messages import PeerStatus
from skerry.recipe import Recipe
from testbed.simulation.coordinator import PORT, SimulatedCoordinator
from testbed.simulation.device import SimulatedDevice
from testbed.simulation.loop import VirtualLoop, run
from testbed.simulation.machine import World
from testbed.simulation.network import SimulatedNetwork
from testbed.simulation.path import Path as NetworkPath
from testbed.simulation.speed import Speed

REGIONS = ("asia", "europe", "north-america", "oceania")
MEMORY = Path("/dev/shm")  # in memory
CALM_S = 30.0  # virtual, after the last device was started


class Plan(msgspec.Struct, frozen=True):
    """What is run."""

    devices: int
    seconds: float  # virtual, measured
    task: str
    data: str
    step_s: float  # of the fastest device; the slowest takes five times as long
    steps: int | None  # of each update; None: as the default recipe says
    seed: int


class Messages:
    """Counts what is read from the simulated wire while it is installed, both ways.

    A frame on a stream, a request and an answer are a message each, however many segments of the network they take.
    """

    def __init__(self) -> None:
        self.count = 0
        self._decode = frames.decode

    def install(self) -> None:
        """Count from now on, in the whole process."""
        frames.decode = self._counted

    def _counted(self, frame: bytes, kind: Any, *, bytes_max: int) -> Any:
        message = self._decode(frame, kind, bytes_max=bytes_max)
        self.count += 2 if isinstance(message, PeerStatus) else 1  # it answers a request that holds no frame
        return message


class Fleet:
    """The devices, spread over four regions."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self._plan = plan
        self.network = SimulatedNetwork(plan.seed, loop, NetworkPath(latency_s=0.03, jitter_s=0.005))
        self.world = World(plan.seed, folder, self.network, loop)
        for region in REGIONS:
            self.network.add_host(region)
        self.coordinators = [self._coordinator(region) for region in REGIONS]
        self.devices: list[SimulatedDevice] = []

    def _coordinator(self, region: str) -> SimulatedCoordinator:
        steps = self._plan.steps
        config = CoordinatorConfig(
            name=region,
            region=region,
            bundle=self._plan.task,
            recipe=Recipe(local_steps=Cycle() if steps is None else Fixed(steps_per_cycle=steps)),
            peers={other: f"http://{self.network.address(other)}:{PORT}" for other in REGIONS if other != region},
            peers_wait_s=0.0,  # all of them begin at once
            insecure=True,
            limits=Limits(connections_max=self._plan.devices),
        )
        return SimulatedCoordinator(self.world, config, sync_s=lambda: 0.001, in_memory=True)

    def add_device(self) -> None:
        """Start one more."""
        number = len(self.devices)
        name = f"device-{number}"
        self.network.add_host(name, 1e6, 4e6)
        config = AgentConfig(
            device=name,
            coordinators=(self.coordinators[number % len(REGIONS)].url,),
            data=Data(self._plan.data.format(part=number % 36)),
            insecure=True,
            held_out=HeldOut(examples_max=0),
            training=Training(calibration_steps=3),
            policy=Policy(enabled=False),
        )
        draws = self.world.draws(name, "speed")
        speed = Speed(
            self._plan.step_s * draws.uniform(1.0, 5.0), Lab(jitter=Jitter(sigma=0.1)), self.world.loop.time, draws
        )
        device = SimulatedDevice(self.world, config, speed, sync_s=lambda: 0.01, in_memory=True)
        device.start()
        self.devices.append(device)

    @property
    def updates(self) -> int:
        """Applied so far."""
        return sum(one.service.engine.version.number for one in self.coordinators if one.service is not None)


async def measure(plan: Plan, folder: Path) -> dict[str, Any]:
    messages = Messages()
    messages.install()
    fleet = Fleet(plan, folder)
    for coordinator in fleet.coordinators:
        coordinator.start()
    await asyncio.sleep(1.0)
    before_mb, began_s = memory_of("self")["resident_mb"], time.process_time()
    for _ in range(plan.devices):
        fleet.add_device()
        await asyncio.sleep(0.002)
    await asyncio.sleep(CALM_S)
    started_s = time.process_time() - began_s
    assert not any(device.failures for device in fleet.devices), "a device has failed"

    trained, network = fleet.world.training, fleet.network
    read, segments, updates = messages.count, network.arrivals, fleet.updates
    training_s, steps = trained.cpu_seconds, trained.steps
    began_s = time.process_time()
    await asyncio.sleep(plan.seconds)
    cpu_s = time.process_time() - began_s
    found = {
        "messages": messages.count - read,
        "segments": network.arrivals - segments,
        "updates": fleet.updates - updates,
        "steps": trained.steps - steps,
        "cpu_s": cpu_s,
        "training_s": trained.cpu_seconds - training_s,
        "starting_cpu_s": started_s,
        "resident_mb": memory_of("self")["resident_mb"],
        "kb_per_device": 1e3 * (memory_of("self")["resident_mb"] - before_mb) / plan.devices,
        "digest": network.digest,
    }
    assert fleet.world.defects == [], "something failed that nobody caught"
    return found


def main() -> None:
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        print(msgspec.json.encode(run(measure(plan, Path(folder)), seed=plan.seed)).decode())


if __name__ == "__main__":
    main()
