"""The simulated transport keeps asyncio's contract: the same programs see the same events as over real sockets."""

import asyncio
import hashlib
import random
import socket
import struct
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest

from testbed.simulation.connection import Connection
from testbed.simulation.loop import run
from testbed.simulation.network import SimulatedNetwork
from testbed.simulation.path import Path
from testbed.simulation.transport import SimulatedTransport

CONTENT = random.Random(1).randbytes(8_000_000)
PATIENCE_S = 10.0
SAID_BY = ContextVar("SAID_BY", default="nobody")


class End(asyncio.Protocol):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.data = bytearray()
        self.keep_open = False  # when the other side has closed its direction
        self.echo = False
        self.error: BaseException | None = None
        self.fails = False
        self.heard_from = ""

    @property
    def transport(self) -> asyncio.Transport:
        return self._transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.events.append("made")

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes
        if self.fails:
            raise ZeroDivisionError
        self.data += data
        self.heard_from = SAID_BY.get()
        if self.events[-1] != "data":
            self.events.append("data")
        if self.echo:
            self._transport.write(data)

    def eof_received(self) -> bool:
        self.events.append("eof")
        return self.keep_open

    def pause_writing(self) -> None:
        if self.events[-1] == "resume":  # how often depends on how much a kernel takes
            del self.events[-2:]
        self.events.append("pause")

    def resume_writing(self) -> None:
        assert self.transport.get_write_buffer_size() <= self.transport.get_write_buffer_limits()[0]
        self.events.append("resume")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.error = exc
        kind = "connection" if isinstance(exc, ConnectionError) else type(exc).__name__
        self.events.append(f"lost {kind}")

    @property
    def is_lost(self) -> bool:
        return self.events[-1].startswith("lost")


Program = Callable[[End, End], Coroutine[Any, Any, object]]


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what it asks about tells nobody
            await asyncio.sleep(0.002)


def over_sockets(program: Program) -> list[object]:
    async def main() -> list[object]:
        loop, far = asyncio.get_running_loop(), End()
        server = await loop.create_server(lambda: far, "127.0.0.1", 0)
        _, near = await loop.create_connection(End, *server.sockets[0].getsockname())
        await until(lambda: bool(far.events))
        try:
            result = await program(near, far)
        finally:
            for end in (near, far):
                if not end.is_lost:
                    end.transport.abort()
            await until(lambda: near.is_lost and far.is_lost)
            server.close()
        return [result, near.events, far.events]

    return asyncio.run(main())


def over_memory(program: Program) -> list[object]:
    async def main() -> list[object]:
        loop, near, far = asyncio.get_running_loop(), End(), End()
        network = SimulatedNetwork(1, loop, Path(0.0001, jitter_s=0.0001))
        network.add_host("near", 1e8)
        network.add_host("far", 1e8)

        failures: list[OSError] = []

        def accept(connection: Connection) -> None:
            SimulatedTransport(loop, far, connection, at_client=False)

        def established(connection: Connection) -> None:
            SimulatedTransport(loop, near, connection, at_client=True)

        network.host("far").listen("far", 80, accept)
        network.connect("near", "far", 80, established, failures.append)
        await until(lambda: bool(near.events and far.events))
        try:
            result = await program(near, far)
        finally:
            for end in (near, far):
                if not end.is_lost:
                    end.transport.abort()
            await until(lambda: near.is_lost and far.is_lost)
        assert not network.host("near").connections
        assert not network.host("far").connections
        return [result, near.events, far.events]

    return run(main(), seed=1)


def digest(data: bytes | bytearray) -> str:
    return hashlib.sha256(data).hexdigest()


async def echo(near: End, far: End) -> object:
    far.echo = True
    for size in (1, 1000, 100_000):
        near.transport.write(CONTENT[:size])
        await until(lambda size=size: len(near.data) >= size)  # type: ignore[misc]
        near.data.clear()
    near.transport.close()
    await until(lambda: near.is_lost and far.is_lost)
    return digest(far.data), near.error, far.error


async def a_large_body(near: End, far: End) -> object:
    piece = bytearray(100_000)
    for start in range(0, len(CONTENT), len(piece)):
        piece[:] = CONTENT[start : start + len(piece)]  # what was written is what it was then
        near.transport.write(memoryview(piece) if start % 3 else piece)
        await until(lambda: near.events[-1] != "pause")
    near.transport.write_eof()
    await until(lambda: far.is_lost)
    await until(lambda: near.is_lost)
    return digest(far.data)


