"""One WebSocket per device: what an agent may send, and what it is answered. Real sockets, a real journal."""

import asyncio
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from aiohttp import WSMsgType

from coordinator.config import Limits
from coordinator.history import read_history
from coordinator.metrics import Metrics
from coordinator.status_text import status_text
from coordinator.stream import Agents
from skerry.protocol import frames, sparse
from skerry.protocol.messages import (
    Drain,
    Heartbeat,
    ModelOffered,
    ModelVersion,
    PartialUpdate,
    Refused,
    Telemetry,
    UpdateAccepted,
    UpdateRejected,
)
from skerry.values import ValueEncoding, quantise
from skerry.vector import Float32, SparseVector
from testbed.simulation import loop

Start = Callable[..., Awaitable[Any]]
WriteBundle = Callable[[Path, Float32], Path]

SIZE = 64
UPDATE = SparseVector(SIZE, np.array([3, 40]), np.array([1.0, -2.0], np.float32))
PAYLOAD = sparse.encode(UPDATE)
DENSE = sparse.encode(SparseVector.full(np.ones(SIZE, np.float32)))
DENSE_HEADER_BYTES = 12


def with_value(value: float) -> bytes:
    """A dense payload whose last value is `value`, which no encoder would write."""
    return DENSE[:-4] + struct.pack("<f", value)


async def test_a_device_is_welcomed_and_gets_the_whole_model(coordinator: Any, initial: Float32) -> None:
    device = await coordinator.device()
    assert device.welcome.coordinator == device.welcome.region == "eu"
    assert device.welcome.last_sequence == 0
    assert device.welcome.partial is None
    version, values = await device.model()
    assert version.number == 0
    assert np.array_equal(values, quantise(initial, ValueEncoding.FLOAT16)), "the downlink's encoding"


async def test_an_accepted_update_is_in_the_journal_and_in_the_model(coordinator: Any, initial: Float32) -> None:
    device = await coordinator.device()
    version, _ = await device.model()
    await device.offer(1, version, PAYLOAD)
    accepted = await device.accepted()
    assert (accepted.sequence, accepted.version, accepted.weight) == (1, 1, 0.5)
    rows = read_history(coordinator.config.state_dir).updates
    assert [(row.device, row.sequence, row.weight, row.base_number) for row in rows] == [("pi-1", 1, 0.5, 0)]
    expected = initial.copy()
    UPDATE.add_to(expected, 0.5)
    assert np.array_equal(await coordinator.model(), expected)


async def test_a_repeat_is_acknowledged_again_and_applied_once_across_a_restart(start: Start) -> None:
    first = await start()
    device = await first.device()
    version, _ = await device.model()
    for _ in range(3):
        await device.offer(1, version, PAYLOAD)
    answers = [await device.accepted() for _ in range(3)]
    assert {(answer.sequence, answer.weight) for answer in answers} == {(1, 0.5)}
    model = await first.model()
    await first.service.stop()

    second = await start()
    device = await second.device(last_sequence=1, base=version)
    assert device.welcome.last_sequence == 1
    await device.offer(1, version, PAYLOAD)
    assert (await device.accepted()).weight == 0.5
    assert np.array_equal(await second.model(), model)
    assert len(read_history(second.config.state_dir).updates) == 1
    assert (await second.metrics())["skerry_updates_repeated_total"] == 1


