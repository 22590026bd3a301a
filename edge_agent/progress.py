"""Sees every byte that a connection receives, before it makes a whole message; by public hooks alone.

With TLS the hooks see whole records of up to 16 KiB, and not what waits below TLS to be sent: the kernel is asked, too.
"""

import asyncio
import socket
import struct
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import aiohttp


ACKNOWLEDGED_BYTES_MIN = 256  # between two looks: more than heartbeats, which a kernel takes of a peer that hangs, too
_TCP_BYTES = struct.Struct("=120xQQ")  # linux/tcp.h: tcp_info.tcpi_bytes_acked, tcpi_bytes_received


class KernelBytes:
    """What the kernel has seen of a TLS connection go out and come in."""

    def __init__(self) -> None:
        self._acknowledged, self._received = 0, 0

    def moved(self, transport: asyncio.BaseTransport | None) -> bool:
        """Return whether anything came in, or more than heartbeats went out, since the last call."""
        found = _bytes_of(transport)
        if found is None:
            return False
        acknowledged, received = found
        moved = received != self._received or acknowledged - self._acknowledged >= ACKNOWLEDGED_BYTES_MIN
        self._acknowledged, self._received = acknowledged, received
        return moved


def _bytes_of(transport: asyncio.BaseTransport | None) -> tuple[int, int] | None:
    """Return the bytes that the other side's kernel took, and those that came; None: no TLS, or it is closed."""
    if transport is None or transport.get_extra_info("ssl_object") is None:
        return None
    connection = transport.get_extra_info("socket")
    if connection is None or connection.fileno() < 0:
        return None
    acknowledged, received = _TCP_BYTES.unpack(
        connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_BYTES.size)
    )
    return acknowledged, received


class ByteCounter:
    """Counts what arrives on the newest connection of a client session."""

    def __init__(self) -> None:
        self.received_bytes = 0
        self.transport: asyncio.Transport | None = None

    def trace_config(self) -> "aiohttp.TraceConfig":
        """Return what a ClientSession needs so that this counter sees its connections."""
        import aiohttp

        config = aiohttp.TraceConfig()
        config.on_request_end.append(self._connected)
        return config

    async def _connected(
        self, _session: "aiohttp.ClientSession", _context: SimpleNamespace, ended: "aiohttp.TraceRequestEndParams"
    ) -> None:
        """Stand between transport and protocol from now on; an upgraded connection is never used again otherwise."""
        connection = ended.response.connection
        if ended.response.status != 101 or connection is None or connection.transport is None:
            return
        self.transport = connection.transport
        inner = self.transport.get_protocol()
        self.transport.set_protocol(_CountingProtocol(cast("asyncio.Protocol", inner), self))


class _CountingProtocol(asyncio.Protocol):
    """Hands everything on, and counts."""

    def __init__(self, inner: asyncio.Protocol, counter: ByteCounter) -> None:
        self._counter = counter
        self.connection_lost = inner.connection_lost  # type: ignore[method-assign]
        self.pause_writing = inner.pause_writing  # type: ignore[method-assign]
        self.resume_writing = inner.resume_writing  # type: ignore[method-assign]
        self.eof_received = inner.eof_received  # type: ignore[method-assign]
        self._inner_data_received = inner.data_received

    def data_received(self, data: bytes) -> None:
        self._counter.received_bytes += len(data)
        self._inner_data_received(data)
