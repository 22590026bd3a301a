"""All processes and links of a scenario: coordinators, agents, and a relay on every way between them.

folder/config/NAME.toml   what each service was started from
folder/state/NAME/        its state directory
folder/logs/NAME.log      its output
"""

import asyncio
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import aiohttp
import msgspec

import testbed
from coordinator.config import Checkpoints, CoordinatorConfig, Evaluation, Listen
from edge_agent.config import AgentConfig, Data, Limits, Training
from skerry import profile as profiles
from skerry.errors import SkerryError
from skerry.policy import Policy
from skerry.recipe import Recipe
from testbed.processes import toml_text
from testbed.processes.link import Link
from testbed.processes.process import Process, ProcessFailedError
from testbed.processes.relay import Address, Relay
from testbed.scenario import Device, Region, Scenario

LOOPBACK = "127.0.0.1"
READY_POLL_S = 0.05
READY_TIMEOUT_S = 30.0
STATUS_S = 1.0  # the live view shows what agents write to their status.json
TELEMETRY_S = 5.0


class Federation:
    """A scenario's processes.

    The public dictionaries are by name, so that a test can kill, freeze or cut whatever it wants; peer relays are by
    (from coordinator, to coordinator).
    """

    def __init__(
        self,
        scenario: Scenario,
        recipe: Recipe,
        folder: Path,
        *,
        seed: int,
        data_dir: Path | None = None,
        agent_python: Sequence[str] = (sys.executable,),
        training: Training | None = None,
    ) -> None:
        """`agent_python` starts the agents' interpreter: another one, or this one under a tracer.

        `training` is every agent's, None the default; batch, duty cycle and seed in it are the scenario's to say.
        """
        self.scenario = scenario
        self.folder = folder
        self.failure: asyncio.Future[ProcessFailedError] = asyncio.get_running_loop().create_future()
        self.links: dict[tuple[str, str], Link] = {}  # (device or coordinator, coordinator)
        self.device_relays: dict[str, Relay] = {}
        self.peer_relays: dict[tuple[str, str], Relay] = {}
        self.coordinators: dict[str, Process] = {}
        self.agents: dict[str, Process] = {}
        self._recipe = recipe
        self._seed = seed
        self._data_dir = data_dir
        self._agent_python = tuple(agent_python)
        self._training = training or Training()

    def state_dir(self, name: str) -> Path:
        """Return the state directory of a coordinator or an agent."""
        return self.folder / "state" / name

    def address(self, coordinator: str) -> Address | None:
        """Return where a coordinator listens now; None if it has not said so yet."""
        try:
            return LOOPBACK, int((self.state_dir(coordinator) / "port").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def url(self, coordinator: str) -> str:
        """Return a coordinator's own URL, past every relay; it must be ready."""
        address = self.address(coordinator)
        assert address is not None
        return f"http://{address[0]}:{address[1]}"

    async def start(self) -> None:
        """Start everything: links, then coordinators, then, when these are ready, agents.

        Raises:
            ProcessFailedError: a process ended at once.
            SkerryError: a coordinator was not ready in time.
        """
        for name in ("config", "logs", "state"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        await self._start_relays()
        for region in self.scenario.regions:
            self.coordinators[region.coordinator] = self._process(
                region.coordinator, "coordinator", self._coordinator_config(region)
            )
        for region, device in self.scenario.devices():
            self.agents[device.name] = self._process(
                device.name,
                "edge_agent",
                self._agent_config(region, device),
                data_bytes_max=profiles.load(device.profile).memory_bytes,
                python=self._agent_python,
            )
        await asyncio.gather(*(process.start() for process in self.coordinators.values()))
        await asyncio.gather(*(self.ready(name) for name in self.coordinators))
        await asyncio.gather(*(process.start() for process in self.agents.values()))

    async def ready(self, coordinator: str) -> None:
        """Wait until a coordinator says that it is ready.

        Raises:
            ProcessFailedError: it ended instead.
            SkerryError: it was not ready within READY_TIMEOUT_S.
        """
        try:
            async with asyncio.timeout(READY_TIMEOUT_S), aiohttp.ClientSession() as session:
                while not await self._is_ready(session, coordinator):
                    if self.failure.done():
                        raise self.failure.result()
                    await asyncio.sleep(READY_POLL_S)
        except TimeoutError as error:
            log = self.coordinators[coordinator].log
            raise SkerryError(f"{coordinator} was not ready within {READY_TIMEOUT_S:g} s; its log is {log}") from error

    async def stop(self) -> None:
        """End everything: agents, then coordinators, then links. Returns when no process is left, also if cancelled.

        Raises:
            ProcessFailedError: a process did not end in good order when it was asked to.
        """
        try:
            agents = await asyncio.gather(*(process.stop() for process in self.agents.values()))
            coordinators = await asyncio.gather(*(process.stop() for process in self.coordinators.values()))
        finally:
            for process in self.processes():
                if process.running:
                    await process.kill()
            for relay in self.relays():
                await relay.close()
        for process, status in zip(self.processes(), (*coordinators, *agents), strict=True):
            if status and not self.failure.done():
                raise ProcessFailedError(process, status)

    def processes(self) -> Iterator[Process]:
        """Every process."""
        yield from self.coordinators.values()
        yield from self.agents.values()

    def relays(self) -> Iterator[Relay]:
        """Every relay."""
        yield from self.device_relays.values()
        yield from self.peer_relays.values()

    async def _is_ready(self, session: aiohttp.ClientSession, coordinator: str) -> bool:
        if self.address(coordinator) is None:
            return False
        try:
            async with session.get(f"{self.url(coordinator)}/readyz") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    async def _start_relays(self) -> None:
        for region, device in self.scenario.devices():
            link = self.scenario.device_link(device, profiles.load(device.profile))
            self.links[device.name, region.coordinator] = link
            self.device_relays[device.name] = self._relay(link, region.coordinator)
        for a, b in combinations((region.coordinator for region in self.scenario.regions), 2):
            link = self.scenario.links.regions.link()
            self.links[a, b] = link
            self.peer_relays[a, b] = self._relay(link, b)
            self.peer_relays[b, a] = self._relay(link, a, reverse=True)
        for relay in self.relays():
            await relay.start()

    def _relay(self, link: Link, coordinator: str, *, reverse: bool = False) -> Relay:
        return Relay(link, lambda: self.address(coordinator), reverse=reverse)

    def _coordinator_config(self, region: Region) -> CoordinatorConfig:
        peers = {
            to: f"http://{LOOPBACK}:{relay.port}"
            for (from_, to), relay in self.peer_relays.items()
            if from_ == region.coordinator
        }
        return CoordinatorConfig(
            name=region.coordinator,
            region=region.name,
            bundle=self.scenario.task,
            recipe=self._recipe,
            peers=peers,
            peers_wait_s=0.0,  # a run begins with all of them at once, on ports that nobody knows yet
            state_dir=self.state_dir(region.coordinator),
            insecure=True,
            listen=Listen(host=LOOPBACK, port=0),
            evaluation=Evaluation(
                source=self.scenario.held_out, dir=self._data_dir, every_s=self.scenario.evaluate_every_s
            ),
            # The report shows every update of the run: the journal is never cut while it lasts.
            checkpoints=Checkpoints(history_versions=1 << 30),
        )

    def _agent_config(self, region: Region, device: Device) -> AgentConfig:
        number = [one.name for _, one in self.scenario.devices()].index(device.name)
        return AgentConfig(
            device=device.name,
            coordinators=(f"http://{LOOPBACK}:{self.device_relays[device.name].port}",),
            data=Data(source=self.scenario.data_source(device.name), dir=self._data_dir),
            state_dir=self.state_dir(device.name),
            profile=device.profile,
            insecure=True,
            training=msgspec.structs.replace(
                self._training,
                batch_examples=self.scenario.batch_examples,
                duty_cycle=self.scenario.duty_cycle(profiles.load(device.profile)),
                seed=self._seed * 1000 + number,
            ),
            limits=Limits(status_s=STATUS_S, telemetry_s=TELEMETRY_S),
            policy=Policy(enabled=False),  # the devices share one machine: what holds it back is none of theirs
        )

    def _process(
        self,
        name: str,
        package: str,
        config: msgspec.Struct,
        *,
        data_bytes_max: int | None = None,
        python: Sequence[str] = (sys.executable,),
    ) -> Process:
        file = self.folder / "config" / f"{name}.toml"
        file.write_text(toml_text.render(config))
        return Process(
            name,
            (*python, "-c", f"from {package}.cli import main; main()", "run", "--config", str(file)),
            self.folder / "logs" / f"{name}.log",
            environment=_environment(),
            data_bytes_max=data_bytes_max,
            failed=self._process_failed,
        )

    def _process_failed(self, error: ProcessFailedError) -> None:
        if not self.failure.done():
            self.failure.set_result(error)


def _environment() -> Mapping[str, str]:
    """Return what the services need from the environment: also from a checkout they find the lab's own packages."""
    root = str(Path(testbed.__file__).parent.parent)
    path = os.environ.get("PYTHONPATH")
    return {
        "PYTHONPATH": f"{root}{os.pathsep}{path}" if path else root,
        "ORT_DISABLE_TELEMETRY": "1",
        "OPENBLAS_NUM_THREADS": "1",  # one thread per device, as its profile says
    }
