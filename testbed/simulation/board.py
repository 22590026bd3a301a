"""The board of a simulated device, and the process of its agent, as the agent sees them."""

from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from edge_agent.board import Board
from edge_agent.vitals import ThisProcess
from skerry.policy import Reading

RESIDENT_BYTES = 80 << 20


class SimulatedBoard(Board):
    """Says what it was told to say; nothing at first."""

    def __init__(self, throttled: Callable[[], bool]) -> None:
        """`throttled`: whether heat holds the processor back now."""
        super().__init__()
        self.reading = Reading()  # whoever makes trouble sets it
        self._throttled = throttled

    def read(self, state_dir: Path) -> Reading:
        """See `Board`."""
        return replace(self.reading, throttled=("heat",) if self._throttled() else ())

    def temperature_c(self) -> float | None:
        """See `Board`."""
        return self.reading.temperature_c

    def written_bytes(self) -> int | None:
        """See `Board`: this kernel does not count."""
        return None


class SimulatedProcess(ThisProcess):
    """A process of its own number."""

    def __init__(self, pid: int, started_at_s: float) -> None:
        self.pid, self.started_at_s = pid, started_at_s

    def resident_bytes(self) -> int:
        """Return always the same."""
        return RESIDENT_BYTES