async def test_many_updates_under_way_are_acknowledged_in_order(coordinator: Any) -> None:
    devices = [await coordinator.device(f"pi-{number}") for number in range(4)]
    versions = [(await device.model())[0] for device in devices]
    for sequence in range(1, 51):
        for device, version in zip(devices, versions, strict=True):
            await device.offer(sequence, version, PAYLOAD)
    for device in devices:
        assert [(await device.accepted()).sequence for _ in range(50)] == list(range(1, 51))
    status = await coordinator.json("/v1/admin/status")
    assert (status["version"], status["updates_accepted"]) == (200, 200)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "malformed"),
        (b"\x00garbage of some length", "malformed"),
        (PAYLOAD[:-1], "malformed"),
        (PAYLOAD + b"\x00", "malformed"),
        (with_value(float("nan")), "not_finite"),
        (with_value(float("-inf")), "not_finite"),
        (sparse.encode(SparseVector(SIZE + 1, UPDATE.indices, UPDATE.values)), "wrong_size"),
        (bytes(2000), "too_large"),
    ],
    ids=["empty", "garbage", "truncated", "trailing byte", "NaN", "infinite", "another size", "too large"],
)
async def test_a_bad_update_is_rejected_with_its_reason_and_the_stream_goes_on(
    start: Start, initial: Float32, payload: bytes, reason: str
) -> None:
    coordinator = await start(limits={"update_bytes_max": 1024})
    device = await coordinator.device()
    version, _ = await device.model()
    await device.offer(1, version, payload)
    rejected = await device.next(UpdateRejected)
    assert (rejected.sequence, rejected.reason) == (1, reason)
    assert rejected.detail
    assert np.array_equal(await coordinator.model(), initial)
    await device.offer(2, version, PAYLOAD)
    assert (await device.accepted()).sequence == 2
    metrics = await coordinator.metrics()
    assert metrics[f"skerry_updates_rejected_total{{reason={reason}}}"] == 1
    assert metrics["skerry_updates_accepted_total"] == 1


async def test_an_update_far_beyond_what_its_model_takes_is_not_even_held(coordinator: Any) -> None:
    device = await coordinator.device()
    version, _ = await device.model()
    for frame in device.update_frames(1, version, bytes(1 << 20), 100_000)[:-1]:
        await device.socket.send_bytes(frame)
    assert (await device.next(UpdateRejected)).reason == "too_large"
    assert (await coordinator.metrics())["skerry_partial_updates_bytes"] < 10_000


async def test_every_part_of_a_rejected_update_is_answered_by_one_rejection(start: Start) -> None:
    coordinator = await start(limits={"update_bytes_max": 1024})
    device = await coordinator.device()
    version, _ = await device.model()
    await device.offer(1, version, bytes(3000), part_bytes=500)
    await device.offer(2, version, PAYLOAD)
    answers: list[Any] = []
    while not (answers and isinstance(answers[-1], UpdateAccepted)):
        answers.append(await device.receive())
    assert [(type(answer), answer.sequence) for answer in answers] == [(UpdateRejected, 1), (UpdateAccepted, 2)]


@pytest.mark.parametrize("base", [("another/00000000", 0), ("", 7)])
async def test_an_update_against_an_unknown_base_is_rejected(coordinator: Any, base: tuple[str, int]) -> None:
    device = await coordinator.device()
    version, _ = await device.model()
    await device.offer(1, ModelVersion(base[0] or version.lineage, base[1]), PAYLOAD)
    assert (await device.next(UpdateRejected)).reason == "unknown_base"


@pytest.mark.parametrize(
    ("frame", "detail"),
    [
        (b"\xc1", "msgpack"),
        (frames.encode(Refused("busy", "", retry=True)), "message type"),
        (b"\x81\xa4type\xa9heartbeat", "stamp_s"),
    ],
    ids=["no msgpack", "a coordinator's message", "a field is missing"],
)
async def test_a_frame_of_no_known_shape_ends_the_stream_with_the_reason(
    coordinator: Any, frame: bytes, detail: str
) -> None:
    device = await coordinator.device()
    await device.socket.send_bytes(frame)
    refused = await device.next(Refused)
    assert (refused.reason, refused.retry) == ("malformed", True)
    assert detail in refused.detail
    assert (await device.socket.receive(timeout=5)).type is WSMsgType.CLOSE
    assert (await coordinator.metrics())["skerry_streams_refused_total{reason=malformed}"] == 1


async def test_text_is_refused(coordinator: Any) -> None:
    device = await coordinator.device()
    await device.socket.send_str("hello")
    assert "binary" in (await device.next(Refused)).detail


async def test_the_first_frame_and_no_other_is_a_hello(coordinator: Any) -> None:
    device = await coordinator.device()
    await device.hello()
    assert "second Hello" in (await device.next(Refused)).detail
    device.socket = await coordinator.socket()
    await device.send(Heartbeat(1.0))
    assert "must be a Hello" in (await device.next(Refused)).detail


async def test_another_major_protocol_is_refused_for_good_and_another_minor_is_not(coordinator: Any) -> None:
    device = await coordinator.device(protocol_minor=99)
    device.socket = await coordinator.socket()
    await device.hello(protocol_major=2)
    refused = await device.next(Refused)
    assert (refused.reason, refused.retry) == ("protocol", False)


