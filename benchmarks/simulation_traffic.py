"""WebSocket echoes between aiohttp's client and server, over the simulated network or over loopback, in one process.

`python -m benchmarks.simulation_traffic JSON`, where JSON says what: see `Traffic`.
"""

import asyncio
import gc
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import aiohttp
import msgspec
from aiohttp import web

from benchmarks.process_memory import memory_of
from coordinator.config import Limits, Listen
from coordinator.network import Network, Sockets
from testbed.simulation.connector import Connector, ServerNetwork
from testbed.simulation.loop import run
from testbed.simulation.network import SimulatedNetwork
from testbed.simulation.path import Path

MESSAGE_BYTES = 1000
PAUSE_S = 10.0  # virtual, on average between two messages of a client
CONNECTING_MAX = 100  # at a time: loopback refuses more


class Traffic(msgspec.Struct, frozen=True):
    """What to do."""

    network: Literal["simulated", "loopback"]
    clients: int
    exchanges: int  # of each client: a message there and one back; 0: it just stays connected
    seed: int


async def echo(request: web.Request) -> web.WebSocketResponse:
    stream = web.WebSocketResponse(compress=False)
    await stream.prepare(request)
    async for message in stream:
        await stream.send_bytes(message.data)
    return stream


async def traffic(
    plan: Traffic, server: Network, listen: Listen, connector: Callable[[int], aiohttp.BaseConnector]
) -> dict[str, Any]:
    """Connect all clients, let them talk, and return what that cost."""
    application = web.Application()
    application.router.add_get("/", echo)
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    url = f"http://{listen.host}:{await server.listen(runner, listen, None)}/"
    connecting, connected, begin = asyncio.Semaphore(CONNECTING_MAX), asyncio.Semaphore(0), asyncio.Event()
    end = asyncio.Event()

    async def client(number: int) -> None:
        rng = random.Random(number)
        content = rng.randbytes(MESSAGE_BYTES)
        async with aiohttp.ClientSession(connector=connector(number)) as session:
            async with connecting:
                stream = await session.ws_connect(url)
            connected.release()
            await begin.wait()
            for _ in range(plan.exchanges):
                if plan.network == "simulated":
                    await asyncio.sleep(rng.uniform(0.0, 2.0 * PAUSE_S))
                await stream.send_bytes(content)
                assert await stream.receive_bytes() == content
            connected.release()
            await end.wait()
            await stream.close()

    gc.collect()
    before_mb = memory_of("self")["resident_mb"]
    began_s = time.perf_counter()
    clients = [asyncio.create_task(client(number)) for number in range(plan.clients)]
    for _ in clients:
        await connected.acquire()
    connecting_s = time.perf_counter() - began_s
    gc.collect()
    idle_mb = memory_of("self")["resident_mb"]

    began_s, cpu_began_s, virtual_began_s = time.perf_counter(), time.process_time(), asyncio.get_running_loop().time()
    begin.set()
    for _ in clients:
        await connected.acquire()
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_began_s
    virtual_s = asyncio.get_running_loop().time() - virtual_began_s
    end.set()
    await asyncio.gather(*clients)
    await runner.cleanup()
    return {
        "messages": 2 * plan.clients * plan.exchanges,
        "took_s": took_s,
        "cpu_s": cpu_s,
        "virtual_s": virtual_s,
        "connecting_s": connecting_s,
        "kb_per_client": 1e3 * (idle_mb - before_mb) / plan.clients,
        "resident_mb": idle_mb,
        "peak_mb": memory_of("self")["peak_mb"],
    }


async def simulated(plan: Traffic) -> dict[str, Any]:
    network = SimulatedNetwork(plan.seed, asyncio.get_running_loop())
    network.add_host("server")
    rng = random.Random(plan.seed)
    for number in range(plan.clients):
        name = f"client-{number}"
        network.add_host(name, 1e6, 4e6)
        latency_s = rng.uniform(0.005, 0.1)
        for pair in ((name, "server"), ("server", name)):
            network.set_path(*pair, Path(latency_s, jitter_s=0.01, loss_share=0.001))
    listen = Listen("server", 80)
    found = await traffic(
        plan, ServerNetwork(network, "server"), listen, lambda number: Connector(network, f"client-{number}")
    )
    return found | {"digest": network.digest}


def main() -> None:
    plan = msgspec.json.decode(sys.argv[1], type=Traffic)
    if plan.network == "simulated":
        found = run(simulated(plan), seed=plan.seed)
    else:
        found = asyncio.run(
            traffic(plan, Sockets(Limits(), Counter()), Listen(port=0), lambda _: aiohttp.TCPConnector())
        )
    print(msgspec.json.encode(found).decode())


if __name__ == "__main__":
    main()
