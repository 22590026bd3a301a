"""What leaves on a stream: a model in parts, without a copy of it for every device."""

import tracemalloc

from coordinator.outgoing import PART_BYTES, Offer
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
