"""What a running agent takes of a configuration that is read again, and what a service manager hears of it."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from edge_agent import service
from edge_agent.config import AgentConfig, Data, Limits, Training
from edge_agent.reload import taken
from skerry.policy import Policy
from tests.edge_agent.test_agent_process import agent, write_config

RUNNING = AgentConfig(
    device="pi-1",
    coordinators=("https://a.example:8470",),
    data=Data("builtin:activity"),
    training=Training(seed=123),
)


def test_the_policy_the_duty_cycle_and_the_log_are_taken() -> None:
    wanted = replace(
        RUNNING,
        log_json=True,
        training=Training(duty_cycle=0.5),
        policy=Policy(temperature_slow_c=60.0, quiet_hours=("22:00-06:00",)),
    )
    in_force, differences = taken(RUNNING, wanted)
    assert differences.waiting == ()
    assert set(differences.taken) == {
        "log_json",
        "training.duty_cycle",
        "policy.temperature_slow_c",
        "policy.quiet_hours",
    }
    assert in_force == replace(wanted, training=Training(seed=123, duty_cycle=0.5))


def test_all_else_stays_as_it_is_until_a_restart() -> None:
    wanted = replace(
        RUNNING,
        device="pi-2",
        training=Training(seed=7, threads=2),
        limits=Limits(status_s=1.0),
        policy=Policy(enabled=False),
    )
    in_force, differences = taken(RUNNING, wanted)
    assert in_force == RUNNING
    assert differences.taken == ()
    assert set(differences.waiting) == {
        "device",
        "training.seed",
        "training.threads",
        "limits.status_s",
        "policy.enabled",
    }


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.setblocking(False)
        yield receiver


async def heard(systemd: socket.socket, meant: Callable[[str], bool]) -> str:
    """Return the next message that is meant; others are passed over."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(30):
        while True:
            message = (await loop.sock_recv(systemd, 4096)).decode()
            if meant(message):
                return message


async def test_how_long_a_step_may_take_is_the_configurations_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(_: object, stuck_s: float) -> None:
        raise RuntimeError(f"work may take {stuck_s:g} s")

    monkeypatch.setattr("edge_agent.service.UnderWay", made)
    for config, told in ((RUNNING, "600"), (replace(RUNNING, limits=Limits(hang_s=1200.0)), "1200")):
        with pytest.raises(RuntimeError, match=f"work may take {told} s"):
            await service.run(config, asyncio.Event())


@pytest.mark.end_to_end
async def test_a_service_manager_hears_of_start_life_reload_and_end(systemd: socket.socket, tmp_path: Path) -> None:
    config = write_config(tmp_path, "http://127.0.0.1:9")
    environment = os.environ | {
        "ORT_DISABLE_TELEMETRY": "1",
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "WATCHDOG_USEC": "300000",
    }
    async with agent(config, environment=environment) as process:
        ready = await heard(systemd, lambda message: message.startswith("READY=1"))
        assert ready.endswith("STATUS=device pi-1")
        await heard(systemd, lambda message: message == "WATCHDOG=1")

        text = config.read_text()
        config.write_text(text.replace("calibration_steps = 5", "calibration_steps = 6\nduty_cycle = 0.5"))
        process.send_signal(signal.SIGHUP)
        await heard(systemd, lambda message: message.startswith("RELOADING=1\n"))
        ready = await heard(systemd, lambda message: message.startswith("READY=1"))
        assert "taken: training.duty_cycle; a restart is needed for: training.calibration_steps" in ready

        config.write_text("nonsense")
        process.send_signal(signal.SIGHUP)
        ready = await heard(systemd, lambda message: message.startswith("READY=1"))
        assert "the configuration stays as it was" in ready

        await heard(systemd, lambda message: message == "WATCHDOG=1")
        process.send_signal(signal.SIGTERM)
        await heard(systemd, lambda message: message.startswith("STOPPING=1"))
        assert await process.wait() == 0
