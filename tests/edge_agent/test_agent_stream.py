"""The stream alone, on real sockets that are slow, dead or full of nonsense."""

import asyncio
import dataclasses
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from edge_agent.backoff import Backoff
from edge_agent.events import Connected, Disconnected, Event, Received
from edge_agent.outbox import Update
from edge_agent.progress import ByteCounter
from edge_agent.stream import Connection, Stream, StreamLimits, Traffic
from skerry.protocol.messages import Hello, ModelVersion, UpdateAccepted, UpdateOffered, Welcome

Until = Callable[[Callable[[], bool]], Awaitable[None]]
Serve = Callable[..., Awaitable[Any]]
QUICK = StreamLimits(reconnect_min_s=0.01, reconnect_max_s=0.05, heartbeat_s=0.1, progress_timeout_s=0.6)
HELLO = Hello(1, 0, "pi-1", "0.1", "", None, None, 0, None)
UPDATE = Update(1, ModelVersion("r/00000001", 1), 5, 7, 0.5, 0.01, 0.05, b"", event=1)


class Listener:
    """Says hello, and keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.stream: Stream | None = None

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Connected):
            self.connection.send(HELLO)

    @property
    def connection(self) -> Connection:
        assert self.stream is not None
        assert self.stream.connection is not None
        return self.stream.connection

    def count(self, kind: type) -> int:
        return sum(isinstance(event, kind) for event in self.events)

    def reasons(self) -> list[str]:
        return [event.reason for event in self.events if isinstance(event, Disconnected)]


@asynccontextmanager
async def streaming(
    *urls: str, limits: StreamLimits = QUICK, rng: random.Random | None = None
) -> AsyncIterator[Listener]:
    listener = Listener()
    stream = listener.stream = Stream(urls, limits, rng or random.Random(1), listener)
    task = asyncio.create_task(stream.run())
    try:
        yield listener
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def slow_relay(url: str, bytes_per_s: float) -> AsyncIterator[str]:
    """A link that carries so much each way; it holds next to nothing back."""
    host, port = url.removeprefix("http://").split(":")

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(512):
            await asyncio.sleep(len(data) / bytes_per_s)
            writer.write(data)
            await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        links.append(link)
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        try:
            await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer), return_exceptions=True)
        finally:
            writer.close()
            far_writer.close()

    links: list[asyncio.Task[Any]] = []
    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=1024)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)


class EagerSocket:
    """Takes every frame at once, as long as its buffers have room."""

    def __init__(self) -> None:
        self.frames = 0

    async def send_bytes(self, _: bytes) -> None:
        self.frames += 1


async def test_frames_that_are_written_at_once_leave_the_reader_its_turn() -> None:
    websocket: Any = EagerSocket()
    connection = Connection(websocket, QUICK, Traffic(), ByteCounter(), Listener(), Backoff(0.1, 1.0, random.Random(1)))
    for _ in range(100):
        connection.send(HELLO)
    writing = asyncio.create_task(connection._write())
    for turn in range(1, 6):
        await asyncio.sleep(0)
        assert websocket.frames == turn
    writing.cancel()


async def test_a_large_update_over_a_slow_link_takes_long_and_is_no_dead_stream(serve: Serve) -> None:
    """250 kB at 200 kB/s: longer than the progress time-out, and longer than any message in the other direction."""
    coordinator = await serve(rejects=True)
    async with slow_relay(coordinator.url, 200e3) as url, streaming(url) as listener:
        await coordinator.until(lambda: bool(coordinator.hellos))
        started_s = asyncio.get_running_loop().time()
        payload = random.Random(0).randbytes(250_000)
        listener.connection.send_update(replace(UPDATE, payload=payload), 64 << 10, 0)
        await coordinator.until(lambda: len(coordinator.offered) == 4)
        assert asyncio.get_running_loop().time() - started_s > QUICK.progress_timeout_s
        assert not listener.reasons()


async def test_heartbeats_go_between_the_parts_of_an_update(serve: Serve) -> None:
    coordinator = await serve(rejects=True)
    async with slow_relay(coordinator.url, 200e3) as url, streaming(url) as listener:
        await coordinator.until(lambda: bool(coordinator.hellos))
        payload = bytes(200_000)
        listener.connection.send_update(replace(UPDATE, payload=payload), 8 << 10, 0)
        await coordinator.until(lambda: len(coordinator.offered) >= 5)
        before = coordinator.heartbeats
        await coordinator.until(lambda: len(coordinator.offered) >= 20)
        assert coordinator.heartbeats > before


async def test_a_dead_link_is_left_even_while_there_is_much_to_write(until: Until) -> None:
    """It takes the connection and then reads nothing more: heartbeats into its buffers are no progress."""

    async def handshake_and_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from base64 import b64encode
        from hashlib import sha1

        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:  # the next attempt, cut by the end of the test
            writer.close()
            return
        key = next(line.split(": ")[1] for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key"))
        accept = b64encode(sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            + f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
        )
        await stop.wait()
        writer.close()

    stop = asyncio.Event()
    server = await asyncio.start_server(handshake_and_nothing, "127.0.0.1", 0, limit=1024)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with streaming(url) as listener:
        await until(lambda: listener.count(Connected) > 0)
        listener.connection.send_update(replace(UPDATE, payload=bytes(20 << 20)), 64 << 10, 0)
        await until(lambda: bool(listener.reasons()))
    assert "no progress" in listener.reasons()[0]
    stop.set()
    server.close()
    await asyncio.sleep(0.01)  # lets the handler close its end


async def test_nonsense_ends_the_stream_with_the_reason(serve: Serve) -> None:
    coordinator = await serve(silent=True)
    async with streaming(coordinator.url) as listener:
        await coordinator.until(lambda: bool(coordinator.hellos))
        await coordinator.sockets[-1].send_bytes(b"\xc1nonsense")
        await coordinator.until(lambda: bool(listener.reasons()))
        assert "nonsense" in listener.reasons()[0]
        await coordinator.until(lambda: len(coordinator.hellos) >= 2)
        await coordinator.sockets[-1].send_str("text")
        await coordinator.until(lambda: len(listener.reasons()) >= 2)
        assert "TEXT" in listener.reasons()[1]


async def test_an_oversized_frame_ends_the_stream(serve: Serve) -> None:
    coordinator = await serve(silent=True)
    async with streaming(coordinator.url) as listener:
        await coordinator.until(lambda: bool(coordinator.hellos))
        await coordinator.sockets[-1].send_bytes(bytes((1 << 20) + 1))
        await coordinator.until(lambda: bool(listener.reasons()))
    assert listener.count(Received) == 0


async def test_a_server_without_a_stream_is_tried_in_turn_with_others(serve: Serve) -> None:
    coordinator = await serve()
    async with streaming(coordinator.url + "/elsewhere", "http://127.0.0.1:9", coordinator.url) as listener:
        await coordinator.until(lambda: listener.count(Received) > 0)
    assert isinstance(next(e for e in listener.events if isinstance(e, Received)).message, Welcome)


async def test_leaving_is_followed_by_coming_back_not_before_it_was_asked(serve: Serve) -> None:
    coordinator = await serve()
    async with streaming(coordinator.url) as listener:
        await coordinator.until(lambda: listener.count(Received) > 0)
        left_s = asyncio.get_running_loop().time()
        listener.connection.leave("a drain", wait_s=0.4)
        await coordinator.until(lambda: len(coordinator.hellos) == 2)
        assert asyncio.get_running_loop().time() - left_s >= 0.4
    assert listener.reasons()[0] == "a drain"


async def test_a_link_that_is_cut_again_and_again_is_always_taken_up(serve: Serve) -> None:
    coordinator = await serve()
    async with streaming(coordinator.url):
        for number in range(1, 8):
            await coordinator.until(lambda number=number: len(coordinator.hellos) == number)
            await coordinator.cut()


async def test_what_is_asked_of_a_stream_that_has_ended_is_not_said_on_the_next(serve: Serve) -> None:
    coordinator = await serve(rejects=True)
    async with streaming(coordinator.url) as listener:
        await coordinator.until(lambda: bool(coordinator.hellos))
        former = listener.connection
        await coordinator.cut()
        await coordinator.until(lambda: len(coordinator.hellos) == 2)
        former.send_update(replace(UPDATE, payload=b"x"), 8 << 10, 0)
        former.send(HELLO)
        former.leave("an old reason")
        listener.connection.send_update(replace(UPDATE, sequence=2, payload=b"x"), 8 << 10, 0)
        await coordinator.until(lambda: bool(coordinator.offered))
        assert [offered.sequence for offered in coordinator.offered] == [2]
        assert (len(coordinator.hellos), len(listener.reasons())) == (2, 1)


async def test_nothing_more_is_sent_of_an_update_that_was_answered(serve: Serve) -> None:
    coordinator = await serve(rejects=True)
    async with slow_relay(coordinator.url, 200e3) as url, streaming(url) as listener:
        await coordinator.until(lambda: bool(coordinator.hellos))
        for sequence in (1, 2):
            listener.connection.send_update(replace(UPDATE, sequence=sequence, payload=bytes(200_000)), 8 << 10, 0)
        await coordinator.until(lambda: bool(coordinator.offered))
        listener.connection.drop_update(1)
        await coordinator.until(lambda: any(offered.sequence == 2 for offered in coordinator.offered))
    assert sum(offered.sequence == 1 for offered in coordinator.offered) < 5  # of 25 parts


class NoWaits(random.Random):
    """Keeps the bounds that waits were drawn below, and makes every wait zero."""

    def __init__(self) -> None:
        super().__init__(1)
        self.bounds_s: list[float] = []

    def uniform(self, a: float, b: float) -> float:
        self.bounds_s.append(b)
        return a


async def test_waits_grow_where_streams_end_right_behind_the_welcome(serve: Serve) -> None:
    """And shrink again after an update that was taken, or a stream that lasted."""
    coordinator = await serve(offers_models=False)
    limits = dataclasses.replace(QUICK, reconnect_min_s=0.01, reconnect_max_s=0.3)
    rng = NoWaits()

    async def end_next(number: int) -> None:
        await coordinator.until(lambda: listener.count(Received) > 0)
        listener.events.clear()
        listener.connection.leave("a frame that is called malformed")
        await coordinator.until(lambda: len(rng.bounds_s) == number)

    async with streaming(coordinator.url, limits=limits, rng=rng) as listener:
        for number in (1, 2, 3):
            await end_next(number)
        assert rng.bounds_s == [0.01, 0.02, 0.04]
        await coordinator.until(lambda: len(coordinator.hellos) == 4)
        await coordinator.say(UpdateAccepted(1, 1, None, coordinator.plan))
        await coordinator.until(lambda: listener.count(Received) == 2)
        await end_next(4)
        await end_next(5)
        assert rng.bounds_s[3:] == [0.01, 0.02]
        await coordinator.until(lambda: len(coordinator.hellos) == 6)
        await asyncio.sleep(0.4)
        await end_next(6)
        assert rng.bounds_s[5:] == [0.01]


@given(st.floats(0.01, 1.0), st.floats(1.0, 100.0), st.integers(0, 2**32))
def test_waits_stay_within_a_bound_that_doubles_up_to_the_largest(min_s: float, max_s: float, seed: int) -> None:
    backoff = Backoff(min_s, max_s, random.Random(seed))
    bound_s = min_s
    for _ in range(20):
        assert 0.0 <= backoff.failed() <= bound_s
        bound_s = min(2 * bound_s, max_s)
    assert bound_s == pytest.approx(max_s)
    backoff.succeeded()
    assert backoff.failed() <= min_s


def test_jitter_is_full_and_a_hopeless_attempt_waits_by_the_largest_bound() -> None:
    first = [Backoff(1.0, 64.0, random.Random(seed)).failed() for seed in range(300)]
    assert min(first) < 0.1
    assert max(first) > 0.9
    hopeless = [Backoff(1.0, 64.0, random.Random(seed)).failed(hopeless=True) for seed in range(300)]
    assert max(hopeless) > 60.0


def test_the_offer_of_a_part_carries_the_whole_update() -> None:
    from edge_agent.stream import _offers

    update = Update(3, ModelVersion("r/00000001", 1), 5, 7, 0.5, 0.01, 0.05, b"x" * 10, event=1)
    offers = list(_offers(update, 4, 1))
    assert [offer.part.number for offer in offers] == [1, 2]
    assert offers[0] == UpdateOffered(3, ModelVersion("r/00000001", 1), 5, 7, 0.5, 0.01, offers[0].part)


def test_nothing_is_cut_before_it_is_due() -> None:
    from edge_agent.stream import _offers

    class Counted(bytes):
        cuts = 0

        def __getitem__(self, key: Any) -> Any:
            Counted.cuts += 1
            return super().__getitem__(key)

    offers = _offers(replace(UPDATE, payload=Counted(100)), 4, 0)
    next(offers)
    next(offers)
    assert Counted.cuts == 2


async def test_an_attempt_that_never_connected_says_why(until: Until) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, but nobody listens
        async with streaming(f"http://127.0.0.1:{closed.getsockname()[1]}") as listener:
            await until(lambda: bool(listener.reasons()))
    assert listener.reasons()[0].endswith(": Connection refused")
    assert listener.count(Connected) == 0
