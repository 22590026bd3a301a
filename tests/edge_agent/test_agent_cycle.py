"""One cycle's steps, the threads that take them, and the order of writes."""

import asyncio
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from types import FrameType
from typing import Any

import numpy as np
import pytest

from edge_agent.calibration import DutyCycle
from edge_agent.config import AgentConfig
from edge_agent.disk import BURST_BYTES, DiskQueue, ModelWear, ResidualWear
from edge_agent.local_cycle import LocalCycle, Mailbox, RegionalModel
from edge_agent.task import OpenTask, open_task
from edge_agent.threads import TrainingThread, WorkThreads
from skerry.agent_stages import AgentStages
from skerry.errors import StorageError
from skerry.protocol.messages import ModelVersion
from skerry.tasks.bundle import Bundle
from skerry.training.local_run import LocalRun
from skerry.training.shuffle import Shuffle

STAGES = AgentStages()


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def at(number: int) -> ModelVersion:
    return ModelVersion("r/00000001", number)


@pytest.fixture
def task(activity: Bundle, agent_config: Callable[..., AgentConfig]) -> OpenTask:
    return open_task(activity, agent_config("http://127.0.0.1:9"))


def new_run(task: OpenTask, learning_rate: float = 0.05) -> LocalRun:
    return LocalRun(
        task.trainer,
        task.batches,
        optimizer=STAGES.optimizer,
        uplink=STAGES.uplink,
        merge=STAGES.merge,
        start=task.initial,
        residual=np.zeros_like(task.initial),
        learning_rate=learning_rate,
    )


def test_steps_are_timed_with_their_rests(task: OpenTask) -> None:
    clock = Clock()
    cycle = LocalCycle(new_run(task), 5, at(1), Mailbox(), DutyCycle(0.25), clock)
    for rest_s in cycle.pauses():
        clock.now_s += 0.1 if rest_s is None else rest_s  # a step computes for 0.1 s
    assert cycle.seconds == pytest.approx([0.4] * 5)
    assert np.isfinite(cycle.loss)


def test_the_rate_of_a_cycle_is_the_highest_of_its_steps(task: OpenTask) -> None:
    mailbox = Mailbox()
    cycle = LocalCycle(new_run(task, learning_rate=0.03), 3, at(1), mailbox, DutyCycle(1.0), Clock())
    rates = []
    for _, mailbox.learning_rate in zip(cycle.pauses(), (0.05, 0.02, 0.02), strict=True):
        rates.append(cycle.learning_rate)
    assert rates == [0.03, 0.05, 0.05]


def test_a_newer_model_is_let_in_between_two_steps_and_becomes_the_base(task: OpenTask) -> None:
    mailbox = Mailbox()
    run = new_run(task, learning_rate=0.0)
    cycle = LocalCycle(run, 4, at(1), mailbox, DutyCycle(1.0), Clock(), base_age=1.5)
    pauses = cycle.pauses()
    next(pauses)
    mailbox.put(RegionalModel(at(2), task.initial))
    mailbox.put(RegionalModel(at(3), task.initial + 1, 2.5))
    assert (cycle.base, cycle.base_age) == (at(1), 1.5)
    next(pauses)
    assert (cycle.base, cycle.base_age) == (at(3), 2.5)
    assert mailbox.take() is None
    for _ in pauses:
        pass
    np.testing.assert_allclose(cycle.difference(), 0.0, atol=1e-6)  # nothing of the newer model counts as learned here
    assert len(cycle.seconds) == 4


def test_a_model_that_comes_while_an_older_one_is_fetched_is_not_lost() -> None:
    """Method: the newer one is put in before each bytecode instruction of `take` in turn, as another thread may."""
    newer, instructions = RegionalModel(at(2), np.zeros(1, np.float32)), 0

    def take(mailbox: Mailbox, put_before: int) -> RegionalModel | None:
        nonlocal instructions
        instructions = 0

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal instructions
            if frame.f_code is not Mailbox.take.__code__:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                instructions += 1
                if instructions == put_before:
                    mailbox.put(newer)
            return trace

        former = sys.gettrace()
        sys.settrace(trace)
        try:
            return mailbox.take()
        finally:
            sys.settrace(former)

    put_before = 0
    while put_before <= instructions:
        put_before += 1
        mailbox = Mailbox()
        mailbox.put(RegionalModel(at(1), np.zeros(1, np.float32)))
        taken = [take(mailbox, put_before), mailbox.take()]
        assert newer in taken or put_before > instructions
    assert instructions > 5