async def a_reader_that_pauses(near: End, far: End) -> object:
    far.transport.pause_reading()
    written = 0
    while near.events[-1] != "pause":
        near.transport.write(bytes(65_536))
        written += 65_536
        await asyncio.sleep(0.001)
    assert near.transport.get_write_buffer_size() > 65_536
    await asyncio.sleep(0.1)
    seen: list[object] = [len(far.data), list(near.events), far.transport.is_reading()]
    far.transport.resume_reading()
    await until(lambda: len(far.data) == written)
    await until(lambda: near.events[-1] == "resume")
    return *seen, far.transport.is_reading(), near.transport.get_write_buffer_size()


async def pausing_twice_and_resuming_twice(near: End, far: End) -> object:
    far.transport.pause_reading()
    far.transport.pause_reading()
    near.transport.write(b"held")
    await asyncio.sleep(0.05)
    held = bytes(far.data)
    far.transport.resume_reading()
    at_once = bytes(far.data)
    far.transport.resume_reading()
    await until(lambda: bool(far.data))
    far.transport.resume_reading()
    far.transport.pause_reading()
    far.transport.resume_reading()
    far.transport.pause_reading()
    near.transport.write(b" again")
    await asyncio.sleep(0.05)
    return held, at_once, bytes(far.data)


async def close_flushes(near: End, far: End) -> object:
    near.transport.write(CONTENT)
    near.transport.close()
    closing = near.transport.is_closing(), near.transport.is_reading(), near.is_lost
    await until(lambda: near.is_lost and far.is_lost)
    return closing, digest(far.data)


async def close_comes_later(near: End, far: End) -> object:
    near.transport.write(b"last words")
    near.transport.close()
    near.transport.close()
    soon = list(near.events)
    await until(lambda: near.is_lost and far.is_lost)
    near.transport.write(b"too late")
    near.transport.write_eof()
    near.transport.close()
    near.transport.abort()
    await asyncio.sleep(0.05)
    return soon, bytes(far.data), near.transport.is_closing()


async def abort_forgets_what_is_not_sent(near: End, far: End) -> object:
    far.transport.pause_reading()
    written = 0
    while near.transport.get_write_buffer_size() < 1_000_000:
        near.transport.write(bytes(1_000_000))
        written += 1_000_000
        await asyncio.sleep(0)
    near.transport.abort()
    seen = near.transport.is_closing(), near.is_lost
    await until(lambda: near.is_lost)
    size = near.transport.get_write_buffer_size()
    far.transport.resume_reading()
    await until(lambda: far.is_lost)
    return seen, size, near.error, 0 < len(far.data) <= written - 1_000_000


async def abort_with_unread_data_resets(near: End, far: End) -> object:
    near.transport.pause_reading()
    far.transport.write(b"never read")
    await asyncio.sleep(0.05)
    near.transport.abort()
    await until(lambda: far.is_lost)
    return isinstance(far.error, ConnectionResetError)


async def lingering_for_no_time_resets(near: End, far: End) -> object:
    near.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    near.transport.write(b"x")
    await until(lambda: bool(far.data))
    near.transport.abort()
    await until(lambda: far.is_lost)
    return near.error, isinstance(far.error, ConnectionResetError)


async def half_closed(near: End, far: End) -> object:
    far.keep_open = True
    near.transport.write(b"question")
    near.transport.write_eof()
    with pytest.raises(RuntimeError, match="after write_eof"):
        near.transport.write(b"more")
    await until(lambda: far.events[-1] == "eof")
    far.transport.write(b"answer")
    await until(lambda: bool(near.data))
    still_open = not near.transport.is_closing()
    far.transport.close()
    await until(lambda: near.is_lost and far.is_lost)
    return bytes(far.data), bytes(near.data), still_open, near.transport.can_write_eof()


async def closed_after_its_own_direction(near: End, far: End) -> object:
    far.keep_open = True
    near.transport.write_eof()
    await until(lambda: far.events[-1] == "eof")
    near.transport.write_eof()
    near.transport.close()
    await until(lambda: near.is_lost)
    await asyncio.sleep(0.05)
    return list(far.events), far.transport.is_closing()


