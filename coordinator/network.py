"""The network that the service uses: a port to listen on and connections to peers. A simulation brings another."""

import asyncio
import contextlib
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Protocol

import aiohttp
from aiohttp import web
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

from coordinator.admission import Admission
from coordinator.config import Limits, Listen
from coordinator.listener import BACKLOG, Listener
from skerry.errors import ConfigError

Trouble = Callable[[URL, bytes], str | None]  # of a server at that origin with that certificate; None: there is none

HANDSHAKE_S = 10.0
GOODBYE_S = 2.0  # for TLS's own
LOOKS_PER_TIMEOUT = 4  # after silent connections
UNLIMITED = 10**9
SPARE_CONNECTIONS = 1000  # beyond those of agents' streams: whoever finds no place there is told so


class Network(Protocol):
    """What a coordinator needs of the network."""

    async def listen(self, runner: web.AppRunner, listen: Listen, context: ssl.SSLContext | None) -> int:
        """Serve what `runner` holds, with TLS where there is a `context`; return the port.

        Raises:
            ConfigError: the address cannot be used.
        """

    def make_room(self, connections_max: int) -> None:
        """Take another limit of agents' streams than the one of the start; connections that stand stay."""

    def connector(self, context: ssl.SSLContext | None, trouble: Trouble) -> aiohttp.BaseConnector:
        """Return what an HTTP client connects with, by TLS to https. Called inside the running loop.

        `trouble` is asked about every server that has shown a certificate, before anything is sent there.
        """


class Sockets:
    """The real one."""

    def __init__(self, limits: Limits, refused: Counter[str]) -> None:
        """`refused` counts connections that were turned away or cut, by reason."""
        self._limits, self._refused = limits, refused
        self._admissions: list[Admission] = []  # of the ports that were opened

    async def listen(self, runner: web.AppRunner, listen: Listen, context: ssl.SSLContext | None) -> int:
        """Serve on a TCP port, at every address that `listen.host` has."""
        loop = asyncio.get_running_loop()
        admission = self._admission(limited=context is not None)
        self._admissions.append(admission)
        try:
            infos = await loop.getaddrinfo(
                listen.host or None, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            for family, _, _, _, address in dict.fromkeys(infos):
                listener = Listener(family, admission, loop.time, self._refused)
                try:
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    if family == socket.AF_INET6:
                        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    listener.bind(address)
                    await _Site(runner, listener, context, self._limits.progress_timeout_s).start()
                except BaseException:
                    listener.close()
                    raise
        except OSError as error:
            raise ConfigError(
                f"listen: {listen.host}:{listen.port} cannot be used: {error.strerror or error}; "
                "choose another port, or stop what holds it"
            ) from error
        port = runner.addresses[0][1]
        assert isinstance(port, int)
        return port

    def make_room(self, connections_max: int) -> None:
        """Let so many connections in, and those to spare."""
        for admission in self._admissions:
            admission.connections_max = connections_max + SPARE_CONNECTIONS

    def connector(self, context: ssl.SSLContext | None, trouble: Trouble) -> aiohttp.BaseConnector:
        """Connect by TCP."""
        return _Connector(context, trouble)

    def _admission(self, *, limited: bool) -> Admission:
        """Return the rules for one port; in a lab without TLS all come from one address, and cost little."""
        limits = self._limits
        return Admission(
            connections_max=limits.connections_max + SPARE_CONNECTIONS,
            per_address_max=limits.connections_per_address_max if limited else UNLIMITED,
            rate_per_s=limits.connections_per_s_max if limited else UNLIMITED,
            rate_per_address_per_s=limits.connections_per_address_per_s_max if limited else UNLIMITED,
        )


class _Connector(aiohttp.TCPConnector):
    """Connects by TCP, and looks at whom it has reached."""

    def __init__(self, context: ssl.SSLContext | None, trouble: Trouble) -> None:
        super().__init__(limit=0, ssl=True if context is None else context)
        self._trouble = trouble

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109
    ) -> Connection:
        """Return a connection to a server that is the one it should be."""
        connection = await super().connect(req, traces, timeout)
        tls = None if connection.transport is None else connection.transport.get_extra_info("ssl_object")
        if tls is not None:
            trouble = self._trouble(req.url.origin(), tls.getpeercert(binary_form=True))
            if trouble is not None:
                connection.close()
                raise aiohttp.ClientConnectionError(trouble)
        return connection


class _Site(web.SockSite):
    """Serves on a listener, and ends connections that keep silent."""

    def __init__(
        self, runner: web.AppRunner, listener: Listener, context: ssl.SSLContext | None, silence_s: float
    ) -> None:
        super().__init__(runner, listener, ssl_context=context, backlog=BACKLOG)
        self._listener, self._silence_s = listener, silence_s
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to listen."""
        await web.BaseSite.start(self)
        server = self._runner.server
        assert server is not None
        self._server = await asyncio.get_running_loop().create_server(
            server,
            sock=self._listener,
            ssl=self._ssl_context,
            backlog=BACKLOG,
            ssl_handshake_timeout=HANDSHAKE_S if self._ssl_context else None,
            ssl_shutdown_timeout=GOODBYE_S if self._ssl_context else None,
        )
        self._watching = asyncio.create_task(self._watch(), name="silent connections")

    async def stop(self) -> None:
        """Listen no more; connections that there are go on."""
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
        await super().stop()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._silence_s / LOOKS_PER_TIMEOUT)
            await self._listener.cut_silent(self._silence_s)
