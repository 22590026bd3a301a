"""A whole run of real processes behind real relays, from the command line to its folder."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import msgspec
import psutil
import pytest

from testbed import run_record

WORLD = """
name = "small"
description = "one region, two devices"
recipe = "quick"
duration_s = 5
evaluate_every_s = 1.0
compute_share = 0.2

[central]
epochs = 1

[goals]
points_below_central_max = 90
updates_min = 2
idle_share_max = 0.9
steps_to_speed_error_max = 10.0
uplink_saving_min = {saving}
hold_s = 0.5

[[regions]]
name = "north"
coordinator = "north-1"

[[regions.devices]]
name = "quick-one"
profile = "jetson-orin-nano"

[[regions.devices]]
name = "slow-one"
profile = "raspberry-pi-4b"
"""

pytestmark = pytest.mark.end_to_end


async def start(folder: Path, saving: float, *options: str) -> asyncio.subprocess.Process:
    scenario = folder / "small.toml"
    scenario.write_text(WORLD.format(saving=saving))
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "testbed.cli", "run", str(scenario), "--out", str(folder / "out"), "--json", *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


def left_behind(folder: Path) -> list[str]:
    """Processes that were started for the run in `folder` and still live."""
    lines = (" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
    return [line for line in lines if str(folder) in line and "--config" in line]


async def test_a_run_that_reaches_its_goals_ends_early_with_exit_code_0(tmp_path: Path) -> None:
    lab = await start(tmp_path, 2.0, "--duration", "40", "--seed", "7")
    printed, progress = await lab.communicate()
    assert lab.returncode == 0, progress.decode()
    result = msgspec.json.decode(printed)
    assert (result["passed"], result["ended"]) == (True, "goals held")
    record = run_record.read(tmp_path / "out")
    assert record.passed
    assert record.seed == 7
    for device in record.devices:
        sequences = [update.sequence for update in device.updates]
        assert sequences == list(range(1, len(sequences) + 1))
    assert {"record.json", "summary.json", "report.html"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert left_behind(tmp_path) == []


async def test_a_goal_that_does_not_hold_is_named_and_the_exit_code_is_1(tmp_path: Path) -> None:
    lab = await start(tmp_path, 1e6)
    printed, progress = await lab.communicate()
    assert lab.returncode == 1
    failed = [one["goal"] for one in msgspec.json.decode(printed)["verdicts"] if not one["holds"]]
    assert failed == ["uplink_saving_min"]
    assert "FAILS uplink" in progress.decode()


async def test_ctrl_c_stops_everything_and_keeps_what_there_is(tmp_path: Path) -> None:
    lab = await start(tmp_path, 1e6, "--duration", "60")
    assert lab.stderr is not None
    async for line in lab.stderr:
        if b"training" in line:
            break
    lab.send_signal(signal.SIGINT)
    printed, _ = await lab.communicate()
    assert lab.returncode == 1
    assert msgspec.json.decode(printed)["ended"] == "interrupted"
    assert run_record.read(tmp_path / "out").ended == "interrupted"
    assert left_behind(tmp_path) == []


async def test_a_service_that_dies_ends_the_run_with_its_log(tmp_path: Path) -> None:
    lab = await start(tmp_path, 1e6, "--duration", "60")
    assert lab.stderr is not None
    async for line in lab.stderr:
        if b" 2 of 2 devices" in line:  # before that its log may be empty
            break
    agent = next(
        process for process in psutil.Process(lab.pid).children() if "slow-one.toml" in " ".join(process.cmdline())
    )
    os.kill(agent.pid, signal.SIGKILL)
    printed, progress = await lab.communicate()
    failure = msgspec.json.decode(printed)["failure"]
    assert lab.returncode == 1
    assert failure["process"] == "slow-one"
    assert "SIGKILL" in failure["reason"]
    assert failure["log_tail"]
    assert b"failed: slow-one" in progress
    assert left_behind(tmp_path) == []
