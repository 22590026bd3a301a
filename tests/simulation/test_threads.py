"""Work and training in virtual time: done at once, over when the model says so."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.events import Apply, Merge
from skerry.errors import StorageError
from skerry.profile import Lab
from testbed.simulation.disk import Disk
from testbed.simulation.loop import run
from testbed.simulation.speed import Speed
from testbed.simulation.threads import ServerWork, TrainingInline, TrainingTime, WorkInline


def disk_of(folder: Path, sync_s: float) -> Disk:
    (folder / "state").mkdir()
    return Disk(folder / "state", lambda: sync_s, random.Random(1))


def test_what_commits_is_written_at_once_and_over_when_the_disk_has_it(tmp_path: Path) -> None:
    async def main() -> None:
        loop, disk = asyncio.get_running_loop(), disk_of(tmp_path, 0.5)
        database = disk.open_database(disk.folder / "state.db", "edge_agent")
        work = WorkInline(disk)

        def write() -> int:
            with database.transaction():
                database.connection.execute(database.queries["continue_after"], {"sequence": 7})
            return 7

        writing = asyncio.ensure_future(work(write))
        assert database.connection.execute(database.queries["agent"]).fetchone()[0] == 7
        await asyncio.sleep(0.4)
        assert not writing.done()
        assert await writing == 7
        assert loop.time() == 0.5
        assert await work(lambda: "no write") == "no write"
        assert loop.time() == 0.5
        database.close()

    run(main(), seed=1)


def test_an_error_reaches_whoever_awaits(tmp_path: Path) -> None:
    async def main() -> None:
        work = WorkInline(disk_of(tmp_path, 0.5))

        def fail() -> None:
            raise StorageError("no")

        with pytest.raises(StorageError, match="no"):
            await work(fail)
        gone = asyncio.ensure_future(work(lambda: 1))
        gone.cancel()  # nobody minds
        await asyncio.sleep(1.0)

    run(main(), seed=1)


class Steps:
    """Pauses as a local cycle makes them; notes when each step began."""

    def __init__(self, pauses: list[float | None]) -> None:
        self.pauses = pauses
        self.begun_s: list[float] = []

    def __call__(self) -> Iterator[float | None]:
        loop = asyncio.get_running_loop()
        for pause in self.pauses:
            if pause is None:
                self.begun_s.append(loop.time())
            yield pause


def training(step_s: float = 2.0) -> TrainingInline:
    loop = asyncio.get_running_loop()
    return TrainingInline(Speed(step_s, Lab(), loop.time, random.Random(1)), TrainingTime())


def test_steps_and_rests_take_their_time() -> None:
    async def main() -> None:
        runner, steps = training(), Steps([None, None, 1.0, None])
        assert await runner.run(steps())
        assert steps.begun_s == [0.0, 2.0, 5.0]
        assert asyncio.get_running_loop().time() == 7.0
        assert runner.computed_s() == 6.0

    run(main(), seed=1)


def test_a_stop_waits_for_the_step_and_cuts_a_rest_short() -> None:
    async def main() -> None:
        loop, runner = asyncio.get_running_loop(), training()
        for pauses, at_s, ended_s in ([None, None], 1.0, 2.0), ([None, 10.0, None], 3.0, 3.0):
            began_s, steps = loop.time(), Steps(list(pauses))
            loop.call_later(at_s, runner.stop)
            assert not await runner.run(steps())
            assert loop.time() - began_s == ended_s
            assert len(steps.begun_s) == 1

    run(main(), seed=1)


def test_one_run_waits_for_another_and_a_stop_is_for_the_newest() -> None:
    async def main() -> None:
        loop, runner = asyncio.get_running_loop(), training()
        first, second = Steps([None, None]), Steps([None, None])
        runs = [asyncio.ensure_future(runner.run(steps())) for steps in (first, second)]
        await asyncio.sleep(1.0)
        runner.stop()
        assert await asyncio.gather(*runs) == [True, False]
        assert (first.begun_s, second.begun_s, loop.time()) == ([0.0, 2.0], [4.0], 6.0)

    run(main(), seed=1)


def test_an_error_of_a_step_is_raised_and_the_next_run_goes_on() -> None:
    async def main() -> None:
        runner = training()

        def broken() -> Iterator[float | None]:
            yield None
            raise ArithmeticError

        with pytest.raises(ArithmeticError):
            await runner.run(broken())
        assert await runner.run(Steps([None])())

    run(main(), seed=1)


def test_a_run_that_is_cancelled_takes_no_further_step() -> None:
    async def main() -> None:
        loop, runner, steps = asyncio.get_running_loop(), training(), Steps([None, None, None])
        running = asyncio.ensure_future(runner.run(steps()))
        await asyncio.sleep(3.0)
        running.cancel()
        assert await runner.run(Steps([None])())
        assert (steps.begun_s, loop.time(), runner.computed_s()) == ([0.0, 2.0], 5.0, 4.0)

    run(main(), seed=1)


def test_a_slower_servers_work_takes_time_and_is_counted() -> None:
    async def main() -> None:
        work = ServerWork(0.01)
        for _ in range(3):
            await work(Merge(1, "us-1", 0.5, 1.0, "all"))
        assert asyncio.get_running_loop().time() == pytest.approx(0.03)
        assert work.busy_s == pytest.approx(0.03)

    run(main(), seed=1)


def test_changes_that_follow_at_once_are_one_mean() -> None:
    """Two means of three models, 5 ms apart, then an update, which is a piece of work of its own."""

    async def main() -> None:
        loop, work = asyncio.get_running_loop(), ServerWork(0.01, 0.1, (Merge,))
        update = Apply(7, 7, 0.5, 1.0)
        for pause_s in (0.005, 0.0):
            for _ in range(3):
                await work(Merge(1, "us-1", 0.5, 1.0, "all"))
            await asyncio.sleep(pause_s)
        assert loop.time() == pytest.approx(0.205)
        await work(update)
        await work(update)
        await work(Merge(1, "us-1", 0.5, 1.0, "all"))
        assert work.busy_s == pytest.approx(0.1 + 0.1 + 0.01 + 0.01 + 0.1)

    run(main(), seed=1)