def test_a_learning_rate_that_is_left_in_mid_cycle_counts_from_the_next_step(task: OpenTask) -> None:
    mailbox = Mailbox()
    cycle = LocalCycle(new_run(task), 3, at(1), mailbox, DutyCycle(1.0), Clock())
    pauses = cycle.pauses()
    next(pauses)
    learned = cycle.difference()
    assert learned.any()
    mailbox.learning_rate = 0.0
    for _ in pauses:
        pass
    np.testing.assert_array_equal(cycle.difference(), learned)


def test_a_cycle_that_is_to_end_keeps_the_steps_it_has(task: OpenTask) -> None:
    clock, mailbox = Clock(), Mailbox()
    run = new_run(task)
    cycle = LocalCycle(run, 50, at(1), mailbox, DutyCycle(0.5), clock)
    for rest_s in cycle.pauses():
        clock.now_s += 0.1 if rest_s is None else rest_s
        mailbox.ending = run.steps == 3
    assert cycle.seconds == pytest.approx([0.2] * 3)
    assert np.any(cycle.difference() != 0.0)


def test_short_steps_that_saved_up_a_rest_all_count_when_the_cycle_is_to_end(task: OpenTask) -> None:
    clock, mailbox = Clock(), Mailbox()
    run = new_run(task)
    cycle = LocalCycle(run, 50, at(1), mailbox, DutyCycle(0.8), clock)
    for rest_s in cycle.pauses():
        clock.now_s += 1e-4 if rest_s is None else rest_s
        mailbox.ending = run.steps >= 7
    assert run.steps == len(cycle.seconds) == 7


def test_a_slow_pace_counts_from_the_next_step_of_a_cycle_under_way(task: OpenTask) -> None:
    clock, duty = Clock(), DutyCycle(0.5, slow_share=0.25)
    run = new_run(task)
    cycle = LocalCycle(run, 6, at(1), Mailbox(), duty, clock)
    for rest_s in cycle.pauses():
        clock.now_s += 0.1 if rest_s is None else rest_s
        duty.slow = 2 <= run.steps < 4
    assert cycle.seconds == pytest.approx([0.2, 0.8, 0.8, 0.2, 0.2, 0.2])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e31])
def test_a_difference_that_is_no_number_to_go_on_with_is_seen(task: OpenTask, value: float) -> None:
    cycle = LocalCycle(new_run(task), 1, at(1), Mailbox(), DutyCycle(1.0), Clock())
    for _ in cycle.pauses():
        pass
    difference = cycle.difference()
    assert cycle.is_finite(difference)
    difference[3] = value
    assert not cycle.is_finite(difference)


async def test_a_rest_ends_at_once_when_training_is_stopped() -> None:
    thread = TrainingThread()
    resting = threading.Event()

    def pauses() -> Iterator[float | None]:
        resting.set()
        yield 3600.0
        raise AssertionError("went on")

    running = asyncio.create_task(thread.run(pauses()))
    await asyncio.get_running_loop().run_in_executor(None, resting.wait)
    started_s = time.monotonic()
    thread.stop()
    assert await running is False
    assert time.monotonic() - started_s < 5.0
    assert await thread.run(iter([None, 0.001]))  # the next run knows nothing of it
    thread.close()


async def test_writes_happen_in_order_and_an_error_ends_the_queue() -> None:
    work = WorkThreads()
    disk = DiskQueue(work)
    seen: list[Any] = []

    def fail() -> None:
        raise StorageError("full")

    for number in range(20):
        disk.submit(lambda number=number: seen.append(number), lambda number=number: seen.append((number, "done")))  # type: ignore[misc]
    disk.submit(fail, lambda: seen.append("never"))
    with pytest.raises(StorageError, match="full"):
        await disk.run()
    assert seen == [entry for number in range(20) for entry in (number, (number, "done"))]
    work.close()


async def test_one_write_begins_when_the_one_before_has_ended_and_none_behind_a_stop() -> None:
    asked: list[asyncio.Future[None]] = []

    def ask(_: Callable[[], Any], /) -> asyncio.Future[Any]:
        asked.append(asyncio.get_running_loop().create_future())
        return asked[-1]

    disk, seen = DiskQueue(ask), list[int]()
    running = asyncio.create_task(disk.run())
    await asyncio.sleep(0)
    for number in range(3):
        disk.submit(lambda: None, lambda number=number: seen.append(number))  # type: ignore[misc]
    assert (len(asked), seen) == (1, [])
    asked[0].set_result(None)
    await asyncio.sleep(0)
    assert (len(asked), seen) == (2, [0])
    running.cancel()
    asked[1].set_result(None)
    await asyncio.wait([running])
    disk.submit(lambda: None)
    assert (len(asked), seen) == (2, [0])


