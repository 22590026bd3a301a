"""Sees every byte that a connection receives, before it makes a whole message; by public hooks alone."""

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import aiohttp


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
