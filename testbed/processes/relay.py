"""A TCP relay that makes loopback behave like a link, and like a broken one. Works everywhere, without root.

The shell around `link`: it moves bytes between sockets at the times that `link` says.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from enum import Enum, auto

from testbed.processes.link import END, Link, Pipe, Wire

READ_BYTES = 8 << 10  # small against the queue, so that connections that share a wire take turns

Address = tuple[str, int]
Target = Callable[[], Address | None]  # asked for each connection, so that a restarted service is found again


class _Mode(Enum):
    OPEN = auto()
    CUT = auto()


class _Flow:
    """One direction of one connection: a pipe, and the two tasks that fill and empty it."""

    def __init__(self, wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._pipe = Pipe(wire)
        self._reader = reader
        self._writer = writer
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Carry bytes until the sender has closed and everything is delivered."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._fill())
            tasks.create_task(self._empty())

    def stall(self) -> None:
        """Look at the wire's state again; call after it was stalled."""
        self._changed.set()

    def resume(self) -> None:
        """Go on after a stall."""
        self._pipe.resume(asyncio.get_running_loop().time())
        self._changed.set()

    async def _fill(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            data = await self._reader.read(READ_BYTES)
            self._pipe.push(data, loop.time())
            self._changed.set()
            if data == END:
                return
            while not self._pipe.has_room:
                await self._wait(None)

    async def _empty(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            arrived = self._pipe.pull(loop.time())
            if arrived:
                self._changed.set()  # there is room again
            for data in arrived:
                if data == END:
                    with contextlib.suppress(OSError):  # the receiver has gone already: nobody to tell
                        self._writer.write_eof()
                    return
                if self._writer.transport.is_closing():
                    raise ConnectionResetError("the receiver has gone")
                self._writer.write(data)
            await self._writer.drain()
            await self._wait(self._pipe.wake_at_s)

    async def _wait(self, until_s: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until_s):
                await self._changed.wait()
        self._changed.clear()


class Relay:
    """Listens on a free port of loopback and carries each connection over `link` to `target`.

    Connections come in at the link's end a and leave at its end b; with `reverse`, the other way round.
    """

    def __init__(self, link: Link, target: Target, *, reverse: bool = False) -> None:
        self._link = link
        self._target = target
        self._out = link.b_to_a if reverse else link.a_to_b
        self._back = link.a_to_b if reverse else link.b_to_a
        self._mode = _Mode.OPEN
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], list[_Flow]] = {}
        self._writers: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._resets: asyncio.Task[None] | None = None
        self.connections_made = 0

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    @property
    def port(self) -> int:
        """Where it listens; only after `start`."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Reset every connection and stop listening."""
        self.reset_every(None)
        if self._server is not None:
            self._server.close()
        self.reset()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def cut(self) -> None:
        """Reset every connection and refuse new ones until `resume`."""
        self._mode = _Mode.CUT
        self.reset()

    def stall(self) -> None:
        """Keep connections open but carry nothing until `resume`: what a peer sees of a hung network."""
        self._link.set_stalled(True)
        for flow in self._flows():
            flow.stall()

    def resume(self) -> None:
        """End a cut or a stall."""
        self._mode = _Mode.OPEN
        self._link.set_stalled(False)
        for flow in self._flows():
            flow.resume()

    def reset(self) -> None:
        """Reset every present connection; bytes on their way are lost."""
        for task, writers in self._writers.items():
            for writer in writers:
                _reset(writer)
            task.cancel()

    def reset_every(self, period_s: float | None) -> None:
        """Reset every connection each `period_s`; None: no longer."""
        if self._resets is not None:
            self._resets.cancel()
            self._resets = None
        if period_s is not None:
            self._resets = asyncio.get_running_loop().create_task(self._keep_resetting(period_s))

    async def _keep_resetting(self, period_s: float) -> None:
        while True:
            await asyncio.sleep(period_s)
            self.reset()

    def _flows(self) -> list[_Flow]:
        return [flow for flows in self._connections.values() for flow in flows]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode is _Mode.CUT:
            _reset(writer)
            return
        task = asyncio.current_task()
        assert task is not None
        self.connections_made += 1
        self._connections[task] = []
        self._writers[task] = [writer]
        try:
            await self._carry(task, reader, writer)
        except* OSError:
            for opened in self._writers[task]:  # either end has gone: the other is told, as on a real path
                _reset(opened)
        finally:
            for opened in self._writers.pop(task):
                opened.close()  # after both ends have closed: nothing is left to deliver
            del self._connections[task]

    async def _carry(
        self, task: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        address = self._target()
        if address is None:
            raise ConnectionRefusedError("nobody listens there")
        await asyncio.sleep(self._link.round_trip_s)  # the handshake would have to cross the link first
        far_reader, far_writer = await asyncio.open_connection(*address)
        self._writers[task].append(far_writer)
        flows = [_Flow(self._out, reader, far_writer), _Flow(self._back, far_reader, writer)]
        self._connections[task] = flows
        async with asyncio.TaskGroup() as tasks:
            for flow in flows:
                tasks.create_task(flow.run())


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a TCP reset, so that the other end learns at once; harmless on what is closed already."""
    connection = writer.get_extra_info("socket")
    if connection is not None and not writer.transport.is_closing():
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
