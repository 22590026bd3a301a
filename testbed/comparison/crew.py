"""The workers of a comparison: as many processes as cores, each with one run at a time, until every run is done."""

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from msgspec.structs import replace

from testbed.comparison import store
from testbed.comparison.plan import Plan, RunKey
from testbed.comparison.run_spec import Place, Progress, RunResult
from testbed.comparison.worker import Done, Failed, Order, Running, Word
from testbed.processes.process import describe, die_with_parent

COMMAND = (sys.executable, "-m", "testbed.comparison.worker")
# A run is one thread, and the same in every process.
ENVIRONMENT = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
MEMORY = Path("/dev/shm")  # noqa: S108 - for the disks of machines that last as long as a run
LINE_BYTES_MAX = 1 << 22
STOP_S = 5.0  # that a worker has to end when it is asked to
LOG_TAIL_LINES = 15


@dataclass(frozen=True)
class Job:
    """A run under way."""

    since_s: float  # on the monotonic clock
    progress: Progress | None  # None: nothing was heard yet


@dataclass
class State:
    """How far a comparison is. The crew writes it; whoever shows it reads."""

    plan: Plan
    results: dict[RunKey, RunResult]
    failures: dict[RunKey, Failed] = field(default_factory=dict)
    running: dict[RunKey, Job] = field(default_factory=dict)

    @property
    def failed(self) -> frozenset[RunKey]:
        """The runs that came to no result."""
        return frozenset(self.failures)

    def next(self) -> RunKey | None:
        """Return the next run to begin, None where there is none by now."""
        known = {*self.results, *self.failures, *self.running}
        return next((key for key in self.plan.due(self.results, self.failed) if key not in known), None)


class Crew:
    """Workers that carry out what a plan needs and is not in `state` yet."""

    def __init__(
        self,
        state: State,
        folder: Path,
        *,
        versions: Mapping[str, str],
        places: Mapping[str, Place],
        command: Sequence[str] = COMMAND,
        show: Callable[[State], None] = lambda _: None,
    ) -> None:
        """`places` says for each bundle of the comparison where its runs find their files; `show` gets every change."""
        self._state = state
        self._folder = folder
        self._versions = versions
        self._places = places
        self._command = command
        self._memory = MEMORY if MEMORY.is_dir() else None
        self._show = show
        self._changed = asyncio.Condition()

    async def run(self, jobs: int) -> None:
        """Return when everything is done or has failed; when cancelled, what is under way is given up."""
        with tempfile.TemporaryDirectory(prefix="skerry-", dir=self._memory, ignore_cleanup_errors=True) as scratch:
            async with asyncio.TaskGroup() as group:
                for number in range(jobs):
                    group.create_task(self._work(number, scratch))

    async def _work(self, number: int, scratch: str) -> None:
        worker = Worker(self._command, self._folder / "logs" / f"worker-{number + 1}.log")
        try:
            while (key := await self._next()) is not None:
                await self._carry_out(worker, key, scratch)
        finally:
            await worker.stop()

    async def _next(self) -> RunKey | None:
        """Wait until there is a run to begin; None: there will be none."""
        async with self._changed:
            while True:
                key = self._state.next()
                if key is not None:
                    self._state.running[key] = Job(time.monotonic(), None)
                    self._show(self._state)
                    return key
                if not self._state.running:
                    return None
                await self._changed.wait()  # what is under way may lead to more

    async def _carry_out(self, worker: "Worker", key: RunKey, scratch: str) -> None:
        state = self._state
        spec = state.plan.spec(key)
        wanted = store.fingerprint(spec, self._versions)
        path = store.path_of(self._folder, key)
        place = replace(self._places[spec.world.task.bundle], scratch=scratch)
        since_s = state.running[key].since_s

        def heard(progress: Progress) -> None:
            state.running[key] = Job(since_s, progress)
            self._show(state)

        end = await worker.carry_out(Order(spec=spec, place=place, fingerprint=wanted, path=str(path)), heard)
        async with self._changed:
            del state.running[key]
            result = store.read(path, wanted) if isinstance(end, Done) else None
            if result is not None:
                state.results[key] = result
            else:
                lost = Failed(reason=f"{path}: the result is not there, though it was written", traceback="")
                state.failures[key] = end if isinstance(end, Failed) else lost
            self._show(state)
            self._changed.notify_all()


class Worker:
    """One worker process, started when there is something to do, and again after it died."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._command = command
        self._log = log
        self._child: asyncio.subprocess.Process | None = None

    async def carry_out(self, order: Order, heard: Callable[[Progress], None]) -> Done | Failed:
        """Give the process an order and listen until it is carried out; a process that dies has failed at it."""
        child = await self._start()
        assert child.stdin is not None
        assert child.stdout is not None
        with contextlib.suppress(ConnectionError):  # it died: seen below
            child.stdin.write(msgspec.json.encode(order) + b"\n")
            await child.stdin.drain()
        while line := await child.stdout.readline():
            word: Running | Done | Failed = msgspec.json.decode(line, type=Word)
            if not isinstance(word, Running):
                return word
            heard(word.progress)
        status = await child.wait()
        self._child = None
        return Failed(reason=f"its worker ended with {describe(status)}", traceback=self._log_tail())

    async def stop(self) -> None:
        """End the process, in the midst of a run if there is one."""
        if self._child is None:
            return
        child, self._child = self._child, None
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await child.wait()
        except TimeoutError:
            child.kill()
            await child.wait()

    async def _start(self) -> asyncio.subprocess.Process:
        if self._child is None:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("ab") as log:
                self._child = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=log,
                    env={**os.environ, **ENVIRONMENT},
                    limit=LINE_BYTES_MAX,
                    preexec_fn=die_with_parent,
                )
        return self._child

    def _log_tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])
