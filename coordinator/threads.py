"""Work off the event loop, through a function that a simulation can replace."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Protocol, TypeVar

T = TypeVar("T")


class RunInThread(Protocol):
    """Runs a function elsewhere; awaiting the result gives what it returned, or raises what it raised."""

    def __call__(self, function: Callable[[], T], /) -> Awaitable[T]:
        """Start it."""


def in_executor(executor: Executor) -> RunInThread:
    """Return the real one."""

    def run(function: Callable[[], T], /) -> Awaitable[T]:
        return asyncio.get_running_loop().run_in_executor(executor, function)

    return run
