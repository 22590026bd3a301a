"""The relay between real sockets: it delays, and it breaks connections in the ways that networks do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from testbed.processes.link import Link, Shape
from testbed.processes.relay import Relay


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Return everything, and close when the other side has closed."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def relayed_echo(shape: Shape, *, reverse: bool = False, back: Shape | None = None) -> AsyncIterator[Relay]:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    relay = Relay(Link(shape, back or shape), lambda: address, reverse=reverse)
    await relay.start()
    try:
        yield relay
    finally:
        await relay.close()
        server.close()
        await asyncio.sleep(0)


async def exchange(relay: Relay, data: bytes) -> bytes:
    """Send `data`, close, and return all that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    try:
        writer.write(data)
        writer.write_eof()
        return await reader.read()
    finally:
        writer.close()


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def test_bytes_come_through_unchanged_and_so_does_the_end() -> None:
    data = bytes(range(256)) * 2000
    async with relayed_echo(Shape()) as relay:
        assert await exchange(relay, data) == data


async def test_a_round_trip_takes_the_handshake_and_two_latencies() -> None:
    async with relayed_echo(Shape(0.05)) as relay:
        start_s = now_s()
        assert await exchange(relay, b"x") == b"x"
        assert 0.2 <= now_s() - start_s < 0.6


async def test_bandwidth_is_limited_per_direction() -> None:
    async with relayed_echo(Shape(0.0, 2e6), back=Shape()) as relay:  # 100 kB at 2 Mbit/s: 0.4 s
        start_s = now_s()
        assert len(await exchange(relay, bytes(100_000))) == 100_000
        assert 0.4 <= now_s() - start_s < 1.0


async def test_reverse_uses_the_other_wire() -> None:
    async with relayed_echo(Shape(), reverse=True, back=Shape(0.0, 2e6)) as relay:
        start_s = now_s()
        assert len(await exchange(relay, bytes(100_000))) == 100_000
        assert now_s() - start_s >= 0.4


async def test_a_cut_resets_and_refuses_until_it_ends() -> None:
    async with relayed_echo(Shape()) as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        relay.cut()
        with pytest.raises(ConnectionError):
            await reader.readexactly(1)
        writer.close()
        with pytest.raises(ConnectionError):
            await exchange(relay, b"x")
        relay.resume()
        assert await exchange(relay, b"x") == b"x"


async def test_a_stall_keeps_the_connection_and_carries_nothing() -> None:
    async with relayed_echo(Shape()) as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.write(b"a")
        assert await reader.read(1) == b"a"
        relay.stall()
        writer.write(b"b")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.2)
        relay.resume()
        assert await asyncio.wait_for(reader.read(1), 5.0) == b"b"
        writer.close()


async def test_a_link_that_resets_again_and_again() -> None:
    async with relayed_echo(Shape()) as relay:
        relay.reset_every(0.05)
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(reader.readexactly(1), 5.0)
            writer.close()
        relay.reset_every(None)
        assert await exchange(relay, b"x") == b"x"
        assert relay.connections_made == 4


async def test_nobody_behind_the_link_is_a_reset() -> None:
    relay = Relay(Link(Shape(), Shape()), lambda: None)
    await relay.start()
    try:
        with pytest.raises(ConnectionError):
            await exchange(relay, b"x")
    finally:
        await relay.close()
