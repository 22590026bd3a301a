"""Whether anything moves on a TLS connection, by the kernel's count: also within a record, and not by heartbeats."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge_agent.progress import ACKNOWLEDGED_BYTES_MIN, KernelBytes
from skerry.identity import tls
from tests.identity.parties import Federation

Ends = tuple[asyncio.StreamWriter, asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def ends(tmp_path: Path) -> AsyncIterator[Ends]:
    """A device's writer, and what a coordinator has of the same connection, which reads only what the test reads."""
    federation = Federation(time.time())
    server = tls.server_context(federation.party(tmp_path / "eu", "coordinator", "eu-1"))
    client = tls.client_context(federation.party(tmp_path / "pi", "agent", "pi-1"))
    accepted: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Future()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set_result((reader, writer))

    async with await asyncio.start_server(accept, "127.0.0.1", 0, ssl=server) as listening:
        port = listening.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        there = await accepted
        yield writer, *there
        for one in (writer, there[1]):
            one.transport.abort()
            with contextlib.suppress(OSError):
                await one.wait_closed()


async def settled(kernel: KernelBytes, writer: asyncio.StreamWriter) -> None:
    """Wait until nothing moves any more; a busy machine moves things late."""
    quiet = 0
    async with asyncio.timeout(30):
        while quiet < 4:
            await asyncio.sleep(0.2)
            quiet = 0 if kernel.moved(writer.transport) else quiet + 1


async def test_what_goes_out_is_progress_and_heartbeats_are_none(ends: Ends) -> None:
    writer, reader, _ = ends
    kernel = KernelBytes()
    await settled(kernel, writer)
    writer.write(b"a heartbeat")
    await reader.read(100)
    await asyncio.sleep(0.1)
    assert not kernel.moved(writer.transport)
    writer.write(bytes(2 * ACKNOWLEDGED_BYTES_MIN))
    await reader.read(1000)
    await asyncio.sleep(0.1)
    assert kernel.moved(writer.transport)
    assert not kernel.moved(writer.transport)


async def test_every_byte_that_comes_in_is_progress(ends: Ends) -> None:
    writer, _, other = ends
    kernel = KernelBytes()
    await settled(kernel, writer)
    other.write(b"x")
    await asyncio.sleep(0.1)
    assert kernel.moved(writer.transport)


async def test_nothing_goes_out_to_one_that_does_not_read(ends: Ends) -> None:
    """Also where the layer of TLS has nothing left to send: what waits is below it."""
    writer, _, _ = ends
    kernel = KernelBytes()
    writer.write(bytes(32 << 20))
    await settled(kernel, writer)
    await asyncio.sleep(0.3)
    assert not kernel.moved(writer.transport)


async def test_plain_connections_are_not_asked() -> None:
    def accept(_: asyncio.StreamReader, there: asyncio.StreamWriter) -> None:
        there.transport.abort()

    assert not KernelBytes().moved(None)
    async with await asyncio.start_server(accept, "127.0.0.1", 0) as listening:
        _, writer = await asyncio.open_connection("127.0.0.1", listening.sockets[0].getsockname()[1])
        writer.write(bytes(1000))
        assert not KernelBytes().moved(writer.transport)
        writer.transport.abort()
        await asyncio.sleep(0.1)
