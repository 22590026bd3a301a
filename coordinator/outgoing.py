"""What leaves on one agent's stream: a bounded queue of frames, and models in parts that never hold the queue up."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from aiohttp import web

from skerry.protocol import frames
from skerry.protocol.limits import PARTS_MAX
from skerry.protocol.messages import Heartbeat, ModelOffered, ModelVersion, UpdateAccepted, UpdateRejected, Welcome
from skerry.protocol.parts import cut

PART_BYTES = 64 << 10  # of an offered model: an acknowledgement waits behind one part at most
FRAMES_MAX = 4096  # a device that lets more pile up is not reading

Brief = Welcome | UpdateAccepted | UpdateRejected | Heartbeat


@dataclass(frozen=True, slots=True)
class Offer:
    """A model on its way to the device."""

    version: ModelVersion
    base: ModelVersion | None
    age: float
    payload: bytes  # sparse vector of values to set

    def frames(self, part_bytes_max: int) -> Iterator[bytes]:
        """Yield the frames that carry it."""
        part_bytes = max(min(PART_BYTES, part_bytes_max), -(-len(self.payload) // PARTS_MAX))
        for part in cut(self.payload, part_bytes):
            yield frames.encode(ModelOffered(self.version, self.base, self.age, part))


class Outgoing:
    """Writes a stream's frames in one task; putting something in never blocks.

    Nothing is written before the Welcome, which overtakes the heartbeats that were put in before it.
    """

    def __init__(self, part_bytes_max: int, offer_done: Callable[[ModelVersion], None]) -> None:
        self._part_bytes_max = part_bytes_max
        self._offer_done = offer_done
        self._frames: deque[bytes] = deque()
        self._offers: deque[Offer] = deque()  # one as a rule: the region waits for `offer_done`
        self._wake = asyncio.Event()
        self._welcomed = False
        self.sent_bytes = 0

    def put(self, message: Brief) -> bool:
        """Queue a message; False: the queue is full, because the device does not read."""
        frame = frames.encode(message)
        if isinstance(message, Welcome):
            self._frames.appendleft(frame)
            self._welcomed = True
        else:
            self._frames.append(frame)
        if self._welcomed:
            self._wake.set()
        return len(self._frames) <= FRAMES_MAX

    def offer(self, offer: Offer) -> None:
        """Queue a model, behind the Welcome."""
        self._offers.append(offer)
        self._wake.set()

    async def run(self, request: web.Request, socket: web.WebSocketResponse) -> None:
        """Write to the `socket` that answers `request`, until cancelled.

        Raises:
            ConnectionError: the other side is gone.
        """
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._write_frames(request)
            while self._offers:
                offer = self._offers.popleft()
                for frame in offer.frames(self._part_bytes_max):
                    self.sent_bytes += len(frame)
                    await socket.send_bytes(frame)
                    await self._write_frames(request)
                self._offer_done(offer.version)
                del offer, frame  # a model for each device that waits for nothing would be a lot

    async def _write_frames(self, request: web.Request) -> None:
        """Write everything that waits in one go: a group commit leaves many acknowledgements for one stream.

        One system call for each costs more than the rest of sending it, and aiohttp has no call for several messages.
        """
        while self._frames:
            transport = request.transport
            if transport is None or transport.is_closing():
                raise ConnectionResetError
            chunks: list[bytes] = []
            for frame in self._frames:
                self.sent_bytes += len(frame)
                chunks += (_websocket_header(len(frame)), frame)
            self._frames.clear()
            transport.write(b"".join(chunks))
            await request.writer.drain()


def _websocket_header(payload_bytes: int) -> bytes:
    """Return what precedes an unmasked binary message of one frame (RFC 6455, section 5.2)."""
    if payload_bytes < 126:
        return bytes((0x82, payload_bytes))
    if payload_bytes < 1 << 16:
        return b"\x82\x7e" + payload_bytes.to_bytes(2)
    return b"\x82\x7f" + payload_bytes.to_bytes(8)
