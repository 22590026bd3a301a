"""Work off the event loop, through a function that a simulation can replace."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Protocol, TypeVar

from skerry.under_way import UnderWay

T = TypeVar("T")


class RunInThread(Protocol):
    """Runs a function elsewhere; awaiting the result gives what it returned, or raises what it raised."""

    def __call__(self, function: Callable[[], T], /) -> Awaitable[T]:
        """Start it."""


def in_executor(executor: Executor, under_way: UnderWay | None = None, what: str = "") -> RunInThread:
    """Return the real one; what it runs is noted in `under_way`, if there is one, as `what`."""

    def run(function: Callable[[], T], /) -> Awaitable[T]:
        noted = function if under_way is None else under_way.noting(what, function)
        return asyncio.get_running_loop().run_in_executor(executor, noted)

    return run
