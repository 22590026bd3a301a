"""The machines of a plan: two or three regions and a handful of devices, with limits short enough for a short run."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from coordinator.config import Checkpoints, CoordinatorConfig
from coordinator.config import Limits as CoordinatorLimits
from edge_agent.config import AgentConfig, Data, HeldOut, Limits, Training
from skerry.algorithms.arrival import ArrivalRule, FedBuff, GainControlled, Spyker
from skerry.algorithms.decay import NoDecay
from skerry.algorithms.downlink import Newest
from skerry.algorithms.downlink import TopK as Following
from skerry.algorithms.federation import SpykerToken
from skerry.algorithms.local_steps import Fixed
from skerry.algorithms.uplink import TopK
from skerry.policy import Policy
from skerry.profile import Jitter, Lab
from skerry.recipe import Recipe
from skerry.tasks.bundle import Bundle
from skerry.values import ValueEncoding
from testbed.simulation.coordinator import PORT, SimulatedCoordinator
from testbed.simulation.device import SimulatedDevice
from testbed.simulation.loop import VirtualLoop
from testbed.simulation.machine import Machine, World
from testbed.simulation.network import SimulatedNetwork
from testbed.simulation.path import Path as NetworkPath
from testbed.simulation.speed import Speed
from tests.simulation.fault_runs import task
from tests.simulation.fault_runs.plan import Plan

ARRIVALS: dict[str, ArrivalRule] = {
    "spyker": Spyker(),
    "gain_controlled": GainControlled(),
    "fedbuff": FedBuff(size=3),
}
PROGRESS_TIMEOUT_S = 4.0
LITTLE_AND_OFTEN = SpykerToken(
    density=0.4,
    h_inter=2.0,
    h_intra=3.0,
    exchange_interval_min_s=1.0,
    hold_min_s=0.2,
    hold_max_s=0.5,
    peer_timeout_s=2.5,
    token_timeout_s=4.0,
)
WHOLE = replace(LITTLE_AND_OFTEN, eta_a=0.5, density=0.2, values=ValueEncoding.FLOAT16, merge_entries="all")
ECHO = "echo"  # the host from which what was said before is said again


def recipe_of(plan: Plan) -> Recipe:
    """Return the recipe. The learning rate stays, so that a device's mass can be added up; see `safety`."""
    return Recipe(
        arrival=ARRIVALS[plan.arrival],
        decay=NoDecay(0.1),
        uplink=TopK(density=0.25, scope="global", values=ValueEncoding.INT8 if plan.follows else ValueEncoding.FLOAT16),
        downlink=Following(density=0.25) if plan.follows else Newest(),
        local_steps=Fixed(steps_per_cycle=2),
        federation=LITTLE_AND_OFTEN if plan.follows else WHOLE,
    )


class Federation:
    """The machines, none of them started. Make it inside the running loop."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.plan = plan
        self.recipe = recipe_of(plan)
        self.path = NetworkPath(plan.latency_s, plan.jitter_s, plan.loss_share)
        network = SimulatedNetwork(plan.seed, loop, self.path)
        for name in plan.coordinators:
            network.add_host(name)
        for name in plan.homes:
            network.add_host(name, up_bytes_per_s=500e3, down_bytes_per_s=2e6)
        network.add_host(ECHO)
        self.world = World(plan.seed, folder, network, loop, trainers=task.FormulaTrainers())
        self.slower_s: defaultdict[str, float] = defaultdict(float)  # by machine: each sync, on top of the usual
        self.bundle = Bundle.open(task.write_bundle(folder / "points.skerry"))
        self.coordinators = {name: self._coordinator(name) for name in plan.coordinators}
        self.devices = {name: self._device(number, name) for number, name in enumerate(plan.homes)}
        self.machines: dict[str, Machine] = {**self.coordinators, **self.devices}

    def _syncs(self, name: str, least_s: float, most_s: float) -> Callable[[], float]:
        draws = self.world.draws(name, "syncs")
        return lambda: draws.uniform(least_s, most_s) + self.slower_s[name]

    def _coordinator(self, name: str) -> SimulatedCoordinator:
        address = self.world.network.address
        config = CoordinatorConfig(
            name=name,
            region=f"region-{name}",
            bundle=str(self.bundle.path),
            recipe=self.recipe,
            peers={other: f"http://{address(other)}:{PORT}" for other in self.plan.coordinators if other != name},
            insecure=True,
            peers_wait_s=0.0,  # all of them begin at once
            # Where agents are sent here and there, ledgers travel whole: here nobody goes where his plan does not say.
            url=f"http://{address(name)}:{PORT}" if self.plan.tells_all else None,
            checkpoints=Checkpoints(every_updates=15, history_versions=1 << 30),
            limits=CoordinatorLimits(progress_timeout_s=PROGRESS_TIMEOUT_S),
        )
        # Slower than an acknowledgement travels: one ahead of its commit would show.
        return SimulatedCoordinator(self.world, config, sync_s=self._syncs(name, 0.02, 0.08))

    def _device(self, number: int, name: str) -> SimulatedDevice:
        world = self.world
        rows = task.write_rows(world.folder / f"{name}.npz", number)
        config = AgentConfig(
            device=name,
            coordinators=tuple(self.coordinators[home].url for home in self.plan.homes[name]),
            data=Data(f"npz:{rows}"),
            insecure=True,
            training=Training(calibration_steps=1),
            held_out=HeldOut(examples_max=0),
            limits=Limits(
                reconnect_max_s=2.0,
                heartbeat_s=1.0,
                progress_timeout_s=PROGRESS_TIMEOUT_S,
                telemetry_s=5.0,
                model_save_s=4.0,
                probe_s=1.0,
            ),
            roam=False,
            policy=Policy(enabled=False),
        )
        speed = Speed(
            self.plan.step_s[name], Lab(jitter=Jitter(sigma=0.2)), world.loop.time, world.draws(name, "speed")
        )
        return SimulatedDevice(world, config, speed, sync_s=self._syncs(name, 0.02, 0.12))
