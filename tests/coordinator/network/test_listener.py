"""The listening socket on a real port: who is turned away, and who is cut."""

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from coordinator.admission import Admission
from coordinator.config import Limits, Listen
from coordinator.listener import Listener
from coordinator.network import Sockets

Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Serve = Callable[..., Awaitable[tuple[int, Counter[str], Admission]]]


@pytest.fixture
async def serve(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serve]:
    """Return a function that serves, with limits as they are for TLS, and gives port and what was refused."""
    runners = []

    async def serve(silence_s: float = 20.0, **limits: float) -> tuple[int, Counter[str], Admission]:
        async def slow(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b"x" * 100_000)

        application = web.Application()
        application.router.add_get("/", slow)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        runners.append(runner)
        plenty = {
            "connections_max": 100,
            "per_address_max": 100,
            "rate_per_s": 1000.0,
            "rate_per_address_per_s": 1000.0,
        }
        admission = Admission(**(plenty | limits))  # type: ignore[arg-type]
        refused: Counter[str] = Counter()
        network = Sockets(Limits(progress_timeout_s=silence_s), refused)
        monkeypatch.setattr(network, "_admission", lambda *, limited: admission)
        return await network.listen(runner, Listen(port=0), None), refused, admission

    yield serve
    for runner in runners:
        await runner.cleanup()


async def connect(port: int) -> Peer | None:
    """Return a connection, None where it was reset before this end even had it."""
    try:
        return await asyncio.open_connection("127.0.0.1", port, limit=1000)
    except ConnectionError:
        return None


async def is_cut(peer: Peer | None) -> bool:
    if peer is None:
        return True
    try:
        async with asyncio.timeout(0.3):
            return await peer[0].read(1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


async def close(*peers: Peer | None) -> None:
    for peer in peers:
        if peer is not None:
            peer[1].transport.abort()
    await asyncio.sleep(0.05)


async def test_one_address_has_its_places_and_gets_them_back(serve: Serve) -> None:
    port, refused, admission = await serve(per_address_max=2)
    peers = [await connect(port) for _ in range(3)]
    assert [await is_cut(peer) for peer in peers] == [False, False, True]
    assert refused == {"address_full": 1}
    await close(*peers)
    assert admission.open == 0
    again = await connect(port)
    assert not await is_cut(again)
    await close(again)


async def test_a_flood_is_turned_away_and_costs_no_request(serve: Serve) -> None:
    port, refused, admission = await serve(rate_per_address_per_s=1.0)
    peers = await asyncio.gather(*(connect(port) for _ in range(200)))
    cut = await asyncio.gather(*(is_cut(peer) for peer in peers))
    assert 5 <= cut.count(False) <= 8
    assert refused["address_rate"] == cut.count(True)
    assert admission.open == cut.count(False)
    await close(*peers)


def test_few_are_admitted_at_a_time_so_that_others_have_their_turn() -> None:
    """Each may be about to cost a handshake: a burst of them must not hold up who streams."""
    admission = Admission(connections_max=100, per_address_max=100, rate_per_s=100.0, rate_per_address_per_s=100.0)
    with Listener(socket.AF_INET, admission, lambda: 0.0, Counter()) as listener, contextlib.ExitStack() as stack:
        listener.setblocking(False)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        for _ in range(5):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        turns: list[int] = []
        while sum(turns) < 5:
            turns.append(0)
            with contextlib.suppress(BlockingIOError):
                while True:
                    stack.enter_context(listener.accept()[0])
                    turns[-1] += 1
    assert turns == [2, 2, 1]


async def test_a_connection_on_which_nothing_moves_is_cut(serve: Serve) -> None:
    """Silent ones, and those that ask and do not read; who asks slowly, a byte at a time, makes progress."""
    port, refused, admission = await serve(silence_s=1.0)
    silent, deaf, slow = [await connect(port) for _ in range(3)]
    assert deaf is not None
    assert slow is not None
    deaf[1].write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    for letter in b"GET / HTTP/1.1\r\nHo":
        slow[1].write(bytes([letter]))
        await asyncio.sleep(0.12)
    assert refused == {"silent": 2}
    assert await is_cut(silent)
    assert not await is_cut(slow)
    assert admission.open == 1
    await close(silent, deaf, slow)
    assert admission.open == 0
