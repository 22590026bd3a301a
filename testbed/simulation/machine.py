"""A machine of the simulated world that runs one service: started, stopped, killed, cut from power, started again."""

import asyncio
import logging
import random
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skerry.errors import SkerryError
from testbed.simulation.clock import WallClock
from testbed.simulation.disk import Disk
from testbed.simulation.loop import VirtualLoop
from testbed.simulation.network import SimulatedNetwork
from testbed.simulation.process import Process
from testbed.simulation.threads import TrainingTime
from testbed.simulation.trainers import Trainers

RESTART_S = 5.0  # RestartSec of our units
FINAL = {2, 4, 5, 6, 7}  # their RestartPreventExitStatus: trying again would not help

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class World:
    """What all machines of one simulation share. Make it inside the running loop."""

    seed: int
    folder: Path  # where the machines' disks lie; `/dev/shm` serves best
    network: SimulatedNetwork
    loop: VirtualLoop
    trainers: Trainers = field(default_factory=Trainers)
    training: TrainingTime = field(default_factory=TrainingTime)
    defects: list[dict[str, Any]] = field(default_factory=list)  # what nobody caught, as asyncio's handlers are told

    def __post_init__(self) -> None:
        """Let libraries, too, do at once what they would do in a thread: aiohttp reads files so."""
        self.loop.in_thread = _at_once
        self.loop.set_exception_handler(self._note)

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.defects.append(context)
        loop.default_exception_handler(context)

    def draws(self, *names: object) -> random.Random:
        """Return a stream of its own for whatever is called so."""
        return random.Random("/".join(map(str, (self.seed, *names))))  # noqa: S311 - a simulation


class Machine(ABC):
    """One machine and its service, under a supervisor as systemd is one: a service that fails is started again."""

    def __init__(
        self,
        world: World,
        name: str,
        sync_s: Callable[[], float],
        clock: WallClock | None = None,
        files: str | None = None,
        *,
        in_memory: bool = False,
    ) -> None:
        """`name` is the host's in the network, too. `sync_s`, `files`, `in_memory`: see `Disk`."""
        self.name = name
        self.clock = clock or WallClock(world.loop.time)
        self.disk = Disk(world.folder / name / "0", sync_s, world.draws(name, "disk"), files, in_memory=in_memory)
        self.failures: list[SkerryError] = []  # that its service ended with
        self.starts = 0
        self._world = world
        self._stop = asyncio.Event()
        self._process: Process | None = None
        self._main: asyncio.Task[None] | None = None
        self._restart: asyncio.TimerHandle | None = None
        self._on = True

    @abstractmethod
    async def _serve(self, stop: asyncio.Event, draws: random.Random) -> None:
        """Run the service, with its state in `disk.folder`, until `stop`."""

    @property
    def running(self) -> bool:
        """Whether the service is up, or about to be."""
        return self._main is not None and not self._main.done()

    def start(self) -> None:
        """Start the service, and the machine if it has no power."""
        assert not self.running
        self._forget_restart()
        if not self._on:
            self._world.network.power_on(self.name)
            self._on = True
        self.disk.folder.mkdir(parents=True, exist_ok=True)
        self.starts += 1
        self._stop = asyncio.Event()
        self._process = Process(self._world.loop)
        self._main = self._process.start(self._serve(self._stop, self._world.draws(self.name, self.starts)))
        self._main.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Stop the service in good order, as SIGTERM does.

        Raises:
            SkerryError: it ended with that.
        """
        self._forget_restart()
        self._stop.set()
        if self._main is not None:
            await self._main

    def kill(self) -> None:
        """End the service where it stands: `kill -9`. What it has written stays."""
        self._world.network.kill(self.name)
        self._end(power=False)

    def cut_power(self) -> None:
        """Take the machine's power: nobody hears of it, and what was being written may be torn."""
        self._world.network.power_off(self.name)
        self._on = False
        self._end(power=True)

    def crash_after(self, callbacks: int, crash: Callable[[], None]) -> None:
        """Call `crash`, which may be `kill` or `cut_power`, behind the next `callbacks` >= 1 callbacks of the service.

        Any await may so be its last one. A service that ends before takes the order with it.
        """
        assert self._process is not None
        self._process.after_callbacks(callbacks, crash)

    def _end(self, *, power: bool) -> None:
        self._forget_restart()
        left = self.disk.folder
        if left.exists():
            self.disk = self.disk.crash(left.with_name(str(int(left.name) + 1)), power=power)
        main, self._main = self._main, None
        if main is None or main.done():
            shutil.rmtree(left, ignore_errors=True)
            return
        assert self._process is not None
        main.remove_done_callback(self._ended)
        main.add_done_callback(lambda _: shutil.rmtree(left, ignore_errors=True))
        main.add_done_callback(_retrieve)
        self._process.kill()

    def _forget_restart(self) -> None:
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None

    def _ended(self, main: "asyncio.Task[None]") -> None:
        """The service has ended by itself."""
        error = None if main.cancelled() else main.exception()
        if not isinstance(error, SkerryError):
            return  # stopped; or a defect, which whoever waits for `stop` is told of
        self.failures.append(error)
        log.info("%s: ended: %s", self.name, error)
        if not self._stop.is_set() and error.exit_code not in FINAL:
            self._restart = self._world.loop.call_later(RESTART_S, self.start)


async def _at_once(work: Callable[[], Any]) -> Any:
    return work()


def _retrieve(main: "asyncio.Task[None]") -> None:
    """A killed process says nothing."""
    if not main.cancelled():
        main.exception()
