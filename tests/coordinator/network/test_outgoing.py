"""What leaves on a stream: a model in parts, without a copy of it for every device."""

import asyncio
import tracemalloc
from typing import Any

from coordinator.outgoing import PART_BYTES, Offer, Outgoing
from skerry.protocol import frames
from skerry.protocol.messages import ModelOffered, ModelVersion
from skerry.protocol.parts import Assembler


def test_streams_that_send_the_same_model_share_it() -> None:
    """All devices of a region come at once after a restart: a copy for each would not fit."""
    offer = Offer(ModelVersion("eu/00000001", 3), None, 3.0, bytes(range(256)) * (8 << 12))
    tracemalloc.start()
    try:
        sending = [offer.frames(PART_BYTES) for _ in range(10)]
        for frames_of_one in sending:
            next(frames_of_one)
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held_bytes < len(offer.payload) / 2
    assembler, payload = Assembler(1 << 30), None
    for frame in offer.frames(PART_BYTES):
        message = frames.decode(frame, ModelOffered, bytes_max=1 << 20)
        payload = assembler.add(message.version, message.part)
    assert payload == offer.payload


class Discarding:
    """A socket that is never full."""

    async def send_bytes(self, data: bytes) -> None:
        """Take it."""


async def test_a_model_that_was_sent_is_let_go() -> None:
    """A stream mostly waits: with thousands of them, the last model of each would fill the memory."""
    version, done = ModelVersion("eu/00000001", 3), asyncio.Event()
    outgoing, nothing = Outgoing(PART_BYTES, lambda _: done.set()), Any
    writing = asyncio.create_task(outgoing.run(nothing, Discarding()))  # type: ignore[arg-type]
    tracemalloc.start()
    try:
        outgoing.offer(Offer(version, None, 3.0, bytes(3 * PART_BYTES)))
        await done.wait()
        await asyncio.sleep(0)
        held_bytes, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        writing.cancel()
    assert most_bytes > 3 * PART_BYTES
    assert held_bytes < PART_BYTES / 4
