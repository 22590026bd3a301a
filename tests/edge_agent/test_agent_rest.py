"""An agent that rests when its board asks for it: in this process, against a real server, on a board of files."""

import asyncio
import re
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edge_agent import status
from edge_agent.board import Board
from edge_agent.board_watch import BoardWatch
from edge_agent.cli import cli
from edge_agent.config import AgentConfig
from edge_agent.events import BundleOpened, Event, PaceDecided
from edge_agent.flash import FlashBudget
from edge_agent.performer import Performer
from edge_agent.stream import UPLOAD_RATE_S, Traffic
from edge_agent.threads import WorkThreads
from skerry.agent_stages import AgentStages
from skerry.algorithms.local_steps import Fixed
from skerry.policy import Decider, Decision, Policy, Reading
from testbed.processes import toml_text

Serve = Callable[..., Awaitable[Any]]
MakeConfig = Callable[..., AgentConfig]
QUICK = Policy(sample_s=0.1, dwell_s=0.2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A board with one sensor and a count of what was written."""
    for path, content in {
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
        "sys/class/thermal/thermal_zone0/temp": "50000",
        "proc/self/io": "write_bytes: 1000000",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    return tmp_path


def heat(root: Path, celsius: float) -> None:
    (root / "sys/class/thermal/thermal_zone0/temp").write_text(f"{celsius * 1000:.0f}")


def seen(config: AgentConfig) -> status.Status:
    found = status.read(config.state_dir)
    assert found is not None
    return found


async def test_a_hot_board_rests_between_two_steps_and_what_it_learned_arrives(
    serve: Serve, agent_config: MakeConfig, running: Any, root: Path
) -> None:
    """A cycle of many minutes: only a pause within it lets anything arrive."""
    coordinator = await serve(stages=AgentStages(local_steps=Fixed(1_000_000)))
    config = agent_config(coordinator.url, policy=QUICK)
    async with running(config, Board(root)):
        await coordinator.until(lambda: (config.state_dir / "status.json").exists() and seen(config).training_s > 0.5)
        assert coordinator.offered == []
        heat(root, 90.0)
        await coordinator.until(lambda: 1 in coordinator.journal)
        assert 1 <= coordinator.offered[0].steps < 1_000_000
        await coordinator.until(lambda: coordinator.telemetry[-1].pace == "pause")
        assert coordinator.telemetry[-1].reasons == ("temperature 90.0 C, pauses at 85.0 C",)
        assert coordinator.telemetry[-1].written_bytes == 1_000_000
        beats = coordinator.heartbeats
        await coordinator.offer(whole=False)  # the model that its own update made
        await coordinator.until(lambda: coordinator.heartbeats >= beats + 5)
        await coordinator.until(lambda: seen(config).paused_s > 0.3)
        resting = seen(config)
        assert (resting.pace, resting.connected, resting.outbox_updates) == ("pause", True, 0)
        assert resting.base == coordinator.at(1)
        assert (resting.cycles, len(coordinator.hellos), len(coordinator.journal)) == (1, 1, 1)
        assert coordinator.telemetry[-1].held_out_examples == 0  # nor does it evaluate
        await coordinator.until(lambda: seen(config).paused_s > resting.paused_s + 0.3)
        assert seen(config).idle_s == resting.idle_s  # it lacks nothing
        heat(root, 60.0)
        await coordinator.until(lambda: seen(config).pace == "train" and seen(config).training_s > resting.training_s)
    file = root / "agent.toml"
    file.write_text(toml_text.render(config))
    shown = CliRunner().invoke(cli, ["status", "--config", str(file)]).output
    assert re.search(r"^ +pace +train$", shown, re.MULTILINE)
    assert "1.0 MB to disk, 1.0 MB in the last hour" in shown


async def test_a_warm_board_trains_more_slowly_and_sends_all_the_same(
    serve: Serve, agent_config: MakeConfig, running: Any, root: Path
) -> None:
    coordinator = await serve()
    heat(root, 80.0)
    config = agent_config(coordinator.url, policy=Policy(sample_s=0.1, slow_duty_cycle=0.01))
    async with running(config, Board(root)):
        await coordinator.until(lambda: len(coordinator.journal) >= 3 and coordinator.telemetry[-1].pace == "slow")
        slow_s = coordinator.telemetry[-1].seconds_per_step
    heat(root, 40.0)
    async with running(config, Board(root)):
        known = len(coordinator.telemetry)
        await coordinator.until(lambda: len(coordinator.telemetry) > known + 2)
    assert coordinator.telemetry[-1].pace == "train"
    assert slow_s > 3.0 * coordinator.telemetry[-1].seconds_per_step  # a hundred times on a quiet machine


async def test_the_hours_bytes_are_used_up_and_come_back(
    serve: Serve, agent_config: MakeConfig, running: Any, root: Path
) -> None:
    coordinator = await serve()
    config = agent_config(coordinator.url, policy=QUICK, limits={"flash_bytes_per_hour": 3.6e9})
    async with running(config, Board(root)):
        await coordinator.until(lambda: len(coordinator.journal) >= 2)
        (root / "proc/self/io").write_text("write_bytes: 3700000000")
        await coordinator.until(lambda: coordinator.telemetry[-1].pace == "pause")
        (reason,) = coordinator.telemetry[-1].reasons
        assert reason == "flash-budget used up, pauses until 10% is back"
        await coordinator.until(lambda: seen(config).outbox_updates == 0)  # what was learned is acknowledged
        assert sorted(coordinator.journal) == list(range(1, len(coordinator.journal) + 1))


async def test_a_board_that_is_hot_from_the_start_waits_with_its_calibration(
    serve: Serve, agent_config: MakeConfig, running: Any, root: Path
) -> None:
    coordinator = await serve()
    heat(root, 90.0)
    config = agent_config(coordinator.url, policy=QUICK)
    async with running(config, Board(root)):
        await coordinator.until(lambda: len(coordinator.telemetry) >= 2)
        assert {told.pace for told in coordinator.telemetry} == {"pause"}
        assert coordinator.journal == {}
        heat(root, 40.0)
        await coordinator.until(lambda: len(coordinator.journal) >= 3)


async def test_a_pause_decided_right_behind_a_calibration_ends_it(
    serve: Serve, agent_config: MakeConfig, running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also before its thread has begun: twenty thousand steps would keep the board hot for long."""
    report = Performer.report

    def and_pause(performer: Performer, event: Event) -> None:
        report(performer, event)
        if isinstance(event, BundleOpened):
            report(performer, PaceDecided(Decision("pause", ("temperature",))))

    monkeypatch.setattr(Performer, "report", and_pause)
    coordinator = await serve()
    config = agent_config(coordinator.url, calibration_steps=10_000)
    async with running(config):
        await coordinator.until(lambda: bool(coordinator.telemetry) and coordinator.telemetry[-1].seconds_per_step > 0)
        assert coordinator.telemetry[-1].training_s < 1.0


async def test_with_few_bytes_left_the_residual_is_written_now_and_then(
    serve: Serve, agent_config: MakeConfig, running: Any, root: Path
) -> None:
    coordinator = await serve()
    (root / "proc/self/io").write_text("write_bytes: 2000000000")
    limits = {"flash_bytes_per_hour": 3.6e9, "residual_bytes_per_s": 1e3}
    config = agent_config(coordinator.url, policy=QUICK, limits=limits)
    written: set[tuple[int]] = set()

    def enough() -> bool:
        """Whether 40 updates have come; looks at what the database holds meanwhile."""
        if coordinator.journal:
            with closing(sqlite3.connect(config.state_dir / "state.db")) as database:
                written.update(database.execute("SELECT event FROM residual"))
        return len(coordinator.journal) >= 40

    async with running(config, Board(root)):
        await coordinator.until(enough)
    assert 1 <= len(written) <= 10  # else one for each update
    async with running(config, Board(root)):
        await coordinator.until(lambda: len(coordinator.journal) >= 45)
    assert sorted(coordinator.journal) == list(range(1, len(coordinator.journal) + 1))


@pytest.mark.parametrize(
    ("policy", "measured", "causes"),
    [
        (Policy(), None, ()),
        (Policy(), 5e3, ("link",)),
        (Policy(quiet_hours=("11:00-13:00",)), None, ("quiet-hours",)),
        (Policy(quiet_hours=("13:00-11:00",)), None, ()),
    ],
)
async def test_a_look_takes_in_the_streams_own_rate_and_the_local_time(
    policy: Policy, measured: float | None, causes: tuple[str, ...], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC-2")  # POSIX for two hours east
    time.tzset()
    noon = 1_700_000_000 - 1_700_000_000 % 86_400 + 10 * 3600  # 12:00 there
    watch = BoardWatch(policy, Board(root), FlashBudget(1e9), root, lambda: float(noon))
    told: asyncio.Queue[Event] = asyncio.Queue()
    looking = asyncio.create_task(watch.run(told.put_nowait, WorkThreads(), lambda _: measured))
    decided = await told.get()
    looking.cancel()
    assert isinstance(decided, PaceDecided)
    assert decided.decision.causes == causes
    assert watch.temperature_c == 50.0
    monkeypatch.undo()
    time.tzset()


async def test_quiet_hours_are_those_of_the_time_zone_that_was_handed_in(root: Path) -> None:
    policy, noon = Policy(quiet_hours=("11:00-13:00",)), 1_700_000_000 - 1_700_000_000 % 86_400 + 12 * 3600
    for hours_east, causes in ((0, ("quiet-hours",)), (2, ())):
        zone = timezone(timedelta(hours=hours_east))
        watch = BoardWatch(policy, Board(root), FlashBudget(1e9), root, lambda: float(noon), zone)
        told: asyncio.Queue[Event] = asyncio.Queue()
        looking = asyncio.create_task(watch.run(told.put_nowait, WorkThreads(), lambda _: None))
        decided = await told.get()
        looking.cancel()
        assert isinstance(decided, PaceDecided)
        assert decided.decision.causes == causes


@pytest.mark.parametrize(("bytes_per_hour", "stretch"), [(1e9, 1.0), (1.25e6, 2.5)])
async def test_a_look_says_how_long_cycles_must_be_to_spare_the_disk(
    bytes_per_hour: float, stretch: float, root: Path
) -> None:
    watch = BoardWatch(Policy(), Board(root), FlashBudget(bytes_per_hour), root, time.time)  # 1 MB is written
    told: asyncio.Queue[Event] = asyncio.Queue()
    looking = asyncio.create_task(watch.run(told.put_nowait, WorkThreads(), lambda _: None))
    decided = await told.get()
    looking.cancel()
    assert isinstance(decided, PaceDecided)
    assert decided.stretch == pytest.approx(stretch)


async def test_a_watch_that_is_switched_off_reads_nothing(root: Path) -> None:
    watch = BoardWatch(Policy(enabled=False), Board(root), FlashBudget(1e9), root, time.time)
    await watch.run(lambda _: pytest.fail("reported"), WorkThreads(), lambda _: None)
    assert watch.flash.written_bytes is None
    assert watch.temperature_c is None


def test_a_rate_of_the_link_does_not_hold_a_device_back_for_ever() -> None:
    """Who rests for the sake of a slow link sends nothing that could show a better one."""
    traffic, decider = Traffic(), Decider(Policy(link_pause_bytes_per_s=5e3, dwell_s=60.0))
    traffic.upload_measured(4e3, 100.0)
    paces = [
        decider.decide(Reading(link_bytes_per_s=traffic.upload_bytes_per_s(now_s)), now_s, 0).pace
        for now_s in (100.0, 100.0 + UPLOAD_RATE_S, 101.0 + UPLOAD_RATE_S, 162.0 + UPLOAD_RATE_S)
    ]
    assert paces == ["pause", "pause", "pause", "train"]
