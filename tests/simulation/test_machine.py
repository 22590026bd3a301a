"""A machine and the one service on it: what a kill ends, what a supervisor begins again, and with which state."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from skerry.errors import ConfigError, SkerryError, StorageError
from testbed.simulation.loop import VirtualLoop, run
from testbed.simulation.machine import RESTART_S, Machine, World
from testbed.simulation.network import SimulatedNetwork
from testbed.simulation.process import Process

Happens = Callable[["Diary"], Awaitable[Any]]


class Diary(Machine):
    """Its service writes a line a second from a task of its own, and ends in a clean-up that takes its time."""

    def __init__(self, world: World) -> None:
        super().__init__(world, "diary", lambda: 0.0)
        self.fail_with: BaseException | None = None
        self.drawn: list[float] = []
        self.cleaned_up_s: list[float] = []

    async def _serve(self, stop: asyncio.Event, draws: random.Random) -> None:
        self.drawn.append(draws.random())
        folder = self.disk.folder
        self.writing = asyncio.create_task(self._write(folder))  # nobody but a kill ends it
        try:
            await stop.wait()
        finally:
            await asyncio.sleep(3.0)
            _add(folder, "cleaned up")
            self.cleaned_up_s.append(self._world.loop.time())

    async def _write(self, folder: Path) -> None:
        async def later() -> None:
            await asyncio.sleep(0.5)
            _add(folder, "a half")
            if self.fail_with is not None:
                raise self.fail_with

        while True:
            await asyncio.sleep(0.5)
            _add(folder, "a second")
            await asyncio.create_task(later())

    def lines(self) -> list[str]:
        return (self.disk.folder / "lines.db").read_text().splitlines()


def _add(folder: Path, line: str) -> None:
    with (folder / "lines.db").open("a") as file:
        file.write(f"{line}\n")


def in_world(folder: Path, happens: Happens) -> Diary:
    async def main() -> Diary:
        loop = asyncio.get_running_loop()
        network = SimulatedNetwork(1, loop)
        network.add_host("diary")
        diary = Diary(World(1, folder, network, loop))  # type: ignore[arg-type]
        diary.start()
        await happens(diary)
        return diary

    return run(main(), seed=1)


@pytest.mark.parametrize("way", ["kill", "cut_power"])
def test_after_a_crash_nothing_reaches_the_disk_and_the_next_service_finds_it_as_it_was(
    tmp_path: Path, way: str
) -> None:
    async def happens(diary: Diary) -> None:
        await asyncio.sleep(2.25)
        before = diary.lines()
        getattr(diary, way)()
        assert not diary.running
        await asyncio.sleep(10.0)
        assert diary.lines() == before == ["a second", "a half"] * 2
        diary.start()
        assert diary.running
        await asyncio.sleep(0.75)
        assert diary.lines() == [*before, "a second"]
        assert [path.name for path in diary.disk.folder.parent.iterdir()] == ["1"]

    diary = in_world(tmp_path, happens)
    assert diary.starts == len(set(diary.drawn)) == 2
    assert diary._world.defects == []


@pytest.mark.parametrize("way", ["kill", "cut_power"])
def test_a_crash_may_come_at_any_await(tmp_path: Path, way: str) -> None:
    """The diary's three tasks take a callback each at every half second, or two."""

    async def crashed_at(callbacks: int, folder: Path) -> tuple[float, list[str]]:
        loop = asyncio.get_running_loop()
        network = SimulatedNetwork(1, loop)
        network.add_host("diary")
        diary = Diary(World(1, folder, network, loop))  # type: ignore[arg-type]
        diary.start()
        at_s: list[float] = []

        def crash() -> None:
            at_s.append(loop.time())
            getattr(diary, way)()

        diary.crash_after(10_000, lambda: at_s.append(-1.0))  # forgotten for the next one
        diary.crash_after(callbacks, crash)
        await asyncio.sleep(20.0)
        assert not diary.running
        diary.start()
        await asyncio.sleep(0.25)
        assert diary.running  # the order was the former service's
        return at_s[0], (diary.lines() if (diary.disk.folder / "lines.db").exists() else [])

    found = [run(crashed_at(count, tmp_path / str(count)), seed=1) for count in range(1, 40)]
    times = [at_s for at_s, _ in found]
    assert times == sorted(times)
    assert times[0] == 0.0 < times[-1]
    told = [len(lines) for _, lines in found]
    assert told == sorted(told)
    assert set(told) == set(range(told[-1] + 1))  # between any two lines there was a crash


