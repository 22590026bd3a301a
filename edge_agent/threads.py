"""Where work leaves the event loop: the only threads of the agent. A simulation replaces all of this file."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from skerry.under_way import UnderWay

T = TypeVar("T")

NICEST = 19  # the lowest priority there is


class RunInThread(Protocol):
    """Runs short blocking work, such as a disk write, without blocking the loop."""

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]:
        """Run `work` and return its result, or raise its error."""


class TrainingRunner(Protocol):
    """Runs a cycle's steps, see `LocalCycle.pauses`, one cycle at a time."""

    async def run(self, pauses: Iterator[float | None]) -> bool:
        """Exhaust `pauses`, resting as they say; return False if `stop` came in between."""

    def computed_s(self) -> float:
        """Return how long the calling thread, the one that runs `pauses`, has had the processor."""

    def stop(self) -> None:
        """End the present run at its next pause, also in the middle of a rest."""


class WorkThreads:
    """Threads for one kind of short work; for disk and arithmetic two: a slow write does not hold up a merge."""

    def __init__(
        self, count: int = 2, name: str = "skerry-work", nicer: int = 0, under_way: UnderWay | None = None
    ) -> None:
        """Make `count` of them, at a priority that is `nicer` levels below the process's."""
        self._executor = ThreadPoolExecutor(count, name, _be_nicer, (nicer,))
        self._name, self._under_way = name, under_way

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]:
        """Run `work` in one of them."""
        noted = work if self._under_way is None else self._under_way.noting(f"work of {self._name}", work)
        return asyncio.get_running_loop().run_in_executor(self._executor, noted)

    def close(self) -> None:
        """Wait for what is under way."""
        self._executor.shutdown()


class TrainingThread:
    """One thread that takes local steps; numpy and the engine let go of the interpreter while they compute."""

    def __init__(self, nicer: int = 0, under_way: UnderWay | None = None) -> None:
        """Train at a priority that is `nicer` levels below the process's; each step is noted in `under_way`."""
        self._executor = ThreadPoolExecutor(1, "skerry-training", _be_nicer, (nicer,))
        self._under_way = under_way or UnderWay(time.monotonic)
        self._stop = threading.Event()

    async def run(self, pauses: Iterator[float | None]) -> bool:
        """See TrainingRunner."""
        self._stop = stop = threading.Event()
        return await asyncio.get_running_loop().run_in_executor(self._executor, _exhaust, pauses, stop, self._under_way)

    def computed_s(self) -> float:
        """See TrainingRunner. What an engine computes in further threads is not seen."""
        return time.thread_time()

    def stop(self) -> None:
        """See TrainingRunner."""
        self._stop.set()

    def close(self) -> None:
        """Stop, and wait for the step under way."""
        self.stop()
        self._executor.shutdown()


def _exhaust(pauses: Iterator[float | None], stop: threading.Event, under_way: UnderWay) -> bool:
    while True:
        with under_way.doing("a local step"):
            try:
                rest_s = next(pauses)
            except StopIteration:
                return True
        if stop.wait(rest_s) if rest_s else stop.is_set():
            return False  # the generator is left where it stands


def in_nicer_thread(work: Callable[[], T], levels: int) -> T:
    """Return what `work` returns; the threads that it starts, as engines do, have the lower priority for good."""
    with ThreadPoolExecutor(1, "skerry-opening", _be_nicer, (levels,)) as executor:
        return executor.submit(work).result()


def _be_nicer(levels: int) -> None:
    """Lower the calling thread's priority, where the system gives each thread its own: Linux. It is never raised."""
    if levels > 0 and sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, min(os.getpriority(os.PRIO_PROCESS, thread) + levels, NICEST))
