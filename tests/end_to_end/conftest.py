"""A small federation of real processes, and what may be asked of it."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from safetensors.numpy import load as load_safetensors

from coordinator.history import read_history
from skerry import toml_file
from skerry.recipe import Recipe
from skerry.tasks.bundle import resolve
from skerry.vector import Float32
from testbed.processes.federation import Federation
from testbed.scenario import Scenario

WORLD = """
name = "small"
description = "two regions, two devices each, no shaping"
evaluate_every_s = 60.0
compute_share = 0.2

[[regions]]
name = "east"
coordinator = "east-1"
devices = [
    { name = "east-fast", profile = "jetson-orin-nano", link = {} },
    { name = "east-slow", profile = "raspberry-pi-4b", link = {} },
]

[[regions]]
name = "west"
coordinator = "west-1"
devices = [
    { name = "west-fast", profile = "jetson-orin-nano", link = {} },
    { name = "west-slow", profile = "raspberry-pi-4b", link = {} },
]
"""
QUICK = """
[local_steps]
rule = "cycle"
steps_median = 20
cycle_min_s = 0.1
"""
PATIENCE_S = 40.0


class Observer:
    """What the tests ask of a running federation, over HTTP and from its journals."""

    def __init__(self, federation: Federation, session: aiohttp.ClientSession) -> None:
        self.federation = federation
        self._session = session
        self._layout = resolve("builtin:activity").manifest.layout

    async def model(self, coordinator: str) -> tuple[int, Float32]:
        """Return version and values of the regional model, as the coordinator gives them."""
        async with self._session.get(f"{self.federation.url(coordinator)}/v1/model?kind=regional") as response:
            assert response.status == 200
            number = int(response.headers["ETag"].strip('"').rpartition("@")[2])
            tensors = load_safetensors(await response.read())
        values = [np.ravel(tensors[tensor.name]) for tensor in self._layout.tensors]
        return number, np.concatenate(values).astype(np.float32)

    def sequences(self, coordinator: str) -> dict[str, list[int]]:
        """Return by device the sequences in the journal, in its order."""
        found: dict[str, list[int]] = defaultdict(list)
        for row in read_history(self.federation.state_dir(coordinator)).updates:
            found[row.device].append(row.sequence)
        return found

    async def until_updates(self, count: int, *, more: bool = False) -> None:
        """Wait until every device has `count` updates in its region's journal; `more`: than it has now."""
        start = self._counts()
        wanted = {device: count + (start[device] if more else 0) for device in self._devices()}
        await until(lambda: all(self._counts()[device] >= wanted[device] for device in wanted), self._explain)

    async def until_merges(self, count: int, *, more: bool = False) -> None:
        """Wait until every region has merged `count` peer models; `more`: than it has now."""
        start = self._merges()
        wanted = {name: count + (start[name] if more else 0) for name in start}
        await until(lambda: all(self._merges()[name] >= wanted[name] for name in wanted), self._explain)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for `condition`."""
        await until(condition, self._explain)

    def assert_no_gap_and_no_repeat(self) -> None:
        """For each device the journal holds 1, 2, 3, ..."""
        for region in self.federation.scenario.regions:
            sequences = self.sequences(region.coordinator)
            assert set(sequences) == {device.name for device in region.devices}
            for device, numbers in sequences.items():
                assert numbers == list(range(1, len(numbers) + 1)), device

    def _devices(self) -> list[str]:
        return [device.name for _, device in self.federation.scenario.devices()]

    def _counts(self) -> dict[str, int]:
        counts = dict.fromkeys(self._devices(), 0)
        for coordinator in self.federation.coordinators:
            counts |= {device: len(numbers) for device, numbers in self.sequences(coordinator).items()}
        return counts

    def _merges(self) -> dict[str, int]:
        names = self.federation.coordinators
        return {name: len(read_history(self.federation.state_dir(name)).merges) for name in names}

    def _explain(self) -> str:
        tails = "\n".join(f"{one.name}: " + "\n".join(one.log_tail(8)) for one in self.federation.processes())
        return f"updates: {self._counts()}\n{tails}"


async def until(condition: Callable[[], bool], explain: Callable[[], str] = lambda: "") -> None:
    """Wait for what real processes will do; fail after PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, explain()
        await asyncio.sleep(0.05)


Start = Callable[..., AbstractAsyncContextManager[Observer]]


@pytest.fixture
def small_federation(tmp_path: Path) -> Start:
    """Return what starts the small federation, and ends all of it in whatever state the test left it."""

    @asynccontextmanager
    async def start(recipe: str = QUICK) -> AsyncIterator[Observer]:
        scenario = toml_file.parse(WORLD, Scenario, "world")
        federation = Federation(scenario, toml_file.parse(recipe, Recipe, "recipe"), tmp_path, seed=1)
        async with aiohttp.ClientSession() as session:
            try:
                await federation.start()
                yield Observer(federation, session)
            finally:
                await federation.stop()

    return start