def test_a_stop_lets_the_service_clean_up(tmp_path: Path) -> None:
    async def happens(diary: Diary) -> None:
        await asyncio.sleep(0.75)
        await diary.stop()
        assert asyncio.get_running_loop().time() == 3.75
        assert diary.lines() == [*["a second", "a half"] * 3, "a second", "cleaned up"]

    in_world(tmp_path, happens)


class Failing(Diary):
    """Ends with `fail_with` after a second."""

    async def _serve(self, stop: asyncio.Event, draws: random.Random) -> None:
        await asyncio.sleep(1.0)
        if self.fail_with is not None:
            raise self.fail_with
        await stop.wait()


async def ended_with(folder: Path, error: BaseException) -> Failing:
    loop = asyncio.get_running_loop()
    network = SimulatedNetwork(1, loop)
    network.add_host("diary")
    machine = Failing(World(1, folder, network, loop))  # type: ignore[arg-type]
    machine.fail_with = error
    machine.start()
    await asyncio.sleep(1.5)
    assert not machine.running
    return machine


def test_a_kill_ends_every_task_that_still_runs_in_the_order_in_which_they_began() -> None:
    ended: list[int] = []

    async def long(number: int) -> None:
        try:
            await asyncio.sleep(1e6)
        finally:
            ended.append(number)

    async def service() -> None:
        for number in range(1, 200):
            asyncio.create_task(long(number) if number % 20 == 0 else asyncio.sleep(0.01))  # noqa: RUF006 - killed
            await asyncio.sleep(1.0)
        await long(0)

    async def main() -> None:
        process = Process(cast("VirtualLoop", asyncio.get_running_loop()))
        process.start(service())
        await asyncio.sleep(300.0)
        assert len(process._tasks) < 40  # of 200, those that have ended are forgotten
        process.kill()
        await asyncio.sleep(0.0)
        assert ended == list(range(0, 200, 20))

    run(main(), seed=1)


@pytest.mark.parametrize(
    ("error", "again"), [(StorageError("full"), True), (SkerryError("?"), True), (ConfigError("no"), False)]
)
def test_a_service_that_fails_is_started_again_unless_that_is_of_no_use(
    tmp_path: Path, error: SkerryError, again: bool
) -> None:
    async def main() -> None:
        machine = await ended_with(tmp_path, error)
        machine.fail_with = None
        assert machine.failures == [error]
        await asyncio.sleep(RESTART_S)
        assert machine.running is again
        assert machine.starts == 1 + again

    run(main(), seed=1)


def test_a_defect_is_kept_and_not_tried_again(tmp_path: Path) -> None:
    async def main() -> None:
        machine = await ended_with(tmp_path, ZeroDivisionError())
        await asyncio.sleep(2 * RESTART_S)
        assert machine.starts == 1
        with pytest.raises(ZeroDivisionError):
            await machine.stop()

    run(main(), seed=1)


def test_a_machine_without_power_is_not_started_by_its_supervisor(tmp_path: Path) -> None:
    async def main() -> None:
        machine = await ended_with(tmp_path, StorageError("full"))
        machine.cut_power()
        await asyncio.sleep(2 * RESTART_S)
        assert machine.starts == 1
        machine.start()
        assert machine.running

    run(main(), seed=1)
