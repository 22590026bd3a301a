"""Supervised processes: watched, ended, killed, frozen and started again; none survives the lab."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.processes.process import Process, ProcessFailedError

PATIENT = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def python(code: str, folder: Path, **options: object) -> Process:
    return Process("small", (sys.executable, "-c", code), folder / "small.log", **options)  # type: ignore[arg-type]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that only the kernel knows."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0.01)


async def until_up(process: Process) -> None:
    await until(lambda: "up" in process.log_tail())


def state(pid: int) -> str:
    """The kernel's letter for it: T stopped, Z zombie, and so on; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


async def test_a_process_is_asked_to_end_and_ends(tmp_path: Path) -> None:
    failures: list[ProcessFailedError] = []
    process = python(PATIENT, tmp_path, failed=failures.append)
    await process.start()
    await until_up(process)
    assert await process.stop() == -signal.SIGTERM
    assert not process.running
    assert failures == []


async def test_a_process_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    process = python(STUBBORN, tmp_path)
    await process.start()
    await until_up(process)
    assert await process.stop(grace_s=0.1) == -signal.SIGKILL


async def test_an_end_that_nobody_asked_for_is_reported_with_its_log(tmp_path: Path) -> None:
    failures: list[ProcessFailedError] = []
    process = python("import sys; print('no disk'); sys.exit(3)", tmp_path, failed=failures.append)
    await process.start()
    assert await process.wait() == 3
    assert [str(error) for error in failures] == [
        f"small ended by itself with exit code 3; its log is {tmp_path / 'small.log'}"
    ]
    assert process.log_tail() == ("no disk",)


async def test_a_killed_process_starts_again_under_its_name_and_log(tmp_path: Path) -> None:
    failures: list[ProcessFailedError] = []
    process = python(PATIENT, tmp_path, failed=failures.append)
    await process.start()
    await until_up(process)
    first = process.pid
    await process.restart()
    assert process.pid != first
    assert process.starts == 2
    assert await process.kill() == -signal.SIGKILL
    assert failures == []
    assert process.log.exists()


async def test_a_failure_after_a_restart_is_still_reported(tmp_path: Path) -> None:
    failures: list[ProcessFailedError] = []
    process = python(PATIENT, tmp_path, failed=failures.append)
    await process.start()
    await process.restart()
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    assert len(failures) == 1
    assert "SIGKILL" in str(failures[0])


async def test_a_frozen_process_stands_still_and_can_still_be_ended(tmp_path: Path) -> None:
    process = python(PATIENT, tmp_path)
    await process.start()
    await until_up(process)
    process.freeze()
    await until(lambda: state(process.pid) == "T")
    assert await process.stop() == -signal.SIGTERM


async def test_what_was_never_started_stops_at_once(tmp_path: Path) -> None:
    process = python(PATIENT, tmp_path)
    assert await process.stop() is None
    assert process.log_tail() == ()


@pytest.mark.end_to_end
async def test_processes_die_with_a_lab_that_was_killed(tmp_path: Path) -> None:
    lab = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from testbed.processes.process import Process\n"
        "async def main():\n"
        f"    p = Process('small', (sys.executable, '-c', {PATIENT!r}), Path({str(tmp_path / 'small.log')!r}))\n"
        "    await p.start()\n"
        "    print(p.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", lab, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    small = int(await child.stdout.readline())
    assert state(small) not in {"", "Z"}
    child.kill()
    await child.wait()
    await until(lambda: state(small) in {"", "Z"})


async def test_a_process_gets_no_more_memory_than_its_device_has(tmp_path: Path) -> None:
    greedy = "import time; time.sleep(0.3); bytearray(300 << 20)"  # the limit is set right after the start
    process = python(greedy, tmp_path, data_bytes_max=200 << 20)
    await process.start()
    assert await process.wait() == 1
    assert "MemoryError" in process.log_tail()
    roomy = python(greedy, tmp_path, data_bytes_max=600 << 20)
    await roomy.start()
    assert await roomy.wait() == 0
