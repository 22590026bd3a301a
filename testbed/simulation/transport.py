"""What asyncio's protocols write to: one end of a simulated connection, with the manners of a TCP socket."""

import asyncio
import logging
import socket
import struct
from collections.abc import Iterable
from contextvars import copy_context
from typing import Any

from testbed.simulation.connection import Connection
from testbed.simulation.flow import Flow

HIGH_BYTES, LOW_BYTES = 64 << 10, 16 << 10  # asyncio's own: writing is paused above, resumed at or below
IGNORED_WRITES_MAX = 5  # after the end of a connection; then each is warned of
_LINGER = struct.Struct("ii")
_TCP_INFO_LAST_DATA_RECEIVED = struct.Struct("=52xI")  # linux/tcp.h: milliseconds since the last bytes came

log = logging.getLogger(__name__)


class SimulatedSocket:
    """The options of a socket that production code looks at or sets."""

    __slots__ = ("_clock", "_into", "_out", "resets")

    family = socket.AF_INET
    type = socket.SOCK_STREAM

    def __init__(self, clock: asyncio.AbstractEventLoop, out: Flow, into: Flow) -> None:
        self._clock, self._out, self._into = clock, out, into
        self.resets = False  # closing it resets the connection

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        """Set TCP_NOTSENT_LOWAT or SO_LINGER; others make no difference here."""
        if (level, option) == (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) and isinstance(value, int):
            self._out.unsent_bytes_max = value
        elif (level, option) == (socket.SOL_SOCKET, socket.SO_LINGER) and isinstance(value, bytes):
            self.resets = _LINGER.unpack(value) == (1, 0)

    def getsockopt(self, level: int, option: int, size: int = 0) -> int | bytes:
        """Return TCP_INFO, as far as the time since the last bytes came.

        Raises:
            OSError: any other option.
        """
        if (level, option) == (socket.IPPROTO_TCP, socket.TCP_INFO):
            silent_ms = int(1000.0 * (self._clock.time() - self._into.heard_at_s))
            return _TCP_INFO_LAST_DATA_RECEIVED.pack(min(silent_ms, 2**32 - 1))[:size]
        raise OSError(f"getsockopt({level}, {option}): not simulated")


class SimulatedTransport(asyncio.Transport):
    """See the module. Its events come in the order in which a real one's come."""

    __slots__ = (
        *("_connection", "_context", "_into", "_loop", "_out", "_peername", "_protocol", "_socket", "_sockname"),
        *("_closing", "_eof", "_high", "_ignored_writes", "_low", "_over", "_paused", "_writing_paused"),
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol: asyncio.Protocol,
        connection: Connection,
        *,
        at_client: bool,
    ) -> None:
        """Join `protocol` to one end of `connection`, and tell it so."""
        self._loop, self._protocol, self._connection = loop, protocol, connection
        self._context = copy_context()  # of this end: what arrives was sent in the other's
        there, back = connection.flows
        self._out, self._into = (there, back) if at_client else (back, there)
        near = (connection.client.address, connection.client_port)
        far = (connection.server.address, connection.port)
        self._sockname, self._peername = (near, far) if at_client else (far, near)
        self._socket = SimulatedSocket(loop, self._out, self._into)
        self._high, self._low = HIGH_BYTES, LOW_BYTES
        self._closing = self._eof = self._over = self._paused = self._writing_paused = False
        self._ignored_writes = 0
        self._out.writer = self._into.reader = self
        protocol.connection_made(self)

    # --- asyncio.Transport ---

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return `peername`, `sockname` or `socket`; `default` for everything else."""
        match name:
            case "peername":
                return self._peername
            case "sockname":
                return self._sockname
            case "socket":
                return self._socket
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give another protocol what comes from now on."""
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the present one."""
        return self._protocol

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""
        return self._closing

    def is_reading(self) -> bool:
        """Whether the protocol gets what arrives."""
        return not (self._closing or self._paused)

    def pause_reading(self) -> None:
        """Leave what arrives in the kernel, which takes only so much."""
        if self.is_reading():
            self._paused = True
            self._into.pause()

    def resume_reading(self) -> None:
        """Read again, from the next turn of the loop on."""
        if self._paused and not self._closing:
            self._paused = False
            self._loop.call_soon(self._read_again)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data`; what the kernel does not take is kept."""
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if not data:
            return
        if self._over:
            self._ignored_writes += 1
            if self._ignored_writes > IGNORED_WRITES_MAX:
                log.warning("socket.send() raised exception.")
            return
        self._out.write(bytes(data))
        self._pause_writing_if_full()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send all of them."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """Return True."""
        return True

    def write_eof(self) -> None:
        """Close this direction behind what was written."""
        if not (self._closing or self._eof):
            self._eof = True
            self._out.end()

    def close(self) -> None:
        """Close when all that was written is with the kernel."""
        if self._closing:
            return
        self._closing = True
        self._into.pause()
        if not self._out.backlog_bytes:
            self._over = True
            self._loop.call_soon(self._end, None)

    def abort(self) -> None:
        """Close at once; what is not with the kernel is forgotten."""
        self._force_close(None)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the marks between which writing is paused and resumed, in bytes."""
        if high is None:
            high = HIGH_BYTES if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high, self._low = high, low
        self._pause_writing_if_full()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the low mark and the high one, in bytes."""
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        """Return the bytes that the kernel has not taken."""
        return self._out.backlog_bytes

    # --- flow.End ---

    def data_arrived(self, data: bytes) -> None:
        """Hand it to the protocol."""
        try:
            self._context.run(self._protocol.data_received, data)
        except Exception as error:  # a protocol's defect ends its own connection, as with a real one
            self._fail(error, "Fatal error: protocol.data_received() call failed.")

    def end_arrived(self) -> None:
        """Ask the protocol whether it goes on writing."""
        try:
            keep_open = self._context.run(self._protocol.eof_received)
        except Exception as error:
            self._fail(error, "Fatal error: protocol.eof_received() call failed.")
            return
        if not keep_open:
            self.close()

    def connection_reset(self, error: OSError) -> None:
        """End at once."""
        self._force_close(error)

    def room_made(self) -> None:
        """Let the protocol write again; close, if that waited for it."""
        if self._over:
            return
        backlog_bytes = self._out.backlog_bytes
        if self._writing_paused and backlog_bytes <= self._low:
            self._writing_paused = False
            self._protocol.resume_writing()
        if self._closing and not backlog_bytes and not self._over:
            self._over = True
            self._end(None)

    # --- inside ---

    def _read_again(self) -> None:
        if self.is_reading():
            self._into.resume()

    def _pause_writing_if_full(self) -> None:
        if not self._writing_paused and self._out.backlog_bytes > self._high:
            self._writing_paused = True
            self._protocol.pause_writing()

    def _fail(self, error: Exception, message: str) -> None:
        context = {"message": message, "exception": error, "transport": self, "protocol": self._protocol}
        self._loop.call_exception_handler(context)
        self._force_close(error)

    def _force_close(self, error: Exception | None) -> None:
        if self._over:
            return
        self._out.drop_backlog()
        if not self._closing:
            self._closing = True
            self._into.pause()
        self._over = True
        self._loop.call_soon(self._end, error)

    def _end(self, error: Exception | None) -> None:
        """Tell the protocol, and close the socket."""
        try:
            self._protocol.connection_lost(error)
        finally:
            if self._socket.resets:
                self._out.abort(tell=True)
            else:
                self._out.end()
            self._into.leave()
            self._connection.end_left()
