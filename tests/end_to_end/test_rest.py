"""A device whose board gets hot, as processes of their own: coordinator, a busy device, and the hot one."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from coordinator.config import CoordinatorConfig, Listen
from coordinator.history import read_history
from edge_agent import status
from edge_agent.config import AgentConfig, Data, Limits
from skerry import toml_file
from skerry.policy import Policy
from skerry.recipe import Recipe
from testbed.processes import toml_text

RECIPE = """
[local_steps]
rule = "cycle"
cycle_min_s = 0.1
"""
SERVICE = """
import sys
from {package}.cli import main
sys.argv = ["skerry", "run", "--config", {config!r}]
main()
"""
AGENT_ON_A_BOARD_OF_FILES = """
import asyncio, signal
from pathlib import Path
from edge_agent import config, service
from edge_agent.board import Board
from skerry import logging_setup

async def run():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await service.run(config.load(Path({config!r})), stop, board=Board(Path({root!r})))

logging_setup.configure(False)
asyncio.run(run())
"""
PATIENCE_S = 60.0


@asynccontextmanager
async def process(code: str, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run Python code for the length of a `with`; at its end it must stop in good order."""
    with log.open("wb") as errors:
        started = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stderr=errors, env=os.environ | {"ORT_DISABLE_TELEMETRY": "1"}
        )
    try:
        yield started
        started.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(started.wait(), 20) == 0, f"see {log}"
    finally:
        if started.returncode is None:
            started.kill()
            await started.wait()


def agent_config(folder: Path, name: str, url: str, policy: Policy) -> Path:
    config = AgentConfig(
        device=name,
        coordinators=(url,),
        data=Data("builtin:activity?part=0&parts=6"),
        state_dir=folder / name,
        insecure=True,
        limits=Limits(status_s=0.2, telemetry_s=0.3),
        policy=policy,
    )
    path = folder / f"{name}.toml"
    path.write_text(toml_text.render(config))
    return path


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what real processes will do."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - they are watched from outside
            await asyncio.sleep(0.05)


@pytest.mark.end_to_end
async def test_a_hot_device_rests_stays_connected_and_comes_back_by_itself(tmp_path: Path) -> None:
    zone = tmp_path / "root/sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("cpu-thermal\n")
    (zone / "temp").write_text("45000\n")
    state = tmp_path / "coordinator"
    settings = CoordinatorConfig(
        name="c-1",
        region="r",
        bundle="builtin:activity",
        recipe=toml_file.parse(RECIPE, Recipe, "recipe"),
        state_dir=state,
        insecure=True,
        listen=Listen(host="127.0.0.1", port=0),
    )
    (tmp_path / "coordinator.toml").write_text(toml_text.render(settings))

    def updates(device: str) -> list[int]:
        return [row.sequence for row in read_history(state).updates if row.device == device]

    def seen() -> status.Status:
        found = status.read(tmp_path / "hot")
        assert found is not None
        return found

    coordinator = SERVICE.format(package="coordinator", config=str(tmp_path / "coordinator.toml"))
    async with process(coordinator, tmp_path / "coordinator.log"):
        await until((state / "port").exists)
        await until(lambda: (state / "port").read_text().strip() != "")
        url = f"http://127.0.0.1:{(state / 'port').read_text().strip()}"
        hot = agent_config(tmp_path, "hot", url, Policy(sample_s=0.2, dwell_s=0.5))
        busy = agent_config(tmp_path, "busy", url, Policy(enabled=False))
        agent = AGENT_ON_A_BOARD_OF_FILES.format(config=str(hot), root=str(tmp_path / "root"))
        async with (
            process(agent, tmp_path / "hot.log"),
            process(SERVICE.format(package="edge_agent", config=str(busy)), tmp_path / "busy.log"),
        ):
            await until(lambda: len(updates("hot")) >= 3 and len(updates("busy")) >= 3)
            (zone / "temp").write_text("91500\n")
            await until(lambda: seen().pace == "pause" and seen().paused_s > 0.5 and seen().outbox_updates == 0)
            resting, sent, others = seen(), len(updates("hot")), len(updates("busy"))
            assert resting.reasons == ("temperature 91.5 C, pauses at 85.0 C",)
            await until(lambda: len(updates("busy")) >= others + 5)
            await until(lambda: seen().paused_s > resting.paused_s + 1.0)
            assert len(updates("hot")) == sent == seen().cycles  # nothing was learned in vain, nothing since
            held = resting.base
            assert held is not None
            await until(lambda: (base := seen().base) is not None and base.number > held.number)
            assert seen().connected
            told = read_history(state).telemetry["hot"]
            assert (told.pace, told.reasons) == ("pause", resting.reasons)
            (zone / "temp").write_text("60000\n")
            await until(lambda: len(updates("hot")) >= sent + 3)
            assert seen().paused_s > 1.0
    assert updates("hot") == list(range(1, len(updates("hot")) + 1))
    log = (tmp_path / "hot.log").read_text()
    assert log.count("joined region") == 1
    assert [line.partition("pace: ")[2] for line in log.splitlines() if "pace: " in line] == [
        "pause (temperature 91.5 C, pauses at 85.0 C)",
        "train (nothing holds it back)",
    ]
