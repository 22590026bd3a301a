"""Devices that do not read, come back in mid-commit, or say too much: nobody else notices."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from aiohttp import WSMsgType

from coordinator import stream
from coordinator.config import CoordinatorConfig
from coordinator.outgoing import Offer
from coordinator.service import Service
from coordinator.threads import in_executor
from skerry.protocol import sparse
from skerry.protocol.messages import Heartbeat, Refused, UpdateAccepted, Welcome
from skerry.vector import Float32, SparseVector

Start = Callable[..., Awaitable[Any]]
T = TypeVar("T")

PAYLOAD = sparse.encode(SparseVector(64, np.array([3, 40]), np.array([1.0, -2.0], np.float32)))


@pytest.fixture
async def busy(start: Start, tmp_path: Path, write_bundle: Callable[[Path, Float32], Path]) -> Any:
    """A coordinator whose model, 16 MB as sent, is more than the sockets hold: who does not read blocks its own way."""
    large = write_bundle(tmp_path / "large.skerry", np.zeros(8_000_000, np.float32))
    return await start(bundle=str(large), limits={"device_frames_per_s_max": 1e6})


async def stuck(coordinator: Any) -> Any:
    """Connect a device that does not read, and wait until nothing moves any more on the way to it."""
    device = await coordinator.device()
    sent, before = 0, -1
    while sent != before or sent < 1 << 20:  # on a busy machine the model takes its time to begin
        await asyncio.sleep(0.3)
        coordinator.service.housekeep()
        sent, before = coordinator.service.metrics.frames_sent_bytes, sent
    return device


async def test_a_device_that_does_not_read_is_not_waited_for_at_the_stop(
    busy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "CLOSE_S", 0.2)
    device = await stuck(busy)
    async with asyncio.timeout(10):
        await busy.service.stop()
    await device.socket.close()


async def test_a_device_that_does_not_read_cannot_fill_the_memory_with_heartbeats(busy: Any) -> None:
    device = await stuck(busy)
    for stamp in range(6000):
        try:
            await device.send(Heartbeat(float(stamp)))
        except ConnectionError:
            break
    await busy.until_metric("skerry_devices_connected", 0)


async def test_a_device_that_sends_faster_than_it_may_is_read_more_slowly_and_loses_nothing(start: Start) -> None:
    coordinator = await start(limits={"device_frames_per_s_max": 20.0})
    hasty, other = await coordinator.device("hasty"), await coordinator.device("other")
    began_s = asyncio.get_running_loop().time()
    for stamp in range(130):  # a hundred, five seconds' worth, may come at once
        await hasty.send(Heartbeat(float(stamp)))
    await other.send(Heartbeat(7.0))
    assert (await other.next(Heartbeat)).stamp_s == 7.0
    assert coordinator.service.metrics.frames_received < 2 + 131  # the other one is heard before the hasty one's last
    assert [(await hasty.next(Heartbeat)).stamp_s for _ in range(130)] == [float(stamp) for stamp in range(130)]
    assert asyncio.get_running_loop().time() - began_s > 1.3
    assert (await coordinator.metrics())["skerry_frames_delayed_total"] >= 25


async def test_a_stream_that_cannot_be_written_to_ends_and_the_defect_is_told(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> Any:
        raise ValueError("a defect")

    monkeypatch.setattr(Offer, "frames", fail)
    coordinator = await start()
    device = await coordinator.device()
    ended = await device.socket.receive(timeout=5)
    assert ended.type in {WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.ERROR}
    await coordinator.until_metric("skerry_devices_connected", 0)
    assert "a defect" in caplog.text


@contextlib.asynccontextmanager
async def gated(config: CoordinatorConfig) -> AsyncIterator[tuple[Service, threading.Event]]:
    """Run a coordinator whose disk waits while the gate is shut."""
    gate = threading.Event()
    gate.set()
    with ThreadPoolExecutor(2) as executor:
        in_threads = in_executor(executor)

        def run(function: Callable[[], T], /) -> Awaitable[T]:
            def held() -> T:
                assert gate.wait(20)
                return function()

            return in_threads(held)

        service = Service(config, run_in_thread=run)
        await service.start()
        try:
            yield service, gate
        finally:
            gate.set()
            await service.stop()


async def test_answers_for_an_earlier_stream_are_not_given_to_a_newer_one(
    make_config: Callable[..., CoordinatorConfig], connect: Any, http: Any
) -> None:
    """The newer one is told in its Welcome how far the journal is, and asks for what it misses."""
    async with gated(make_config()) as (service, gate):
        url = f"http://127.0.0.1:{service.port}"
        other = await connect(url, "pi-2")
        version, _ = await other.model()
        gate.clear()
        await other.offer(1, version, PAYLOAD)  # in the commit that the rest has to wait for
        await _until(lambda: service.engine.status().uncommitted_updates == 1)

        older, newer = [type(other)("pi-1", await http.ws_connect(f"{url}/v1/agents/stream")) for _ in range(2)]
        await older.hello()
        await older.offer(1, version, PAYLOAD)
        await _until(lambda: service.engine.status().uncommitted_updates == 2)
        await newer.hello()
        await older.next(Refused)
        gate.set()
        await newer.send(Heartbeat(1.0))
        heard: list[Any] = []
        while not (heard and isinstance(heard[-1], Heartbeat)):
            heard.append(await newer.receive())
        assert [type(one) for one in heard].count(Welcome) == 1
        assert not any(isinstance(one, UpdateAccepted) for one in heard)
        assert heard[0].last_sequence == 1
        await newer.offer(1, version, PAYLOAD)
        assert (await newer.accepted()).weight == 0.5


async def test_what_an_earlier_stream_had_to_hold_back_is_not_taken_any_more(
    make_config: Callable[..., CoordinatorConfig], connect: Any, http: Any
) -> None:
    """It would get among the parts that the device sends on its newer stream."""
    config = make_config(limits={"commit_queue_updates_max": 1})
    async with gated(config) as (service, gate):
        url = f"http://127.0.0.1:{service.port}"
        other = await connect(url, "pi-2")
        version, _ = await other.model()
        gate.clear()
        for sequence in (1, 2):
            await other.offer(sequence, version, PAYLOAD)
        await _until(lambda: service.engine.status().uncommitted_updates == 2)

        older, newer = [type(other)("pi-1", await http.ws_connect(f"{url}/v1/agents/stream")) for _ in range(2)]
        received = service.metrics.frames_received
        await older.hello()
        await older.socket.send_bytes(older.update_frames(1, version, PAYLOAD, part_bytes=12)[0])
        await _until(lambda: service.metrics.frames_received == received + 2)
        await newer.hello()
        await older.next(Refused)
        gate.set()
        await newer.next(Welcome)
        await older.socket.close()
        assert service.metrics.partial_updates_bytes() == 0


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - a thread gets there, and tells nobody
            await asyncio.sleep(0.001)
