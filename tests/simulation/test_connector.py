"""aiohttp, client and server, over the simulated network: what its users see is what they see on a real one."""

import asyncio
import contextlib
import hashlib
import io
import itertools
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from coordinator.config import Listen
from skerry.errors import ConfigError
from testbed.simulation.connector import Connector, ServerNetwork
from testbed.simulation.loop import run
from testbed.simulation.network import SimulatedNetwork
from testbed.simulation.path import Path

LATENCY_S = 0.05
SENTENCE = b"the quick brown fox "


class World:
    """A server `eu`, and a client `d1` far from it."""

    def __init__(self, seed: int = 1) -> None:
        self.loop = asyncio.get_running_loop()
        self.network = SimulatedNetwork(seed, self.loop, Path(LATENCY_S))
        self.network.add_host("eu")
        self.network.add_host("d1", up_bytes_per_s=1e6, down_bytes_per_s=2e6)
        self.runner: web.AppRunner
        self.ended: list[str] = []  # of the server's streams: how

    @property
    def now_s(self) -> float:
        return self.loop.time()

    async def serve(self) -> None:
        application = web.Application(client_max_size=1 << 30)
        application.router.add_get("/hello", self._hello)
        application.router.add_post("/digest", self._digest)
        application.router.add_get("/stream", self._stream)
        application.router.add_post("/slow", self._slow)
        application.router.add_get("/large", self._large)
        runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            assert await ServerNetwork(self.network, "eu").listen(runner, Listen("eu", 8470), None) == 8470
        except ConfigError:
            await runner.cleanup()
            raise
        self.runner = runner

    async def _hello(self, request: web.Request) -> web.Response:
        return web.Response(text=f"hello {request.remote}")

    async def _digest(self, request: web.Request) -> web.Response:
        hashed = hashlib.sha256()
        async for chunk in request.content.iter_any():
            hashed.update(chunk)
        return web.Response(text=hashed.hexdigest())

    async def _stream(self, request: web.Request) -> web.WebSocketResponse:
        stream = web.WebSocketResponse(compress=False, max_msg_size=1 << 24)
        with contextlib.suppress(ConnectionError):  # the other side has gone: an everyday event
            await stream.prepare(request)
            async for message in stream:
                await stream.send_bytes(message.data)
        self.ended.append(f"{stream.close_code} {type(stream.exception()).__name__}")
        return stream

    async def _slow(self, request: web.Request) -> web.Response:
        await asyncio.sleep(100.0)
        return web.Response()

    async def _large(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for _ in range(100):
            await response.write(bytes(20_000))
        return response

    def session(self, host: str = "d1", **more: Any) -> aiohttp.ClientSession:
        return aiohttp.ClientSession("http://eu:8470", connector=Connector(self.network, host), **more)


def in_world(program: Callable[[World], Coroutine[Any, Any, Any]], seed: int = 1) -> Any:
    """Run `program` with a server that serves."""

    async def main() -> Any:
        world = World(seed)
        await world.serve()
        try:
            return await program(world)
        finally:
            await world.runner.cleanup()

    return run(main(), seed=seed)


def test_a_request_takes_a_round_trip_and_another_to_connect() -> None:
    async def program(world: World) -> None:
        async with world.session() as session:
            async with session.get("/hello") as response:
                assert await response.text() == f"hello {world.network.address('d1')}"
            assert world.now_s == pytest.approx(4 * LATENCY_S, abs=1e-3)
            async with session.get("/hello") as response:  # on the same connection
                assert response.status == 200
            assert world.now_s == pytest.approx(6 * LATENCY_S, abs=1e-3)

    in_world(program)


def test_an_idle_connection_expires_in_virtual_time() -> None:
    async def program(world: World) -> None:
        async with world.session() as session:
            for wait_s, more_s in ((10.0, 2 * LATENCY_S), (16.0, 4 * LATENCY_S)):  # aiohttp keeps one for 15 s
                async with session.get("/hello") as response:
                    await response.read()
                await asyncio.sleep(wait_s)
                began_s = world.now_s
                async with session.get("/hello") as response:
                    await response.read()
                assert world.now_s - began_s == pytest.approx(more_s, abs=1e-3)

    in_world(program)


def test_a_large_body_takes_the_time_that_the_link_needs() -> None:
    body = os.urandom(3_000_000)

    async def program(world: World) -> None:
        async with world.session() as session, session.post("/digest", data=io.BytesIO(body)) as response:
            assert await response.text() == hashlib.sha256(body).hexdigest()
        assert 3.0 < world.now_s < 4.0  # at 1 MB/s

    in_world(program)


def test_a_streamed_body_is_asked_for_as_fast_as_the_link_takes_it() -> None:
    async def program(world: World) -> list[float]:
        asked_s: list[float] = []

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(40):
                asked_s.append(world.now_s)
                yield bytes(100_000)

        async with world.session() as session, session.post("/digest", data=chunks()) as response:
            assert await response.text() == hashlib.sha256(bytes(4_000_000)).hexdigest()
        return asked_s

    asked_s = in_world(program)
    assert asked_s[-1] > 3.4  # of the four seconds that all of it takes: at most some buffers ahead
    assert max(later - sooner for sooner, later in itertools.pairwise(asked_s)) < 0.5


def test_a_chunked_answer_arrives_at_the_rate_of_the_way_down() -> None:
    async def program(world: World) -> None:
        async with world.session() as session, session.get("/large") as response:
            assert await response.read() == bytes(2_000_000)
        assert 1.0 < world.now_s < 2.0  # at 2 MB/s

    in_world(program)


def test_a_websocket_carries_messages_both_ways_and_says_goodbye() -> None:
    async def program(world: World) -> None:
        async with world.session() as session, session.ws_connect("/stream", max_msg_size=1 << 24) as stream:
            for size in (0, 1, 6, 7, 3276, 3277, 50_000):
                await stream.send_bytes(SENTENCE * size)
                assert await stream.receive_bytes() == SENTENCE * size
        await asyncio.sleep(1.0)
        assert world.ended == ["1000 NoneType"]

    in_world(program)


def test_a_client_gives_up_on_time() -> None:
    async def program(world: World) -> None:
        async with world.session(timeout=aiohttp.ClientTimeout(total=3.0)) as session:
            with pytest.raises(TimeoutError):
                await session.post("/slow")
        assert world.now_s == pytest.approx(3.0)

    in_world(program)


def test_a_port_on_which_nobody_listens_refuses_after_a_round_trip() -> None:
    async def program(world: World) -> None:
        async with world.session() as session:
            with pytest.raises(aiohttp.ClientConnectorError) as caught:
                await session.get("http://eu:1/hello")
        assert isinstance(caught.value.os_error, ConnectionRefusedError)
        assert caught.value.errno == 111
        assert world.now_s == pytest.approx(2 * LATENCY_S)

    in_world(program)


def test_an_unknown_name_does_not_resolve() -> None:
    async def program(world: World) -> None:
        async with world.session() as session:
            with pytest.raises(aiohttp.ClientConnectorDNSError, match="Name or service not known"):
                await session.get("http://elsewhere:8470/hello")

    in_world(program)


def test_tls_is_refused_with_a_reason() -> None:
    async def program(world: World) -> None:
        async with world.session() as session:
            with pytest.raises(NotImplementedError, match="no TLS in the simulation"):
                await session.get("https://eu:8470/hello")

    in_world(program)


def test_an_address_reaches_the_host_as_its_name_does() -> None:
    async def program(world: World) -> int:
        url = f"http://{world.network.address('eu')}:8470/hello"
        async with world.session() as session, session.get(url) as response:
            return response.status

    assert in_world(program) == 200


def test_a_port_can_be_used_once_and_again_after_a_stop() -> None:
    async def program(world: World) -> None:
        with pytest.raises(ConfigError, match="eu:8470 cannot be used: address already in use"):
            await world.serve()
        with pytest.raises(ConfigError, match=r"host eu has the address 127\.1\.0\.1, not 127\.0\.0\.1"):
            await ServerNetwork(world.network, "eu").listen(world.runner, Listen("127.0.0.1", 1), None)
        async with world.session() as session:
            async with session.get("/hello") as response:
                assert response.status == 200
            await world.runner.cleanup()
            with pytest.raises(aiohttp.ClientError):
                await session.get("/hello")
            await world.serve()
            async with session.get("/hello") as response:
                assert response.status == 200

    in_world(program)


def test_free_ports_are_given_out() -> None:
    async def program(world: World) -> set[int]:
        network = ServerNetwork(world.network, "eu")
        return {await network.listen(world.runner, Listen(world.network.address("eu"), 0), None) for _ in range(5)}

    assert len(in_world(program)) == 5


TRAFFIC = """
import asyncio, sys
from tests.simulation.test_connector import World, in_world
from testbed.simulation.path import Path

async def program(world):
    async def agent(number):
        name = f"agent-{number}"
        world.network.add_host(name, 1e5, 1e6)
        for pair in ((name, "eu"), ("eu", name)):
            world.network.set_path(*pair, Path(0.02 * number, 0.01, 0.05))
        async with world.session(name) as session:
            async with session.ws_connect("/stream") as stream:
                for size in range(30):
                    await stream.send_bytes(bytes(size ** 3))
                    assert await stream.receive_bytes() == bytes(size ** 3)
            async with session.post("/digest", data=bytes(50_000)) as response:
                await response.text()
    async with asyncio.TaskGroup() as agents:
        for number in range(5):
            agents.create_task(agent(number))
    async with world.session() as session:  # closes its connections in one go
        await asyncio.gather(*(session.ws_connect("/stream") for _ in range(20)))
    await asyncio.sleep(1.0)
    return world.network.digest, world.network.arrivals, world.now_s

print(in_world(program, seed=int(sys.argv[1])))
"""


def traffic(seed: int, hash_seed: str) -> str:
    """What a process of its own, with other memory addresses and string hashes, sees of the same world."""
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", TRAFFIC, str(seed)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def test_one_seed_gives_the_same_traffic_to_the_last_bit_in_every_process_and_another_seed_does_not() -> None:
    once = traffic(1, "0")
    assert once == traffic(1, "4711")
    assert once != traffic(2, "0")
    assert len(once.split("'")[1]) == 32
