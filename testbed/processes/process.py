"""One supervised process: started with its output in a log file, watched, stopped, killed, frozen, started again.

A process never outlives the lab: the kernel kills it when the lab's main thread ends, however that comes about.
"""

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from skerry.errors import SkerryError

PR_SET_PDEATHSIG = 1
LOG_TAIL_BYTES = 64 << 10
_libc = ctypes.CDLL(None, use_errno=True)


class ProcessFailedError(SkerryError):
    """A process ended though nobody had asked it to, or not in good order when it was."""

    def __init__(self, process: "Process", status: int) -> None:
        self.process = process
        by_itself = "" if process.end_expected else " by itself"
        super().__init__(f"{process.name} ended{by_itself} with {describe(status)}; its log is {process.log}")


def describe(status: int) -> str:
    """Return an exit status in words, as asyncio gives it: negative for a signal."""
    return f"exit code {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"


def die_with_parent() -> None:
    """Run in the child before the program: ask for SIGKILL when the parent's thread ends."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A program that may be started and ended many times under one name and one log.

    `failed` is called with a ProcessFailedError when it ends unasked. With `data_bytes_max` the kernel refuses it more
    memory of its own than that, as a device does that has no more.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        data_bytes_max: int | None = None,
        failed: Callable[[ProcessFailedError], None] = lambda error: None,
    ) -> None:
        self.name = name
        self.command = tuple(command)
        self.log = log
        self.starts = 0
        self._environment = {**os.environ, **(environment or {})}
        self._data_bytes_max = data_bytes_max
        self._failed = failed
        self._child: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[int] | None = None
        self.end_expected = False  # it was asked to end

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._watch is not None and not self._watch.done()

    @property
    def pid(self) -> int:
        """Its process id; only while it runs."""
        assert self._child is not None
        return self._child.pid

    async def start(self) -> None:
        """Start it; its standard output and error are appended to the log."""
        assert not self.running, f"{self.name} runs already"
        self.end_expected = False
        self.starts += 1
        with self.log.open("ab") as log:
            self._child = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,  # a Ctrl-C in the terminal is the lab's to handle
                preexec_fn=die_with_parent,
            )
        if self._data_bytes_max is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended already: `failed` is told below
                resource.prlimit(self._child.pid, resource.RLIMIT_DATA, (self._data_bytes_max, self._data_bytes_max))
        self._watch = asyncio.get_running_loop().create_task(self._watched(self._child))

    async def wait(self) -> int:
        """Wait for its end and return its exit status, negative for a signal."""
        assert self._watch is not None, f"{self.name} was never started"
        return await asyncio.shield(self._watch)

    async def stop(self, grace_s: float = 10.0) -> int | None:
        """Ask it to end, and kill it after `grace_s`; return its exit status, None if it did not run."""
        if not self.running:
            return None
        self._send(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                return await self.wait()
        except TimeoutError:
            return await self.kill()

    async def kill(self) -> int:
        """End it at once, as a power cut would."""
        self._send(signal.SIGKILL)
        return await self.wait()

    async def restart(self) -> None:
        """Kill it if it runs, and start it again."""
        if self.running:
            await self.kill()
        await self.start()

    def freeze(self) -> None:
        """Stop it from running, without ending it: what others see of a hung machine."""
        assert self.running
        os.killpg(self.pid, signal.SIGSTOP)

    def log_tail(self, lines: int = 20) -> tuple[str, ...]:
        """Return the last lines of its log; empty if it has none yet."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - LOG_TAIL_BYTES))
                return tuple(log.read().decode(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ()

    def _send(self, number: signal.Signals) -> None:
        self.end_expected = True
        if self.running:
            with contextlib.suppress(ProcessLookupError):  # it has ended this moment; its exit status says how
                os.killpg(self.pid, signal.SIGCONT)  # frozen, it would never see a SIGTERM
                os.killpg(self.pid, number)

    async def _watched(self, child: asyncio.subprocess.Process) -> int:
        status = await child.wait()
        if not self.end_expected:
            self._failed(ProcessFailedError(self, status))
        return status
