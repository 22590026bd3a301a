"""The world of one run of a comparison: its coordinators and devices, made of the production services."""

from pathlib import Path

from msgspec.structs import replace

from coordinator.config import Checkpoints, CoordinatorConfig
from coordinator.events import Apply, ApplyBuffer, Merge
from edge_agent.config import AgentConfig, Data, HeldOut, Limits, Training
from skerry import profile as profiles
from skerry.algorithms.arrival import FedAvg
from skerry.algorithms.federation import SynchronousExchange
from skerry.policy import Policy
from skerry.recipe import Recipe
from testbed.comparison.run_spec import Place, RunSpec
from testbed.comparison.scenario import RoundTime
from testbed.simulation.coordinator import PORT, SimulatedCoordinator
from testbed.simulation.device import SimulatedDevice
from testbed.simulation.machine import World
from testbed.simulation.malice import lie
from testbed.simulation.path import WINDOW_BYTES_FIRST
from testbed.simulation.path import Path as NetworkPath
from testbed.simulation.route import WINDOW_BYTES_MAX
from testbed.simulation.rows import Rows
from testbed.simulation.speed import NormalSpeed, Speed, StepTimes
from testbed.simulation.threads import ServerWork

# An update is refused whose base the journal no longer knows. It reaches back so many versions for each device, and
# less far where dense updates are so large that the disks, which are in memory, would not hold them.
HISTORY_VERSIONS, HISTORY_VERSIONS_MIN = 12, 4
HISTORY_BYTES_MAX = 1 << 30  # of all coordinators together
CHECKPOINT_UPDATES_MAX = 200
STATUS_S = 1.0  # between two looks of a device at itself


