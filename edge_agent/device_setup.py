"""What a device is given at its start: who it is, its bounds, and what was on disk. Data only."""

from dataclasses import dataclass
from typing import Any
from zlib import crc32

from edge_agent.config import AgentConfig
from edge_agent.events import UpdateStored
from edge_agent.store import Stored
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
    noise_multiplier_min: float = 0.0  # of the recipe's privacy

    @classmethod
    def of(cls, config: AgentConfig) -> "Bounds":
        """Return the bounds that a configuration sets."""
        limits = config.limits
        least = config.privacy.noise_multiplier_min
        return cls(limits.outbox_updates_max, limits.telemetry_s, limits.model_save_s, least)


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

    @classmethod
    def of(cls, stored: Stored) -> "Memory":
        """Return what of `stored` decides something here."""
        return cls(
            stored.last_sequence,
            stored.uploads,
            stored.welcome,
            None if stored.model is None else stored.model.version,
            tuple(
                UpdateStored(update.sequence, len(update.payload), crc32(update.payload), update.base.lineage)
                for update in stored.updates
                if update.settled_event is None
            ),
            stored.steps,
            stored.moves,
        )


def lasting(welcome: Welcome) -> tuple[Any, ...]:
    """What of a Welcome is worth a write to the disk when it changes: not the plan's every move."""
    return welcome.coordinator, welcome.region, welcome.recipe, welcome.part_bytes_max, welcome.coordinators
