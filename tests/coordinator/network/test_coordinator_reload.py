"""What a running coordinator takes of a configuration that is read again, and what a service manager hears of it."""

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace

from coordinator.config import Checkpoints, CoordinatorConfig, Evaluation, Limits
from coordinator.reload import taken
from coordinator.service import Service
from skerry.reload import Reloads
from skerry.service_manager import ServiceManager

MakeConfig = Callable[..., CoordinatorConfig]


def test_the_rhythm_of_evaluations_the_room_for_streams_and_the_log_are_taken(make_config: MakeConfig) -> None:
    running = replace(make_config(), evaluation=Evaluation("builtin:activity"))
    wanted = replace(
        running,
        log_json=True,
        evaluation=Evaluation("builtin:activity", every_s=99.0),
        limits=Limits(connections_max=7),
    )
    in_force, differences = taken(running, wanted)
    assert in_force == wanted
    assert set(differences.taken) == {"log_json", "evaluation.every_s", "limits.connections_max"}
    assert differences.waiting == ()


def test_all_else_stays_as_it_is_until_a_restart(make_config: MakeConfig) -> None:
    running = make_config()
    wanted = replace(
        running,
        peers={"us": "https://us.example"},
        evaluation=Evaluation("builtin:activity"),
        checkpoints=Checkpoints(keep=9),
        limits=Limits(progress_timeout_s=1.0),
    )
    in_force, differences = taken(running, wanted)
    assert in_force == running
    assert differences.taken == ()
    assert set(differences.waiting) == {"peers", "evaluation", "checkpoints.keep", "limits.progress_timeout_s"}


class Systemd:
    """Takes the messages of a service under a watchdog."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[str] = asyncio.Queue()
        self.manager = ServiceManager(lambda message: self.messages.put_nowait(message.decode()), watchdog_s=0.03)

    async def heard(self, beginning: str) -> str:
        """Return the next message that begins so; others are passed over."""
        async with asyncio.timeout(10):
            while not (message := await self.messages.get()).startswith(beginning):
                pass
            return message


async def test_a_service_manager_hears_of_start_life_reload_and_end(make_config: MakeConfig) -> None:
    config = make_config()
    files = [replace(config, limits=Limits(connections_max=7))]
    systemd, reloads = Systemd(), Reloads(asyncio.Event(), files.pop)
    service = Service(config, manager=systemd.manager, reloads=reloads)
    await service.start()
    running = asyncio.create_task(service.run())
    try:
        ready = await systemd.heard("READY=1")
        assert f"region {config.region}, listening on 127.0.0.1:{service.port}" in ready
        await systemd.heard("WATCHDOG=1")
        reloads.wished.set()
        await systemd.heard("RELOADING=1")
        assert "taken: limits.connections_max" in await systemd.heard("READY=1")
        await systemd.heard("WATCHDOG=1")
        assert not running.done()
    finally:
        running.cancel()
        await service.stop()
    await systemd.heard("STOPPING=1")


def test_how_long_work_may_take_is_the_configurations_to_say(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []
    monkeypatch.setattr("coordinator.service.UnderWay", lambda clock, stuck_s: limits.append(stuck_s))
    Service(make_config())
    Service(replace(make_config(), limits=Limits(hang_s=1200.0)))
    assert limits == [600.0, 1200.0]


async def test_a_reload_lets_no_more_streams_in_than_it_says(make_config: MakeConfig, http: Any) -> None:
    config = make_config()
    files = [replace(config, limits=Limits(connections_max=1))]
    systemd, reloads = Systemd(), Reloads(asyncio.Event(), files.pop)
    service = Service(config, manager=systemd.manager, reloads=reloads)
    await service.start()
    try:
        await systemd.heard("READY=1")
        reloads.wished.set()
        await systemd.heard("RELOADING=1")
        await systemd.heard("READY=1")
        url = f"http://127.0.0.1:{service.port}/v1/agents/stream"
        async with http.ws_connect(url), http.ws_connect(url) as second:
            frame = await second.receive_bytes(timeout=10)
            assert b"busy" in frame
            assert b"already has 1 connections" in frame
            async with http.get(f"http://127.0.0.1:{service.port}/readyz") as response:
                assert (response.status, await response.text()) == (503, "stopping, drained, or full\n")
    finally:
        await service.stop()


async def test_a_reload_makes_room_at_the_port_too(
    make_config: MakeConfig, http: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.network.SPARE_CONNECTIONS", 0)
    config = replace(make_config(), limits=Limits(connections_max=1))
    files = [replace(config, limits=Limits(connections_max=2))]
    systemd, reloads = Systemd(), Reloads(asyncio.Event(), files.pop)
    service = Service(config, manager=systemd.manager, reloads=reloads)
    await service.start()
    try:
        await systemd.heard("READY=1")
        url = f"http://127.0.0.1:{service.port}/v1/agents/stream"
        async with http.ws_connect(url):
            with pytest.raises(aiohttp.ClientError):
                await http.ws_connect(url)
            reloads.wished.set()
            await systemd.heard("RELOADING=1")
            assert "taken: limits.connections_max" in await systemd.heard("READY=1")
            async with http.ws_connect(url) as second:
                assert not second.closed
    finally:
        await service.stop()


async def test_work_off_the_loop_is_watched(make_config: MakeConfig) -> None:
    service = Service(make_config())
    for run, what in ((service._disk, "a write to the disk"), (service._work, "an evaluation")):
        assert what in str(await run(lambda: service._under_way.stuck(1e12)))
    assert service._under_way.stuck(1e12) is None
    service._stop_threads()
