"""What a device is given at its start: who it is, its bounds, and what was on disk. Data only."""

from dataclasses import dataclass

from edge_agent.events import UpdateStored
from skerry.protocol.messages import ModelVersion, Welcome


@dataclass(frozen=True, slots=True)
class Identity:
    """What the device says of itself."""

    device: str
    agent_version: str
    profile: str


@dataclass(frozen=True, slots=True)
class Bounds:
    """What of the configuration decides something here."""

    outbox_updates_max: int
    telemetry_s: float
    model_save_s: float


@dataclass(frozen=True, slots=True)
class Memory:
    """What was on disk when the agent started."""

    last_sequence: int = 0
    uploads: int = 0
    welcome: Welcome | None = None
    model: ModelVersion | None = None
    waiting: tuple[UpdateStored, ...] = ()
    steps: int = 0
    moves: int = 0  # how often the device has changed coordinators
