"""A process of the simulated world: the tasks of one service, which can be ended all at once."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any

from testbed.simulation.loop import VirtualLoop

_CURRENT: ContextVar["Process | None"] = ContextVar("process", default=None)


TASKS_MIN = 16  # before those that have ended are thrown out


class Process:
    """Knows every task that its first one has started, directly or not."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._tasks: dict[asyncio.Task[Any], None] = {}  # in the order in which they were started; some have ended
        self._sweep_at = TASKS_MIN
        self._trap: tuple[int, Callable[[], None]] | None = None  # after so many callbacks, this
        self._context = copy_context()
        self._context.run(_CURRENT.set, self)
        loop.task_made = _assign

    def start(self, main: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start its first task."""
        return self._context.run(self._loop.create_task, main)

    def kill(self) -> None:
        """Cancel every task, where it stands.

        What they do behind that, to clean up, must not reach anything: first take its network and its disk away.
        """
        for task in list(self._tasks):
            task.cancel()

    def after_callbacks(self, count: int, happens: Callable[[], None]) -> None:
        """Call `happens` behind the next `count` >= 1 callbacks of this process, instead of what was asked for before.

        A task runs one callback between two awaits, so that `kill` may come at any of them.
        """
        self._trap = count, happens
        self._loop.callback_run = _count

    def callback_run(self) -> None:
        """One more callback of this process has run."""
        if self._trap is not None:
            left, happens = self._trap[0] - 1, self._trap[1]
            self._trap = (left, happens) if left > 0 else None
            if left <= 0:
                happens()

    def add(self, task: asyncio.Task[Any]) -> None:
        """A task of this process was started."""
        if len(self._tasks) >= self._sweep_at:  # one by one, each would cost a callback
            self._tasks = {one: None for one in self._tasks if not one.done()}
            self._sweep_at = 2 * len(self._tasks) + TASKS_MIN
        self._tasks[task] = None


def _count(context: Context) -> None:
    process = context.get(_CURRENT)
    if process is not None:
        process.callback_run()


def _assign(task: asyncio.Task[Any]) -> None:
    process = _CURRENT.get()
    if process is not None:
        process.add(task)