class ComparedWorld:
    """Machines by name; their hosts are next to one another until `set_distances`."""

    def __init__(self, world: World, spec: RunSpec, place: Place, rows: Rows, model_bytes: int) -> None:
        """Add every host to the network of `world` and make its machine; nothing is started.

        `model_bytes`: of one model, dense.
        """
        self._world, self._spec, self._place, self._rows = world, spec, place, rows
        self._model_bytes = model_bytes
        regions = spec.world.regions
        self._home = {region: spec.home if spec.servers == "one" else region for region in regions}
        each = spec.world.devices // len(regions)
        self._region_of = {
            f"{region}-{number + 1:03d}": region for region in regions for number in range(each)
        }  # of each device
        servers = list(dict.fromkeys(self._home.values()))
        for names, mbit in ((servers, spec.world.server_mbit_per_s), (self._region_of, spec.world.device_mbit_per_s)):
            bytes_per_s = None if mbit is None else mbit * 1e6 / 8
            for name in names:
                world.network.add_host(name, bytes_per_s, bytes_per_s)
        self.coordinators = {name: self._coordinator(name, servers) for name in servers}
        malicious = spec.world.malicious
        every = 0 if malicious is None else malicious.every
        self.malicious = [
            name for part, name in enumerate(self._region_of) if every and part % each % every == every - 1
        ]
        self.devices = {name: self._device(name, part, part % each) for part, name in enumerate(self._region_of)}

    @property
    def joined(self) -> bool:
        """Whether every device is connected."""
        services = [one.service for one in self.coordinators.values()]
        running = [one for one in services if one is not None and one.metrics.status is not None]
        return sum(one.engine.peer_status("").devices for one in running) == len(self.devices)

    def set_distances(self) -> None:
        """Give every two hosts that talk to each other the latency of the scenario."""
        world = self._spec.world
        for device, region in self._region_of.items():
            home = self._home[region]
            self._set_path(device, home, world.device_latency_ms / 1e3 + world.latency_s(region, home))
        names = list(self.coordinators)
        for index, one in enumerate(names):
            for other in names[:index]:
                self._set_path(one, other, world.latency_s(one, other))

    def bytes_up(self) -> int:
        """Return everything that devices have sent."""
        return sum(self._world.network.host(name).up.carried_bytes for name in self.devices)

    def bytes_down(self) -> int:
        """Return everything that devices have received."""
        return sum(self._world.network.host(name).down.carried_bytes for name in self.devices)

    def bytes_peers(self) -> int:
        """Return everything that coordinators have sent, less what devices have received of it."""
        sent = sum(self._world.network.host(name).up.carried_bytes for name in self.coordinators)
        return max(0, sent - self.bytes_down()) if len(self.coordinators) > 1 else 0

    def _set_path(self, one: str, other: str, latency_s: float) -> None:
        window_bytes = WINDOW_BYTES_FIRST if self._spec.world.slow_start else WINDOW_BYTES_MAX
        path = NetworkPath(latency_s=latency_s, window_bytes_first=window_bytes)
        for source, target in ((one, other), (other, one)):
            self._world.network.set_path(source, target, path)

    def _coordinator(self, name: str, servers: list[str]) -> SimulatedCoordinator:
        address = self._world.network.address
        served = self._spec.world.devices // len(servers)
        config = CoordinatorConfig(
            name=name,
            region=name,
            bundle=self._place.bundle,
            recipe=self._recipe(served),
            peers={peer: f"http://{address(peer)}:{PORT}" for peer in servers if peer != name},
            peers_wait_s=0.0,  # all of them begin at once
            insecure=True,
            checkpoints=_checkpoints(served, HISTORY_BYTES_MAX // len(servers) // self._model_bytes),
        )
        return SimulatedCoordinator(self._world, config, work=self._work())

    def _recipe(self, served: int) -> Recipe:
        """Return the recipe; the first round waits for all devices of a coordinator, not for the first ones."""
        recipe = self._spec.recipe
        if not isinstance(recipe.arrival, FedAvg):
            return recipe
        return replace(recipe, arrival=replace(recipe.arrival, devices_min=served))

    def _work(self) -> ServerWork:
        """Return what a coordinator's work takes: a round's updates, or a barrier's models, are one mean."""
        world, recipe = self._spec.world, self._spec.recipe
        means: tuple[type[Apply | ApplyBuffer | Merge], ...] = ()
        if recipe.arrival.synchronous:
            means += (Apply,)
        if isinstance(recipe.federation, SynchronousExchange):
            means += (Merge,)
        return ServerWork(world.merge_ms / 1e3, world.aggregate_ms / 1e3, means)

    def _device(self, name: str, part: int, number: int) -> SimulatedDevice:
        task = self._spec.world.task
        source = task.source(part, self._spec.world, self._spec.seed)
        home = self.coordinators[self._home[self._region_of[name]]]
        config = AgentConfig(
            device=name,
            coordinators=(home.url,),
            data=Data(source, None if self._place.data_dir is None else Path(self._place.data_dir)),
            insecure=True,
            training=Training(batch_examples=task.batch_examples, calibration_steps=1),
            held_out=HeldOut(examples_max=0),
            limits=Limits(status_s=STATUS_S),
            policy=Policy(enabled=False),
        )
        malicious, alter = self._spec.world.malicious, None
        if malicious is not None and name in self.malicious:
            alter = lie(malicious, self._world.draws(name, "malice"))
        return SimulatedDevice(self._world, config, self._speed(name, number), load=self._rows.load, alter=alter)

    def _speed(self, name: str, number: int) -> StepTimes:
        speed, draws = self._spec.world.speed, self._world.draws(name, "speed")
        if isinstance(speed, RoundTime):
            times = speed.multipliers[number % len(speed.multipliers)] / 1e3
            return NormalSpeed(speed.ms * times, speed.sd_ms * times, speed.steps, draws)
        profile = profiles.load(speed.profiles[number % len(speed.profiles)])
        return Speed(speed.step_ms / 1e3, profile.lab, self._world.loop.time, draws)


def _checkpoints(devices: int, room_versions: int) -> Checkpoints:
    """Return how far the journal of a coordinator of so many devices reaches back where there is room for so much."""
    history = max(HISTORY_VERSIONS_MIN * devices, min(HISTORY_VERSIONS * devices, room_versions))
    return Checkpoints(every_updates=min(CHECKPOINT_UPDATES_MAX, history), every_s=3600.0, history_versions=history)
