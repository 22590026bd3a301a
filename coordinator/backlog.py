"""What is on its way to the disk, and when devices must wait because it is too much."""

import asyncio
from collections.abc import Iterable

from coordinator.events import Event, Malformed, TelemetryArrived, UpdateArrived


class Backlog:
    """Counts what devices sent and the engine has not performed yet; one for each engine."""

    def __init__(self, messages_max: int, bytes_max: int) -> None:
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self._messages = 0  # updates and telemetry
        self._bytes = 0
        self._room = asyncio.Event()
        self._room.set()
        self.updates = 0

    def add(self, event: Event) -> None:
        """Count an event that was submitted."""
        self._count(event, 1)
        self._judge()

    def remove(self, events: Iterable[Event]) -> int:
        """Count events no more that have been performed; return how many of them were updates."""
        before = self.updates
        for event in events:
            self._count(event, -1)
        self._judge()
        return before - self.updates

    async def room(self) -> None:
        """Wait while there is too much. Who waited goes on one after the other, and may fill it again."""
        while not self._room.is_set():
            await self._room.wait()

    def _count(self, event: Event, sign: int) -> None:
        match event:
            case UpdateArrived():
                self.updates += sign
                self._messages += sign
                self._bytes += sign * _bytes(event)
            case TelemetryArrived():
                self._messages += sign
            case _:
                pass  # not a device's to send as often as it likes

    def _judge(self) -> None:
        if self._messages > self._messages_max or self._bytes > self._bytes_max:
            self._room.clear()
        else:
            self._room.set()


def _bytes(update: UpdateArrived) -> int:
    """Return what an update takes in memory, payload and entries."""
    vector = update.vector
    entries_bytes = 0 if isinstance(vector, Malformed) else vector.indices.nbytes + vector.values.nbytes
    return len(update.payload) + entries_bytes
