"""Clients that keep a stream up through every fault the network knows, over seeds. A failure repeats from its seed.

Safety: what comes back is what was sent, in order, and nothing fails that nobody catches. Liveness: once the faults
stop, every client gets an answer soon.
"""

import asyncio
import random
from typing import Any

import aiohttp
import pytest

from testbed.simulation.path import Path
from tests.simulation.test_connector import World, in_world

CLIENTS = 8
STORM_S, CALM_S = 300.0, 200.0  # TCP repeats after a long partition come up to two minutes apart
PATIENCE_S = 30.0


class Client:
    """Sends numbered messages and expects them back, one stream after the other."""

    def __init__(self, world: World, number: int, seed: int) -> None:
        self._world, self.name = world, f"client-{number}"
        self._rng = random.Random(f"{seed}/{number}")
        self.answered_at_s = 0.0
        self.streams = 0
        world.network.add_host(self.name, self._rng.uniform(5e4, 1e6), self._rng.uniform(1e5, 1e6))
        for pair in ((self.name, "eu"), ("eu", self.name)):
            latency_s = self._rng.uniform(0.0, 0.3)
            world.network.set_path(*pair, Path(latency_s, 0.05, self._rng.choice((0.0, 0.1)), 60.0))

    async def run(self) -> None:
        async with self._world.session(self.name) as session:
            while True:
                try:
                    async with asyncio.timeout(PATIENCE_S) as patience, session.ws_connect("/stream") as stream:
                        self.streams += 1
                        await self._talk(stream, patience)
                except (aiohttp.ClientError, OSError, TimeoutError):
                    await asyncio.sleep(self._rng.uniform(0.0, 2.0))

    async def _talk(self, stream: aiohttp.ClientWebSocketResponse[Any], patience: asyncio.Timeout) -> None:
        while not stream.closed:
            sent = [self._rng.randbytes(self._rng.choice((1, 100, 30_000))) for _ in range(3)]
            for message in sent:
                await stream.send_bytes(message)
            for message in sent:
                answer = await stream.receive()
                if answer.type is not aiohttp.WSMsgType.BINARY:
                    return
                assert answer.data == message
            self.answered_at_s = self._world.now_s
            patience.reschedule(self._world.now_s + PATIENCE_S)
            await asyncio.sleep(self._rng.uniform(0.0, 3.0))


async def storm(world: World, clients: list[Client], seed: int) -> None:
    """Let one fault after the other happen, and end all of them."""
    rng, network, names = random.Random(f"{seed}/storm"), world.network, [client.name for client in clients]
    while world.now_s < STORM_S:
        await asyncio.sleep(rng.uniform(0.0, 5.0))
        some = rng.sample(names, rng.randint(1, len(names)))
        match rng.randrange(8):
            case 0:
                network.partition(some, "eu", one_way=rng.random() < 0.3)
            case 1:
                network.partition("eu", some, one_way=True)
            case 2:
                network.stall(some, "eu")
            case 3:
                network.reset(some[0])
            case 4:
                network.kill("eu")
                await world.runner.cleanup()
                await asyncio.sleep(rng.uniform(0.0, 5.0))
                await world.serve()
            case 5:
                network.power_off("eu")
                await world.runner.cleanup()
                await asyncio.sleep(rng.uniform(0.0, 60.0))
                network.power_on("eu")
                await world.serve()
            case _:
                network.heal(some)
    network.heal()


def weather(seed: int) -> tuple[str, list[int]]:
    """Run it; return the digest of the traffic, and how many streams each client had."""

    async def program(world: World) -> tuple[str, list[int]]:
        uncaught: list[dict[str, Any]] = []
        world.loop.set_exception_handler(lambda _, context: uncaught.append(context))
        clients = [Client(world, number, seed) for number in range(CLIENTS)]
        running = [asyncio.create_task(client.run()) for client in clients]
        await storm(world, clients, seed)
        calm_s = world.now_s
        await asyncio.sleep(CALM_S)
        for task in running:
            assert not task.done(), task
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await asyncio.sleep(300.0)
        assert uncaught == []
        assert all(client.answered_at_s > calm_s for client in clients)
        assert not any(world.network.host(client.name).connections for client in clients)
        assert not world.network.host("eu").connections
        return world.network.digest, [client.streams for client in clients]

    found: tuple[str, list[int]] = in_world(program, seed)
    return found


@pytest.mark.parametrize("seed", range(10))
def test_streams_live_through_a_storm(seed: int) -> None:
    _, streams = weather(seed)
    assert min(streams) > 2


def test_a_storm_repeats_from_its_seed() -> None:
    assert weather(100) == weather(100) != weather(101)
