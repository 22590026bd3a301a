"""The simulated network as aiohttp sees it: what clients connect with, and what servers listen on."""

import asyncio
import socket
import ssl
from collections.abc import Iterator, MutableSet
from contextvars import copy_context
from typing import Any

import aiohttp
from aiohttp import ClientConnectorDNSError, ClientConnectorError, ClientRequest, ClientTimeout, web
from aiohttp.client_proto import ResponseHandler
from aiohttp.helpers import ceil_timeout
from aiohttp.tracing import Trace

from coordinator.config import Listen
from coordinator.network import Trouble
from skerry.errors import ConfigError
from testbed.simulation.connection import Connection
from testbed.simulation.host import Listener
from testbed.simulation.network import SimulatedNetwork
from testbed.simulation.transport import SimulatedTransport


class _InOrder(MutableSet[Any]):
    """A set whose order is that of its insertions: aiohttp closes connections in the order of a set."""

    def __init__(self) -> None:
        self._items: dict[Any, None] = {}

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def add(self, value: Any) -> None:
        self._items[value] = None

    def discard(self, value: Any) -> None:
        self._items.pop(value, None)


class Connector(aiohttp.BaseConnector):
    """Connects the clients of one host. Make it inside the running loop."""

    def __init__(self, network: SimulatedNetwork, host: str, *, limit: int = 100, round_trips: int = 1) -> None:
        """`limit`: connections at a time, 0 for any number. `round_trips`: what it takes to connect; TCP: 1."""
        super().__init__(limit=limit)
        self._acquired = _InOrder()  # type: ignore[assignment]
        self._network, self._host, self._round_trips = network, host, round_trips

    async def _create_connection(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: ClientTimeout,  # noqa: ASYNC109 - aiohttp's
    ) -> ResponseHandler:
        """Connect as a TCPConnector does, with its errors."""
        if req.is_ssl():
            raise NotImplementedError(f"{req.url}: there is no TLS in the simulation; use http")
        host, port = req.url.host, req.url.port
        assert host is not None
        assert port is not None
        try:
            self._network.host(host)
        except socket.gaierror as error:
            raise ClientConnectorDNSError(req.connection_key, error) from error
        try:
            async with ceil_timeout(timeout.sock_connect, ceil_threshold=timeout.ceil_threshold):
                return await self._connect(host, port)
        except OSError as error:
            if error.errno is None and isinstance(error, TimeoutError):
                raise
            raise ClientConnectorError(req.connection_key, error) from error

    async def _connect(self, host: str, port: int) -> ResponseHandler:
        answer: asyncio.Future[ResponseHandler] = self._loop.create_future()

        def established(connection: Connection) -> None:
            protocol = ResponseHandler(loop=self._loop)
            SimulatedTransport(self._loop, protocol, connection, at_client=True)
            if answer.done():  # whoever waited has been cancelled
                protocol.abort()
            else:
                answer.set_result(protocol)

        def failed(error: OSError) -> None:
            if not answer.done():
                answer.set_exception(error)

        attempt = self._network.connect(self._host, host, port, established, failed, self._round_trips)
        try:
            return await answer
        except asyncio.CancelledError:
            attempt.cancel()
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                answer.result().abort()
            raise


class _Site(web.BaseSite):
    """Makes a runner serve on the simulated network."""

    def __init__(self, runner: web.AppRunner, network: SimulatedNetwork, host: str, listen: Listen) -> None:
        super().__init__(runner)
        self._network, self._host, self._listen = network, host, listen
        self._listener: Listener | None = None

    @property
    def name(self) -> str:
        return f"http://{self._host}:{self.port}"

    @property
    def port(self) -> int:
        return self._listen.port if self._listener is None else self._listener.port

    async def start(self) -> None:
        await super().start()
        server = self._runner.server
        assert server is not None
        loop = asyncio.get_running_loop()

        context = copy_context()  # of the server: so are the tasks that a connection starts there

        def accept(connection: Connection) -> None:
            context.run(SimulatedTransport, loop, server(), connection, at_client=False)

        host = self._network.host(self._host)
        self._listener = host.listen(self._listen.host, self._listen.port, accept)

    async def stop(self) -> None:
        if self._listener is not None:
            self._listener.close()
        await super().stop()


class ServerNetwork:
    """A coordinator's network, on one host of the simulated one; see `coordinator.network.Network`."""

    def __init__(self, network: SimulatedNetwork, host: str) -> None:
        self._network, self._host = network, host

    async def listen(self, runner: web.AppRunner, listen: Listen, context: ssl.SSLContext | None) -> int:
        """Serve on a port of the host, in plain http; `listen.host` is its name or its address.

        Raises:
            ConfigError: the address cannot be used.
        """
        assert context is None, "TLS is not modelled"
        site = _Site(runner, self._network, self._host, listen)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(
                f"listen: {listen.host}:{listen.port} cannot be used: {error.strerror or error}"
            ) from error
        return site.port

    def make_room(self, connections_max: int) -> None:
        """Do nothing: a simulated port takes every connection."""

    def connector(self, context: ssl.SSLContext | None, trouble: Trouble) -> aiohttp.BaseConnector:
        """Connect from the host, in plain http, with as many connections at a time as are asked for."""
        assert context is None, "TLS is not modelled"
        return Connector(self._network, self._host, limit=0)