async def test_an_oversized_frame_ends_the_stream_with_code_1009(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator = await start(limits={"frame_bytes_max": 4096, "part_bytes_max": 1024, "update_bytes_max": 1 << 20})
    device = await coordinator.device()
    await device.model()
    await device.socket.send_bytes(bytes(5000))
    closed = await device.socket.receive(timeout=5)
    assert (closed.type, closed.data) == (WSMsgType.CLOSE, 1009)
    await coordinator.until_metric("skerry_streams_refused_total{reason=too_large}", 1)
    assert "more than 4096 bytes" in caplog.text
    assert (await coordinator.device()).welcome is not None


async def test_a_newer_stream_of_a_device_supersedes_the_older(coordinator: Any) -> None:
    older = await coordinator.device()
    version, _ = await older.model()
    newer = await coordinator.device(base=version)
    refused = await older.next(Refused)
    assert (refused.reason, refused.retry) == ("superseded", False)
    assert (await older.socket.receive(timeout=5)).type is WSMsgType.CLOSE
    await newer.offer(1, version, PAYLOAD)
    assert (await newer.accepted()).sequence == 1
    assert (await coordinator.metrics())["skerry_devices_connected"] == 1


async def test_an_update_goes_on_from_the_part_where_the_stream_was_cut(coordinator: Any) -> None:
    device = await coordinator.device()
    version, _ = await device.model()
    whole = device.update_frames(1, version, DENSE, part_bytes=100)
    for frame in whole[:2]:
        await device.socket.send_bytes(frame)
    await device.send(Heartbeat(1.0))
    await device.next(Heartbeat)  # the parts before it were taken
    await device.socket.close()

    device = await coordinator.device(base=version)
    partial = device.welcome.partial
    assert isinstance(partial, PartialUpdate)
    assert (partial.sequence, partial.parts) == (1, 2)
    for frame in whole[2:]:
        await device.socket.send_bytes(frame)
    assert (await device.accepted()).sequence == 1
    (row,) = read_history(coordinator.config.state_dir).updates
    assert row.payload_bytes == len(DENSE)
    assert row.frame_bytes == sum(map(len, whole))


async def test_a_heartbeat_comes_back_and_telemetry_is_kept(coordinator: Any) -> None:
    device = await coordinator.device()
    await device.send(Telemetry(1.0, 0.5, 0.1, 1, 20, 0.02, 80 << 20, 100, 200, 0, 51.5))
    await device.send(Heartbeat(12.5))
    assert (await device.next(Heartbeat)).stamp_s == 12.5
    await coordinator.service.stop()
    assert read_history(coordinator.config.state_dir).telemetry["pi-1"].temperature_c == 51.5


async def test_a_silent_stream_is_ended(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    coordinator = await start(limits={"progress_timeout_s": 0.2})
    device = await coordinator.device()
    await device.model()
    ended = await device.socket.receive(timeout=5)
    assert ended.type in {WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.ERROR}
    assert "pi-1: no byte for 0 s" in caplog.text


def _no_thread(_: object) -> Any:
    raise AssertionError("nothing here is for a thread")


@pytest.mark.parametrize("timeout_s", [0.3, 4.0, 20.0])
def test_the_watch_over_a_stream_ends_however_times_are_rounded(
    timeout_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In virtual time, where no clock moves by itself: less than it resolves is left of the time-out now and then."""
    monkeypatch.setattr(loop, "TURNS_MAX", 1000)

    async def main(heard_at_s: float) -> float:
        agents = Agents(Limits(progress_timeout_s=timeout_s), Metrics(), _no_thread)
        cut = asyncio.Event()
        transport = SimpleNamespace(get_extra_info=lambda _: None, abort=cut.set)  # nobody knows what the kernel has
        stream = SimpleNamespace(ended=False, device="pi-1", request=SimpleNamespace(transport=transport))
        agents._watch(stream)  # type: ignore[arg-type]  # as much of one as is looked at
        await asyncio.sleep(heard_at_s)
        stream.heard_at_s = heard_at_s
        await cut.wait()
        return asyncio.get_running_loop().time()

    async def together() -> list[float]:
        return await asyncio.gather(*(main(one) for one in heard))

    heard = [timeout_s * number / 200 for number in range(1, 200)]
    assert loop.run(together(), seed=1) == pytest.approx([one + timeout_s for one in heard], abs=1e-6)


async def test_a_heartbeat_keeps_a_stream_alive(start: Start) -> None:
    coordinator = await start(limits={"progress_timeout_s": 0.3})
    device = await coordinator.device()
    loop = asyncio.get_running_loop()
    until_s = loop.time() + 0.9
    while loop.time() < until_s:
        await device.send(Heartbeat(loop.time()))
        await device.next(Heartbeat)
        with pytest.raises(TimeoutError):
            await device.socket.receive(timeout=0.1)


async def test_more_streams_than_allowed_are_asked_to_come_back(start: Start) -> None:
    coordinator = await start(limits={"connections_max": 1})
    first = await coordinator.device()
    second = await coordinator.socket()
    refused = frames.decode(await second.receive_bytes(), Refused, bytes_max=4096)
    assert (refused.reason, refused.retry) == ("busy", True)
    await first.socket.close()
    await coordinator.until_metric("skerry_devices_connected", 0)
    await coordinator.device("pi-2")


async def test_a_heartbeat_does_not_wait_for_a_large_model(
    start: Start, tmp_path: Path, write_bundle: WriteBundle
) -> None:
    """16 MB are more than the sockets hold: the model's later parts stand behind the answer to the heartbeat."""
    large = write_bundle(tmp_path / "large.skerry", np.zeros(4_000_000, np.float32))
    coordinator = await start(bundle=str(large))
    device = await coordinator.device()
    await device.next(ModelOffered)
    await device.send(Heartbeat(1.0))
    parts = 1
    while isinstance(message := await device.receive(), ModelOffered):
        parts, of = parts + 1, message.part.of
    assert message == Heartbeat(1.0)
    assert parts < of


async def test_a_stopping_coordinator_says_goodbye(coordinator: Any) -> None:
    device = await coordinator.device()
    stopping = asyncio.create_task(coordinator.service.stop())
    assert (await device.next(Drain)).reconnect_after_s > 0
    assert (await device.socket.receive(timeout=5)).type is WSMsgType.CLOSE
    await stopping


async def test_what_was_exchanged_with_a_device_is_counted(coordinator: Any) -> None:
    device = await coordinator.device()
    version, _ = await device.model()
    await device.offer(1, version, PAYLOAD)
    await device.accepted()
    await device.socket.close()
    await coordinator.service.stop()
    (traffic,) = read_history(coordinator.config.state_dir).traffic
    assert (traffic.party, traffic.name) == ("device", "pi-1")
    assert traffic.received_bytes > len(PAYLOAD)
    assert traffic.sent_bytes > 4 * SIZE


async def drained(coordinator: Any) -> bool:
    """Return what operators are told, which is what is said for people."""
    async with coordinator.http.get(f"{coordinator.url}/v1/admin/status") as response:
        report = await response.json()
    assert ("\ndrained     no agents are taken" in status_text(report)) is report["drained"]
    told: bool = report["drained"]
    return told


async def test_a_drained_coordinator_sends_its_agents_elsewhere_and_serves_its_peers(coordinator: Any) -> None:
    device = await coordinator.device()
    assert await drained(coordinator) is False
    async with coordinator.http.post(f"{coordinator.url}/v1/admin/drain") as response:
        assert (response.status, await response.json()) == (200, {"sent_away": 1, "elsewhere": []})
    assert (await device.next(Drain)).reconnect_after_s > 10.0
    assert (await device.socket.receive()).type is WSMsgType.CLOSE
    socket = await coordinator.socket()
    refused: Refused = frames.decode(await socket.receive_bytes(timeout=10), Refused, bytes_max=4096)
    assert (refused.reason, refused.retry) == ("busy", True)
    for path, status in (("/readyz", 503), ("/healthz", 200), ("/v1/federation/status", 200)):
        async with coordinator.http.get(coordinator.url + path) as response:
            assert response.status == status
    assert await drained(coordinator) is True
    async with coordinator.http.post(f"{coordinator.url}/v1/admin/drain") as response:
        assert await response.json() == {"sent_away": 0, "elsewhere": []}
