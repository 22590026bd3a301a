"""A process that takes updates in as fast as it can and says what it acknowledged; made to be killed.

    python ingesting.py STATE_DIR UPDATES_PER_DEVICE

Each device offers numbers 1, 2, ... in order, with the same values on every run; a run on an old state repeats all.
"""

import asyncio
import hashlib
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from coordinator.config import Checkpoints, CoordinatorConfig
from coordinator.engine import Engine
from coordinator.events import UpdateArrived
from coordinator.threads import in_executor
from skerry.algorithms.federation import NoFederation
from skerry.protocol import sparse
from skerry.protocol.messages import BundleReference, ModelVersion, Part, UpdateAccepted, UpdateOffered
from skerry.recipe import Recipe
from skerry.vector import Float32, SparseVector

SIZE = 20_000
UNANSWERED_MAX = 8  # updates of one device
DEVICES = ("kite", "tern", "gull")


def initial() -> Float32:
    """Return version 0."""
    return np.linspace(-1.0, 1.0, SIZE, dtype=np.float32)


def vector(device: str, sequence: int) -> SparseVector:
    """Return what a device sends under a number."""
    rng = np.random.default_rng(crc32(f"{device} {sequence}".encode()))
    indices = np.sort(rng.choice(SIZE, 200, replace=False)).astype(np.int64)
    return SparseVector(SIZE, indices, rng.standard_normal(200).astype(np.float32))


class Mouth:
    """Says every acknowledgement on standard output; with it the model, as long as it is that of this update."""

    def __init__(self) -> None:
        self.engine: Engine
        self.waiting: dict[str, asyncio.Semaphore] = {device: asyncio.Semaphore(UNANSWERED_MAX) for device in DEVICES}

    def send_to_device(self, device: str, message: Any) -> None:
        assert isinstance(message, UpdateAccepted), message
        self.waiting[device].release()
        digest = "-"
        if message.version == self.engine.version.number:
            digest = hashlib.sha256(self.engine.model().values.tobytes()).hexdigest()
        print(device, message.sequence, message.version, repr(message.weight), digest, flush=True)

    def offer_model(self, *_: Any) -> None:
        raise AssertionError("nobody is connected")

    def send_to_peer(self, *_: Any) -> None:
        raise AssertionError("there are no peers")


async def _offer(engine: Engine, mouth: Mouth, device: str, updates: int) -> None:
    rng = random.Random(device)
    for sequence in range(1, updates + 1):
        await mouth.waiting[device].acquire()
        values = vector(device, sequence)
        payload = sparse.encode(values)
        base = ModelVersion(engine.lineage, max(0, engine.version.number - rng.randint(0, 5)))
        offered = UpdateOffered(sequence, base, 20, 100, 0.5, 0.05, Part(0, 1, len(payload), 0, b""))
        engine.submit(UpdateArrived(device, offered, payload, values, len(payload)))


async def main(state_dir: Path, updates: int) -> None:
    """Take in everything, then stop as a service does."""
    mouth = Mouth()
    with ThreadPoolExecutor(2) as executor:
        engine = mouth.engine = Engine.open(
            CoordinatorConfig(
                name="here-1",
                region="here",
                bundle="builtin:activity",
                recipe=Recipe(federation=NoFederation()),
                state_dir=state_dir,
                checkpoints=Checkpoints(every_updates=25, keep=2),
            ),
            BundleReference("0" * 64, 1),
            initial(),
            mouth,
            run_in_thread=in_executor(executor),
            wall_clock=time.time,
            rng=random.Random(),
            tail=0,
        )
        running = asyncio.ensure_future(engine.run())
        await asyncio.gather(*(_offer(engine, mouth, device, updates) for device in DEVICES))
        for device in DEVICES:
            for _ in range(UNANSWERED_MAX):
                await mouth.waiting[device].acquire()
        running.cancel()
        await asyncio.wait([running])
        await engine.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