async def writing_to_one_who_has_left(near: End, far: End) -> object:
    near.keep_open = True
    far.transport.close()
    await until(lambda: near.events[-1] == "eof")
    while not near.is_lost:
        near.transport.write(b"anybody there?")
        await asyncio.sleep(0.005)
    return isinstance(near.error, ConnectionError), far.error


async def a_defect_of_the_protocol_ends_its_connection(near: End, far: End) -> object:
    loop = asyncio.get_running_loop()
    told: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: told.append(context))
    far.fails = True
    near.transport.write(b"x")
    await until(lambda: near.is_lost and far.is_lost)
    return [context["message"] for context in told], type(far.error)


async def marks_can_be_moved(near: End, far: End) -> object:
    seen: list[object] = [near.transport.get_write_buffer_limits()]
    for marks in ({"high": 1000}, {"low": 300}, {"high": 0}, {"high": 5000, "low": 10}, {}):
        near.transport.set_write_buffer_limits(**marks)
        seen.append(near.transport.get_write_buffer_limits())
    with pytest.raises(ValueError, match="must be >="):
        near.transport.set_write_buffer_limits(high=1, low=2)
    near.transport.set_write_buffer_limits(high=0)
    far.transport.pause_reading()
    while near.events[-1] != "pause":
        near.transport.write(bytes(65_536))
        await asyncio.sleep(0.001)
    far.transport.resume_reading()
    await until(lambda: near.events[-1] == "resume")
    return *seen, near.transport.get_write_buffer_size()


async def several_pieces_at_once(near: End, far: End) -> object:
    near.transport.writelines([b"a", bytearray(b"b"), memoryview(b"c")])
    near.transport.write(b"")
    await until(lambda: len(far.data) == 3)
    with pytest.raises(TypeError, match="bytes-like"):
        near.transport.write("text")  # type: ignore[arg-type]
    return bytes(far.data)


async def another_protocol_takes_over(near: End, far: End) -> object:
    near.transport.write(b"one")
    await until(lambda: bytes(far.data) == b"one")
    other = End()
    other.events.append("given")
    far.transport.set_protocol(other)
    given = far.transport.get_protocol() is other
    near.transport.write(b"two")
    near.transport.close()
    await until(lambda: other.is_lost)
    far.events.append("lost by another")
    return bytes(far.data), bytes(other.data), other.events, given


async def what_is_known_of_the_ends(near: End, far: End) -> object:
    known = near.transport.get_extra_info, far.transport.get_extra_info
    return (
        known[0]("peername") == known[1]("sockname"),
        known[0]("sockname") == known[1]("peername"),
        known[0]("peername") != known[0]("sockname"),
        known[0]("socket").family,
        known[0]("sslcontext"),
        known[0]("no such", 7),
    )


async def what_arrives_does_so_in_the_context_of_its_end(near: End, far: End) -> object:
    SAID_BY.set("near")
    near.transport.write(b"x")
    await until(lambda: bool(far.data))
    return far.heard_from


async def silence_is_measured(near: End, far: End) -> object:
    near.transport.write(b"x")
    await until(lambda: bool(far.data))

    def silent_ms() -> int:
        info = far.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 56)
        return int(struct.unpack("=52xI", info)[0])

    at_once = silent_ms()
    await asyncio.sleep(0.5)
    return at_once < 300, 300 < silent_ms() < 2000


PROGRAMS = [
    echo,
    a_large_body,
    a_reader_that_pauses,
    pausing_twice_and_resuming_twice,
    close_flushes,
    close_comes_later,
    abort_forgets_what_is_not_sent,
    abort_with_unread_data_resets,
    lingering_for_no_time_resets,
    half_closed,
    closed_after_its_own_direction,
    writing_to_one_who_has_left,
    a_defect_of_the_protocol_ends_its_connection,
    marks_can_be_moved,
    several_pieces_at_once,
    another_protocol_takes_over,
    what_is_known_of_the_ends,
    what_arrives_does_so_in_the_context_of_its_end,
    silence_is_measured,
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_a_program_sees_the_same_over_sockets_and_over_memory(program: Program) -> None:
    assert over_memory(program) == over_sockets(program)
