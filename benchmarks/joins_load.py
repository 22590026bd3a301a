"""The parties of `benchmarks.joins`, in a process of their own: devices that join, that flood, or that stream updates.

`python -m benchmarks.joins_load JSON`, the JSON being a `Load`; prints a `Loaded` as JSON.
"""

import asyncio
import ssl
import sys
import time
from pathlib import Path
from typing import Literal

import aiohttp
import msgspec

from benchmarks.ingest_payloads import payloads
from skerry.identity import join_token, request, tls
from skerry.identity.authority import make_key
from skerry.identity.key_file import IdentityFolder
from skerry.protocol import frames
from skerry.protocol.limits import FRAME_BYTES_MAX, PROTOCOL_MAJOR, PROTOCOL_MINOR
from skerry.protocol.messages import (
    Enrolling,
    FromCoordinator,
    Hello,
    Joined,
    JoinRequested,
    ModelOffered,
    ModelVersion,
    Refused,
    UpdateAccepted,
    UpdateOffered,
    UpdateRejected,
)
from skerry.protocol.parts import split


class Load(msgspec.Struct, frozen=True):
    """What to do."""

    kind: Literal["join", "flood", "spin", "stream"]
    url: str
    root_pem: str
    token: str  # a join token; of the flood, one with a wrong secret
    folders: list[str] = []  # of the identities that stream
    count: int = 0  # devices that join
    concurrency: int = 8  # connections under way
    seconds: float = 0.0
    updates_per_s: float = 0.0  # of each device that streams
    size: int = 0  # of the model
    values: int = 0
    seed: int = 1


class Loaded(msgspec.Struct, frozen=True):
    """What was done."""

    done: int  # joins answered with a certificate, bad joins that were answered, or updates acknowledged
    cut: int  # connections that were ended before an answer
    wall_s: float
    latencies_s: list[float]  # from the first byte sent to the answer


async def join_all(load: Load) -> Loaded:
    """Let devices join, each over a connection of its own, and each with a key of its own."""
    token = join_token.parse(load.token)
    waiting = [
        frames.encode(
            JoinRequested(token.identifier, token.secret, "agent", f"join-{number}", request.make(make_key()))
        )
        for number in range(load.count)
    ]
    context, latencies = tls.joining_context(load.root_pem), list[float]()
    begun = time.perf_counter()

    async def work(http: aiohttp.ClientSession) -> None:
        while waiting:
            body, at = waiting.pop(), time.perf_counter()
            async with http.post(f"{load.url}/v1/enrolment/join", data=body, ssl=context) as response:
                answer = frames.decode(await response.read(), Enrolling, bytes_max=1 << 20)
            assert isinstance(answer, Joined), answer
            latencies.append(time.perf_counter() - at)

    async with aiohttp.ClientSession(connector=_connector()) as http:
        await asyncio.gather(*(work(http) for _ in range(load.concurrency)))
    return Loaded(len(latencies), 0, time.perf_counter() - begun, latencies)


async def flood(load: Load) -> Loaded:
    """Try to join with a wrong secret, as fast as one core can, each time over a new connection."""
    token = join_token.parse(load.token)
    body = frames.encode(JoinRequested(token.identifier, bytes(16), "agent", "nobody", request.make(make_key())))
    context, answered, cut = tls.unverified_context(), 0, 0
    begun = time.perf_counter()

    async def work(http: aiohttp.ClientSession) -> None:
        nonlocal answered, cut
        while time.perf_counter() < begun + load.seconds:
            try:
                async with http.post(f"{load.url}/v1/enrolment/join", data=body, ssl=context) as response:
                    await response.read()
                    assert response.status != 200
                    answered += 1
            except (aiohttp.ClientError, OSError):
                cut += 1

    async with aiohttp.ClientSession(connector=_connector()) as http:
        await asyncio.gather(*(work(http) for _ in range(load.concurrency)))
    return Loaded(answered, cut, time.perf_counter() - begun, [])


async def spin(load: Load) -> Loaded:
    """Keep the core as busy as a flood does, and disturb nobody."""
    begun, made = time.perf_counter(), 0
    while time.perf_counter() < begun + load.seconds:
        request.make(make_key())
        made += 1
    return Loaded(made, 0, time.perf_counter() - begun, [])


async def stream_all(load: Load) -> Loaded:
    """Stream updates at a steady rate, whatever the answers do; latencies are from the planned time of sending."""
    latencies: list[float] = []
    begun = time.perf_counter() + 1.0

    async def device(http: aiohttp.ClientSession, number: int, folder: str) -> None:
        context, name = _client(folder)
        async with http.ws_connect(
            f"{load.url}/v1/agents/stream", ssl=context, compress=0, max_msg_size=FRAME_BYTES_MAX
        ) as socket:
            await socket.send_bytes(
                frames.encode(Hello(PROTOCOL_MAJOR, PROTOCOL_MINOR, name, "", "", None, None, 0, 1.5))
            )
            base = await _base(socket)
            ring = payloads(number, load.size, load.values, load.seed)
            total = int(load.seconds * load.updates_per_s)
            planned = [begun + (index + number / len(load.folders)) / load.updates_per_s for index in range(total)]

            async def send() -> None:
                for index, at in enumerate(planned):
                    await asyncio.sleep(max(0.0, at - time.perf_counter()))
                    (part,) = split(ring[index % len(ring)], FRAME_BYTES_MAX)
                    await socket.send_bytes(frames.encode(UpdateOffered(index + 1, base, 20, 100, 1.0, 1.5, part)))

            sending = asyncio.create_task(send())
            answered = 0
            while answered < total:
                message = _decode(await socket.receive_bytes())
                assert not isinstance(message, UpdateRejected | Refused), message
                if isinstance(message, UpdateAccepted):
                    answered, base = message.sequence, ModelVersion(base.lineage, message.version)
                    latencies.append(time.perf_counter() - planned[answered - 1])
            await sending

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        await asyncio.gather(*(device(http, number, folder) for number, folder in enumerate(load.folders)))
    return Loaded(len(latencies), 0, time.perf_counter() - begun, latencies)


async def _base(socket: aiohttp.ClientWebSocketResponse) -> ModelVersion:
    while True:
        message = _decode(await socket.receive_bytes())
        if isinstance(message, ModelOffered):
            return message.version


def _client(folder: str) -> tuple[ssl.SSLContext, str]:
    return tls.client_context(IdentityFolder(Path(folder))), Path(folder).name


def _connector() -> aiohttp.TCPConnector:
    return aiohttp.TCPConnector(limit=0, force_close=True)


def _decode(frame: bytes) -> FromCoordinator:
    return frames.decode(frame, FromCoordinator, bytes_max=FRAME_BYTES_MAX)


KINDS = {"join": join_all, "flood": flood, "spin": spin, "stream": stream_all}

if __name__ == "__main__":
    wanted = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    sys.stdout.write(msgspec.json.encode(asyncio.run(KINDS[wanted.kind](wanted))).decode() + "\n")
