"""The order of writes: one at a time, in the order in which they were asked for; training does not wait for them."""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

from edge_agent.threads import RunInThread

Done = Callable[[], None]

BURST_BYTES = 256 << 20  # what a card shrugs off
SPARING_TIMES = 10  # what can wait is written so much less often where the hour's bytes run out: see flash.py


class DiskQueue:
    """Performs writes in order. A write that fails ends `run` with its error, and with it the agent."""

    def __init__(self, run_in_thread: RunInThread) -> None:
        self._run_in_thread = run_in_thread
        self._waiting: deque[tuple[Callable[[], None], Done | None]] = deque()
        self._busy = False
        self._over: asyncio.Future[None] | None = None  # None: `run` has not begun

    def submit(self, write: Callable[[], None], done: Done | None = None) -> None:
        """Ask for `write`; `done` is called on the loop once it is on disk."""
        self._waiting.append((write, done))
        self._go_on()

    async def run(self) -> None:
        """Perform writes until cancelled. One that a thread was asked for happens all the same: `finish` builds on it.

        Raises:
            StorageError: the disk refused one.
        """
        self._over = asyncio.get_running_loop().create_future()
        self._go_on()
        await self._over

    def finish(self) -> None:
        """Perform what was asked for and has not begun, in order; behind `run` and its thread, at a stop in good order.

        Raises:
            StorageError: the disk refused one.
        """
        while self._waiting:
            write, _ = self._waiting.popleft()
            write()

    def _go_on(self) -> None:
        """Begin the next write, if it is its turn."""
        if self._busy or not self._waiting or self._over is None or self._over.done():
            return
        self._busy = True
        write, done = self._waiting.popleft()
        asyncio.ensure_future(self._run_in_thread(write)).add_done_callback(partial(self._written, done))

    def _written(self, done: Done | None, write: asyncio.Future[None]) -> None:
        self._busy = False
        assert self._over is not None
        if write.cancelled() or self._over.done():
            return  # at an end
        try:
            write.result()
            if done is not None:
                done()
        except Exception as error:  # a defect ends the agent, too
            self._over.set_exception(error)
        self._go_on()


class ResidualWear:
    """Decides when the residual is written along with an update, so that flash memory lasts.

    The residual is as large as the model. Written with every update it is exact after a crash, too; where that would
    exceed `bytes_per_s` for long, it is written so much less often, and a crash may lose what was not sent since. A
    token bucket: BURST_BYTES may be written before the rate counts.
    """

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._budget_bytes = float(BURST_BYTES)
        self._counted_to_s: float | None = None
        self._first = True
        self._payload_bytes = 0  # of the updates since it was written last

    def due(self, residual_bytes: int, payload_bytes: int, now_s: float, *, sparing: bool = False) -> bool:
        """Return whether to write it with this update of `payload_bytes`; then it counts as written.

        Always due with a task's first update, and when the updates that are kept in its stead have become as large as
        itself. `sparing`: the rate is a tenth, and nothing may be written before it counts.
        """
        elapsed_s = 0.0 if self._counted_to_s is None else now_s - self._counted_to_s
        self._counted_to_s = now_s
        rate = self._bytes_per_s / SPARING_TIMES if sparing else self._bytes_per_s
        most = float(residual_bytes if sparing else BURST_BYTES)
        self._budget_bytes = min(self._budget_bytes + elapsed_s * rate, most)
        self._payload_bytes += payload_bytes
        due = self._first or self._payload_bytes >= residual_bytes or self._budget_bytes >= residual_bytes
        if due:
            self._budget_bytes -= residual_bytes
            self._first, self._payload_bytes = False, 0
        return due

    def forget(self) -> None:
        """Another task: its first update writes the residual."""
        self._first = True


class ModelWear:
    """Decides whether the model is written when its time has come: always, or every tenth time while sparing."""

    def __init__(self) -> None:
        self._passed_over = 0

    def due(self, *, sparing: bool) -> bool:
        """Return whether to write it now."""
        self._passed_over += 1
        due = not sparing or self._passed_over >= SPARING_TIMES
        if due:
            self._passed_over = 0
        return due
