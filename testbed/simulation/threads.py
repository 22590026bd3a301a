"""What stands for threads in virtual time: work is really done, at once, and its modelled time passes behind it.

All in the loop's own thread: nothing depends on which thread is faster.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from time import perf_counter, thread_time
from typing import TypeVar

from coordinator.events import Apply, ApplyBuffer, Merge
from testbed.simulation.disk import Disk
from testbed.simulation.speed import StepTimes

T = TypeVar("T")


class WorkInline:
    """Does a service's short work. What it wrote takes as long as the disk says, all else no time."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]:
        """Do `work` now; the result, or the error, comes when the disk has it."""
        loop, disk = asyncio.get_running_loop(), self._disk
        future: asyncio.Future[T] = loop.create_future()
        write = disk.begin()
        settle: Callable[[], None]
        try:
            settle = partial(future.set_result, work())
        except Exception as error:
            settle = partial(future.set_exception, error)

        due_s = disk.done(write, loop.time())
        if not write:
            settle()
            return future

        def end() -> None:
            disk.finish(write)
            if not future.done():  # whoever asked may have gone
                settle()

        loop.call_at(due_s, end)
        return future


class TrainingTime:
    """What the training of a whole world really took."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self.steps = 0

    def __enter__(self) -> None:
        self.seconds -= perf_counter()
        self.cpu_seconds -= thread_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += perf_counter()
        self.cpu_seconds += thread_time()


class TrainingInline:
    """Takes a device's steps: really computed when each begins, and over when the modelled processor is done."""

    def __init__(self, speed: StepTimes, spent: TrainingTime) -> None:
        self._speed, self._spent = speed, spent
        self._one_at_a_time = asyncio.Lock()
        self._stop = _Stop()
        self._computed_s = 0.0

    async def run(self, pauses: Iterator[float | None]) -> bool:
        """See `edge_agent.threads.TrainingRunner`."""
        self._stop = stop = _Stop()
        loop = asyncio.get_running_loop()
        async with self._one_at_a_time:
            while True:
                left_off: asyncio.Future[float | bool] = loop.create_future()
                self._go_on(pauses, stop, left_off)
                rest_s = await left_off
                if isinstance(rest_s, bool):
                    return rest_s
                if await stop.asked_within(rest_s):
                    return False

    def _go_on(self, pauses: Iterator[float | None], stop: "_Stop", left_off: "asyncio.Future[float | bool]") -> None:
        """Take steps, each from a timer of its own; `left_off` gets a rest's seconds, or what `run` returns."""
        try:
            with self._spent:
                rest_s = next(pauses)
        except StopIteration:
            left_off.set_result(True)
        except Exception as error:
            left_off.set_exception(error)
        else:
            if rest_s is None:
                self._spent.steps += 1
                step_s = self._speed.step_s()
                asyncio.get_running_loop().call_later(step_s, self._stepped, step_s, pauses, stop, left_off)
            else:
                left_off.set_result(float(rest_s))

    def _stepped(
        self, step_s: float, pauses: Iterator[float | None], stop: "_Stop", left_off: "asyncio.Future[float | bool]"
    ) -> None:
        if left_off.done():
            return  # whoever ran it has been cancelled
        self._computed_s += step_s
        if stop.asked:
            left_off.set_result(False)
        else:
            self._go_on(pauses, stop, left_off)

    def computed_s(self) -> float:
        """See `edge_agent.threads.TrainingRunner`."""
        return self._computed_s

    def stop(self) -> None:
        """See `edge_agent.threads.TrainingRunner`."""
        self._stop.ask()


class _Stop:
    """Somebody may ask for a stop; one waits for it."""

    def __init__(self) -> None:
        self.asked = False
        self._waiting: asyncio.Future[None] | None = None

    def ask(self) -> None:
        self.asked = True
        self._wake()

    async def asked_within(self, seconds: float) -> bool:
        if not self.asked:
            loop = asyncio.get_running_loop()
            self._waiting = loop.create_future()
            timer = loop.call_later(seconds, self._wake)
            try:
                await self._waiting
            finally:
                timer.cancel()
                self._waiting = None
        return self.asked

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class ServerWork:
    """What a slower server would take for each change of its model, devices' updates and peers' models alike.

    The coordinator changes its model by one thing after the other: its work is a queue.
    """

    def __init__(
        self, change_s: float, mean_s: float = 0.0, means: tuple[type[Apply | ApplyBuffer | Merge], ...] = ()
    ) -> None:
        """A change takes `change_s`; of the kinds in `means`, those that follow at once are a mean, all in `mean_s`."""
        self.change_s, self.mean_s = change_s, mean_s
        self.busy_s = 0.0  # so far, in virtual seconds
        self._means = means
        self._mean_ended_s: float | None = None

    async def __call__(self, change: Apply | ApplyBuffer | Merge) -> None:
        """See `coordinator.engine.Toll`."""
        loop = asyncio.get_running_loop()
        is_mean = isinstance(change, self._means)
        if is_mean and loop.time() == self._mean_ended_s:
            return
        took_s = self.mean_s if is_mean else self.change_s
        self.busy_s += took_s
        await asyncio.sleep(took_s)
        self._mean_ended_s = loop.time() if is_mean else None
