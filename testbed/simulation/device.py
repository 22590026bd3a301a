"""A simulated device: the production agent on a machine of the simulated world."""

import asyncio
import dataclasses
import random
from collections.abc import Callable
from datetime import UTC, tzinfo
from functools import partial

from msgspec.structs import replace

from edge_agent import service
from edge_agent.config import AgentConfig
from edge_agent.task import LoadRows, OpenTask, open_task
from skerry.tasks import data
from skerry.tasks.bundle import Bundle
from testbed.simulation.board import SimulatedBoard, SimulatedProcess
from testbed.simulation.clock import WallClock
from testbed.simulation.connector import Connector
from testbed.simulation.machine import Machine, World
from testbed.simulation.malice import Alter
from testbed.simulation.speed import StepTimes
from testbed.simulation.threads import TrainingInline, WorkInline


class SimulatedDevice(Machine):
    """Its host is to be in the network already, and has its name."""

    def __init__(
        self,
        world: World,
        config: AgentConfig,
        speed: StepTimes,
        *,
        sync_s: Callable[[], float] = lambda: 0.0,
        clock: WallClock | None = None,
        time_zone: tzinfo = UTC,
        load: LoadRows = data.load,
        in_memory: bool = False,
        alter: Alter | None = None,
    ) -> None:
        """`config` says where its state is only as far as the world has no say in that.

        `alter`: what a device that lies makes of what it learned. `sync_s`, `in_memory`: see `Disk`. `load` reads its
        rows; devices that share one read a data set once.
        """
        super().__init__(world, config.device, sync_s, clock, in_memory=in_memory)
        self._config = config
        self.speed = speed
        self.board = SimulatedBoard(lambda: speed.throttled)
        self._time_zone = time_zone
        self._load = load
        self._alter = alter

    async def _serve(self, stop: asyncio.Event, draws: random.Random) -> None:
        """Do what `skerry-agent run` does."""
        world = self._world
        await service.run(
            replace(self._config, state_dir=self.disk.folder),
            stop,
            connector=partial(Connector, world.network, self.name),
            run_in_thread=WorkInline(self.disk),
            training=TrainingInline(self.speed, world.training),
            rng=draws,
            wall_clock=self.clock,
            time_zone=self._time_zone,
            board=self.board,
            process=SimulatedProcess(self.starts, self.clock()),
            open_database=self.disk.open_database,
            open_task=self._open_task,
        )

    def _open_task(self, bundle: Bundle, config: AgentConfig) -> OpenTask:
        task = open_task(bundle, config, open_trainer=self._world.trainers, load=self._load)
        return dataclasses.replace(task, alter=self._alter)
