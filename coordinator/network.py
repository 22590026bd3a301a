"""The network that the service uses: a port to listen on and connections to peers. A simulation brings another."""

from typing import Protocol

import aiohttp
from aiohttp import web

from coordinator.config import Listen
from skerry.errors import ConfigError


class Network(Protocol):
    """What a coordinator needs of the network."""

    async def listen(self, runner: web.AppRunner, listen: Listen) -> int:
        """Serve what `runner` holds; return the port.

        Raises:
            ConfigError: the address cannot be used.
        """

    def connector(self) -> aiohttp.BaseConnector:
        """Return what an HTTP client connects with. Called inside the running loop."""


class Sockets:
    """The real one."""

    async def listen(self, runner: web.AppRunner, listen: Listen) -> int:
        """Serve on a TCP port."""
        try:
            await web.TCPSite(runner, listen.host, listen.port, backlog=1024).start()
        except OSError as error:
            raise ConfigError(
                f"listen: {listen.host}:{listen.port} cannot be used: {error.strerror or error}; "
                "choose another port, or stop what holds it"
            ) from error
        port = runner.addresses[0][1]
        assert isinstance(port, int)
        return port

    def connector(self) -> aiohttp.BaseConnector:
        """Connect by TCP."""
        return aiohttp.TCPConnector(limit=0)
