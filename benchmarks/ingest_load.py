"""The load of `benchmarks.ingest`: many agents in one process, each with a window of updates under way.

`python -m benchmarks.ingest_load JSON`, the JSON being a `Load`; prints a `Loaded` as JSON.
"""

import asyncio
import contextlib
import struct
import sys
import time
from pathlib import Path

import aiohttp
import msgspec

from benchmarks.ingest_payloads import payloads
from skerry.identity import tls
from skerry.identity.key_file import IdentityFolder
from skerry.protocol import frames
from skerry.protocol.limits import FRAME_BYTES_MAX, PROTOCOL_MAJOR, PROTOCOL_MINOR
from skerry.protocol.messages import (
    FromCoordinator,
    Hello,
    ModelOffered,
    ModelVersion,
    UpdateAccepted,
    UpdateOffered,
    Welcome,
)
from skerry.protocol.parts import split

SEQUENCE_MARK, BASE_MARK = 0x0102030405060708, 0x1112131415161718  # replaced in a frame that was encoded once


class Load(msgspec.Struct, frozen=True):
    """What to do."""

    url: str
    target: str  # "coordinator" or "echo"
    identities: str  # a folder with one of each agent; "": plain HTTP
    agents: int
    size: int
    values: int
    window: int  # updates under way per agent
    warm_up_s: float
    measured_s: float
    seconds_per_step: float
    seed: int


class Loaded(msgspec.Struct, frozen=True):
    """What was done."""

    measured: int  # updates answered in the measured time
    measured_s: float
    updates: list[int]  # by agent: answered, from its first to its last
    repeats: int  # sent once more after all were answered, and answered again
    cpu_s: float  # of this process, in the measured time


class Clock:
    """When the load is measured and when it ends."""

    def __init__(self, load: Load) -> None:
        now = time.perf_counter()
        self.begin, self.end = now + load.warm_up_s, now + load.warm_up_s + load.measured_s
        self.measured = 0
        self.cpu: list[float] = []

    def answered(self) -> bool:
        """Count an answer; False: send no more."""
        now = time.perf_counter()
        if self.begin <= now < self.end:
            self.measured += 1
            if not self.cpu:
                self.cpu.append(time.process_time())
        elif now >= self.end and len(self.cpu) == 1:
            self.cpu.append(time.process_time())
        return now < self.end


class Template:
    """An UpdateOffered whose sequence and base are filled in without encoding the rest again."""

    def __init__(self, payload: bytes, lineage: str, seconds_per_step: float) -> None:
        (part,) = split(payload, FRAME_BYTES_MAX)
        base = ModelVersion(lineage, BASE_MARK)
        frame = frames.encode(UpdateOffered(SEQUENCE_MARK, base, 20, 100, 1.0, seconds_per_step, part))
        head, frame = frame.split(struct.pack(">Q", SEQUENCE_MARK))
        middle, tail = frame.split(struct.pack(">Q", BASE_MARK))
        self._pieces = (head, middle, tail)

    def frame(self, sequence: int, base: int) -> bytes:
        """Return the frame of one update."""
        head, middle, tail = self._pieces
        return b"".join((head, sequence.to_bytes(8), middle, base.to_bytes(8), tail))


async def echo_agent(session: aiohttp.ClientSession, load: Load, agent: int, clock: Clock) -> int:
    """Send payloads to the echo; return how many came back."""
    ring = payloads(agent, load.size, load.values, load.seed)
    async with session.ws_connect(f"{load.url}/v1/agents/stream", compress=0, max_msg_size=FRAME_BYTES_MAX) as socket:
        sent = answered = 0
        while sent < load.window:
            await socket.send_bytes(ring[sent % len(ring)])
            sent += 1
        while answered < sent:
            payload = await socket.receive_bytes()
            assert len(payload) == len(ring[answered % len(ring)])
            answered += 1
            if clock.answered():
                await socket.send_bytes(ring[sent % len(ring)])
                sent += 1
    return answered


async def stream_agent(session: aiohttp.ClientSession, load: Load, agent: int, clock: Clock) -> tuple[int, int]:
    """Stream updates to the coordinator; return how many were acknowledged, and how many repeats."""
    async with session.ws_connect(f"{load.url}/v1/agents/stream", compress=0, max_msg_size=FRAME_BYTES_MAX) as socket:
        hello = Hello(PROTOCOL_MAJOR, PROTOCOL_MINOR, f"agent-{agent}", "", "", None, None, 0, load.seconds_per_step)
        await socket.send_bytes(frames.encode(hello))
        base = None
        while base is None:
            match _decode(await socket.receive_bytes()):
                case ModelOffered() as offered:
                    base = offered.version
                case Welcome():
                    pass
                case other:
                    raise AssertionError(f"unexpected: {other}")
        ring = [
            Template(payload, base.lineage, load.seconds_per_step)
            for payload in payloads(agent, load.size, load.values, load.seed)
        ]
        version, sent, answered = base.number, 0, 0

        async def send(sequence: int) -> None:
            await socket.send_bytes(ring[sequence % len(ring)].frame(sequence, version))

        async def answer() -> int:
            nonlocal version
            while True:
                match _decode(await socket.receive_bytes()):
                    case UpdateAccepted() as accepted:
                        version = accepted.version
                        return accepted.sequence
                    case ModelOffered():
                        pass
                    case other:
                        raise AssertionError(f"unexpected: {other}")

        while sent < load.window:
            sent += 1
            await send(sent)
        while answered < sent:
            sequence = await answer()
            assert sequence == answered + 1, f"{sequence} acknowledged after {answered}"
            answered = sequence
            if clock.answered():
                sent += 1
                await send(sent)
        repeats = range(max(1, sent - load.window + 1), sent + 1)
        for sequence in repeats:
            await send(sequence)
        for sequence in repeats:
            assert await answer() == sequence
    return answered, len(repeats)


def _decode(frame: bytes) -> FromCoordinator:
    return frames.decode(frame, FromCoordinator, bytes_max=FRAME_BYTES_MAX)


async def run(load: Load) -> Loaded:
    """Run all agents to their ends."""
    async with contextlib.AsyncExitStack() as stack:

        async def session(agent: int) -> aiohttp.ClientSession:
            context = tls.client_context(IdentityFolder(Path(load.identities) / f"agent-{agent}"))
            return await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)))

        if load.identities:
            sessions = [await session(agent) for agent in range(load.agents)]
        else:
            plain = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
            sessions = [await stack.enter_async_context(plain)] * load.agents
        clock = Clock(load)
        each = list(enumerate(sessions))
        if load.target == "echo":
            counts = await asyncio.gather(*(echo_agent(one, load, agent, clock) for agent, one in each))
            updates, repeats = list(counts), 0
        else:
            pairs = await asyncio.gather(*(stream_agent(one, load, agent, clock) for agent, one in each))
            updates, repeats = [count for count, _ in pairs], sum(count for _, count in pairs)
    return Loaded(clock.measured, load.measured_s, updates, repeats, clock.cpu[1] - clock.cpu[0])


if __name__ == "__main__":
    loaded = asyncio.run(run(msgspec.json.decode(sys.argv[1], type=Load)))
    sys.stdout.write(msgspec.json.encode(loaded).decode() + "\n")
