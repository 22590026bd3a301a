"""What is on its way to the disk stays within its bounds, whoever sends it."""

import asyncio
from typing import Any

from coordinator.backlog import Backlog
from coordinator.events import TelemetryArrived, Tick
from skerry.protocol.messages import ModelVersion, Telemetry

REPORT = TelemetryArrived("pi", Telemetry(1.0, 1.0, 0.0, 1, 20, 0.1, 1, 1, 1, 0, 48.5))


async def test_those_who_waited_do_not_all_go_on_at_once(words: Any) -> None:
    backlog = Backlog(messages_max=5, bytes_max=1 << 20)
    submitted = []

    async def device(number: int) -> None:
        await backlog.room()
        event = words.update(f"pi-{number}", 1, ModelVersion("here/00000001", 0))
        backlog.add(event)
        submitted.append(event)

    devices = asyncio.gather(*(device(number) for number in range(20)))
    for group in range(1, 4):
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(submitted) == 6 * group
        assert backlog.updates == 6
        assert backlog.remove(submitted[-6:]) == 6
    await devices
    assert backlog.updates == 2


async def test_telemetry_takes_room_and_the_clock_does_not() -> None:
    backlog = Backlog(messages_max=1, bytes_max=1 << 20)
    for _ in range(5):
        backlog.add(Tick())
    await asyncio.wait_for(backlog.room(), 1.0)
    backlog.add(REPORT)
    backlog.add(REPORT)
    waiting = asyncio.ensure_future(backlog.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    assert backlog.remove([REPORT]) == 0
    await waiting
