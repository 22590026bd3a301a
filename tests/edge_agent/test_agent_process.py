"""The agent as a process of its own: signals, exit codes, a full disk, memory."""

import asyncio
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from edge_agent import status
from edge_agent.store import FILE_NAME

Serve = Callable[..., Awaitable[Any]]

COMMAND = [sys.executable, "-c", "from edge_agent.cli import main; main()"]
ENVIRONMENT = os.environ | {"ORT_DISABLE_TELEMETRY": "1"}
RESIDENT_BYTES_MAX = 91 * 10**6


def write_config(folder: Path, url: str, *, source: str = "builtin:activity?part=1&parts=6", more: str = "") -> Path:
    path = folder / "agent.toml"
    path.write_text(
        f"""
device = "pi-1"
coordinators = ["{url}"]
insecure = true
state_dir = "{folder / "state"}"
{more}
[data]
source = "{source}"
[training]
calibration_steps = 5
[limits]
reconnect_min_s = 0.02
reconnect_max_s = 0.2
status_s = 0.2
[policy]
enabled = false
"""
    )
    return path


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=60, env=ENVIRONMENT, check=False
    )


@asynccontextmanager
async def agent(
    config: Path, environment: dict[str, str] = ENVIRONMENT, **options: Any
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A running agent; killed at the end if it still lives."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "run", "--config", str(config), env=environment, stderr=asyncio.subprocess.PIPE, **options
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.end_to_end
async def test_an_agent_that_is_killed_goes_on_without_a_gap_or_a_repeat(serve: Serve, tmp_path: Path) -> None:
    coordinator = await serve(offer_every_updates=1)
    config = write_config(tmp_path, coordinator.url)
    for _ in range(3):
        async with agent(config) as process:
            seen = len(coordinator.journal)
            await coordinator.until(lambda seen=seen: len(coordinator.journal) >= seen + 5, timeout_s=30)
            process.kill()
            await process.wait()
    assert sorted(coordinator.journal) == list(range(1, len(coordinator.journal) + 1))
    payloads: dict[int, set[int]] = {}
    for offered in coordinator.offered:
        payloads.setdefault(offered.sequence, set()).add(offered.part.crc32)
    assert all(len(different) == 1 for different in payloads.values())


@pytest.mark.end_to_end
async def test_a_terminated_agent_exits_in_good_order_and_stays_small(serve: Serve, tmp_path: Path) -> None:
    coordinator = await serve()
    config = write_config(tmp_path, coordinator.url)
    async with agent(config) as process:
        await coordinator.until(lambda: len(coordinator.journal) >= 30 and bool(coordinator.telemetry), timeout_s=30)
        resident_bytes = psutil.Process(process.pid).memory_info().rss
        shown = command("status", "--config", config)
        assert shown.returncode == 0
        assert "running" in shown.stdout
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0
    assert resident_bytes < RESIDENT_BYTES_MAX
    found = status.read(tmp_path / "state")
    assert found is not None
    assert not found.running
    gone = command("status", "--json", "--config", config)
    assert gone.returncode == 1
    assert json.loads(gone.stdout)["device"] == "pi-1"


@pytest.mark.end_to_end
async def test_a_killed_agent_is_reported_as_not_running(serve: Serve, tmp_path: Path) -> None:
    coordinator = await serve()
    config = write_config(tmp_path, coordinator.url)
    async with agent(config) as process:
        await coordinator.until((tmp_path / "state" / status.FILE_NAME).exists)
        process.kill()
        await process.wait()
    shown = command("status", "--config", config)
    assert shown.returncode == 1
    assert "NOT RUNNING" in shown.stdout


@pytest.mark.end_to_end
async def test_a_full_disk_stops_the_agent_with_the_reason(serve: Serve, tmp_path: Path) -> None:
    """No file may grow beyond a limit that the bundle fits into and the database soon reaches."""
    coordinator = await serve()
    config = write_config(tmp_path, coordinator.url)
    limit = 180_000
    assert coordinator.bundle.file_bytes < limit
    async with agent(
        config,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    ) as process:
        _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 3
    last = errors.decode().splitlines()[-1]
    assert last.startswith("skerry-agent: ")
    assert "state.db" in last
    with sqlite3.connect(tmp_path / "state" / "state.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (last_sequence,) = db.execute("SELECT last_sequence FROM agent").fetchone()
    db.close()
    assert last_sequence >= max(coordinator.journal, default=0)  # nothing was sent that is not on disk
    async with agent(config):  # with room again, it goes on
        before = len(coordinator.journal)
        await coordinator.until(lambda: len(coordinator.journal) >= before + 3, timeout_s=30)
    assert sorted(coordinator.journal) == list(range(1, len(coordinator.journal) + 1))


@pytest.mark.end_to_end
async def test_a_missing_data_file_is_named(serve: Serve, tmp_path: Path) -> None:
    coordinator = await serve()
    config = write_config(tmp_path, coordinator.url, source=f"npz:{tmp_path}/nowhere.npz")
    async with agent(config) as process:
        _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 5
    assert "nowhere.npz" in errors.decode().splitlines()[-1]


@pytest.mark.end_to_end
async def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    config = write_config(tmp_path, "http://127.0.0.1:9")
    (tmp_path / "state").mkdir()
    with sqlite3.connect(tmp_path / "state" / "state.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    refused = command("run", "--config", config)
    assert refused.returncode == 4
    assert "newer" in refused.stderr


@pytest.mark.end_to_end
async def test_an_own_head_survives_a_kill(serve: Serve, tmp_path: Path) -> None:
    coordinator = await serve()
    more = '[personal]\nlayers = ["4.*"]\nsave_s = 0.0\nshare = 1.0\n'
    config = write_config(tmp_path, coordinator.url, more=more)
    async with agent(config) as process:
        await coordinator.until(lambda: _head(tmp_path) is not None, timeout_s=30)
        process.kill()
        await process.wait()
    tensors, data = _head(tmp_path)
    assert tensors == "4.weight\n4.bias"
    values = np.frombuffer(data, "<f4")
    assert values.shape == (6 * 64 + 6,)
    seen = len(coordinator.journal)
    async with agent(config):
        await coordinator.until(lambda: len(coordinator.journal) >= seen + 5, timeout_s=30)
        await coordinator.until(lambda: _head(tmp_path)[1] != data, timeout_s=30)
        tuned = np.frombuffer(_head(tmp_path)[1], "<f4")
    initial = coordinator.bundle.initial_parameters()[-len(values) :]
    assert np.linalg.norm(tuned - values) < np.linalg.norm(tuned - initial)  # it went on from there


def _head(folder: Path) -> Any:
    path = folder / "state" / FILE_NAME
    if not path.exists():
        return None
    with closing(sqlite3.connect(path)) as db:
        if db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'head'").fetchone() == (0,):
            return None
        return db.execute("SELECT tensors, data FROM head").fetchone()