async def test_an_error_behind_a_write_ends_the_queue_too() -> None:
    work, seen = WorkThreads(), list[str]()
    disk = DiskQueue(work)

    def misses() -> None:
        raise KeyError("sequence")

    disk.submit(lambda: seen.append("written"), misses)
    disk.submit(lambda: seen.append("behind it"))
    with pytest.raises(KeyError, match="sequence"):
        await disk.run()
    assert seen == ["written"]
    work.close()


async def test_a_stop_loses_no_write_and_keeps_their_order() -> None:
    """Neither the one that waits for a thread, which others keep busy, nor those behind it."""
    work, busy, seen = WorkThreads(1), threading.Event(), list[int]()
    disk = DiskQueue(work)
    running = asyncio.create_task(disk.run())
    kept = asyncio.ensure_future(work(busy.wait))
    for number in range(3):
        disk.submit(lambda number=number: seen.append(number))  # type: ignore[misc]
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    busy.set()
    assert await kept
    work.close()
    disk.finish()
    assert seen == [0, 1, 2]


def test_a_small_residual_is_written_with_every_update() -> None:
    wear = ResidualWear(bytes_per_s=100e3)
    assert all(wear.due(50_000, 500, now_s=float(second)) for second in range(20_000))


def test_a_large_residual_is_written_at_the_rate_that_flash_may_take() -> None:
    wear = ResidualWear(bytes_per_s=100e3)
    written = sum(wear.due(4_000_000, 100, now_s=float(second)) for second in range(4000))
    assert written == pytest.approx(BURST_BYTES / 4e6 + 4000 * 100e3 / 4e6, abs=1)
    wear.forget()
    assert wear.due(4_000_000, 100, now_s=4000.1)


def test_a_residual_is_written_ten_times_less_often_while_the_hours_bytes_run_out() -> None:
    wear = ResidualWear(bytes_per_s=100e3)
    assert wear.due(200_000, 100, now_s=0.0)
    written = sum(wear.due(200_000, 100, now_s=float(second), sparing=True) for second in range(1, 2001))
    assert written == pytest.approx(2000 * 10e3 / 200e3, abs=1)
    assert wear.due(200_000, 200_000, now_s=2001.0, sparing=True)  # the updates in its stead have outgrown it
    again = sum(wear.due(200_000, 100, now_s=float(second)) for second in range(2002, 4002))
    assert again == pytest.approx(2000 * 100e3 / 200e3, abs=1)


def test_the_model_is_written_every_tenth_time_while_the_hours_bytes_run_out() -> None:
    wear = ModelWear()
    assert [wear.due(sparing=False) for _ in range(3)] == [True] * 3
    assert [number for number in range(1, 41) if wear.due(sparing=True)] == [10, 20, 30, 40]
    assert not wear.due(sparing=True)
    assert wear.due(sparing=False)


def test_updates_kept_instead_of_a_residual_never_outgrow_it() -> None:
    wear = ResidualWear(bytes_per_s=1.0)
    size = BURST_BYTES
    assert wear.due(size, 600, 0.0)
    assert not wear.due(size, size // 2, 1.0)
    assert wear.due(size, size // 2, 2.0)


def test_an_order_is_a_permutation_and_follows_its_seed() -> None:
    order = Shuffle(3).permutation(1000)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    np.testing.assert_array_equal(order, Shuffle(3).permutation(1000))
    assert (order != Shuffle(4).permutation(1000)).any()
    assert len(Shuffle(None).permutation(0)) == 0


Serve = Callable[..., Awaitable[Any]]


async def test_an_agent_trains_alike_with_a_small_share_of_the_time(
    serve: Serve, agent_config: Callable[..., AgentConfig], running: Any
) -> None:
    coordinator = await serve()
    async with running(agent_config(coordinator.url, duty_cycle=0.2)):
        await coordinator.until(lambda: len(coordinator.journal) >= 4)
    assert all(offered.seconds_per_step > 0 for offered in coordinator.offered)
