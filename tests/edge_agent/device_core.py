"""What tests of the device's core say to it: the coordinator's messages and what becomes of a cycle."""

from typing import Any
from zlib import crc32

import msgspec
import numpy as np

from edge_agent.device import Device
from edge_agent.device_setup import Bounds, Identity, Memory
from edge_agent.events import CycleFinished, Effect, PaceDecided, Received, UpdateStored
from skerry.policy import Decision
from skerry.protocol.messages import BundleReference, ModelOffered, ModelVersion, Part, Plan, Welcome

SHA = "a" * 64
OTHER_SHA = "b" * 64
PLAN = Plan(cycle_s=1.0, learning_rate=0.05)
PAYLOAD = b"values"

HOT = PaceDecided(Decision("pause", ("temperature 90.0 C, pauses at 85.0 C",)))
WARM = PaceDecided(Decision("slow", ("temperature 80.0 C, slows at 75.0 C",)))
COOL = PaceDecided(Decision())


def at(number: int) -> ModelVersion:
    return ModelVersion("r/00000001", number)


def welcome(**changes: Any) -> Welcome:
    usual = Welcome(
        protocol_major=1,
        protocol_minor=0,
        coordinator="c",
        region="r",
        bundle=BundleReference(SHA, 10),
        recipe={},
        plan=PLAN,
        last_sequence=0,
        partial=None,
        part_bytes_max=256 << 10,
    )
    return msgspec.structs.replace(usual, **changes)


def offer(number: int, base: int | None = None) -> Received:
    part = Part(0, 1, len(PAYLOAD), crc32(PAYLOAD), PAYLOAD)
    return Received(ModelOffered(version=at(number), base=None if base is None else at(base), age=0.0, part=part))


def new_device(memory: Memory | None = None, outbox_updates_max: int = 3) -> Device:
    identity = Identity("pi-1", "0.1", "")
    bounds = Bounds(outbox_updates_max, telemetry_s=10.0, model_save_s=600.0)
    return Device(identity, bounds, memory or Memory(), now_s=0.0)


def tell(device: Device, *events: Any, now_s: float = 0.0) -> list[Effect]:
    """Return the effects of the last event."""
    effects: list[Effect] = []
    for event in events:
        effects = device.handle(event, now_s)
    return effects


def finished(cycle: int, base: int = 1, *, finite: bool = True, seconds: float = 0.1, steps: int = 10) -> CycleFinished:
    return CycleFinished(cycle, at(base), 0.7, 100, [seconds] * steps, 0.05, np.zeros(3, np.float32), finite)


def stored(sequence: int, payload_bytes: int = 100) -> UpdateStored:
    return UpdateStored(sequence, payload_bytes, 7, at(1).lineage)
