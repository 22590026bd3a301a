"""What a region is told when it starts, and what it must not forget. Plain values."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar, cast

import msgspec

from coordinator.age_history import AgeHistory
from coordinator.config import CoordinatorConfig
from coordinator.events import RuleState
from coordinator.ledger import Ledger
from skerry.algorithms.arrival import Arrival
from skerry.algorithms.conduct import Conduct
from skerry.algorithms.peer_guard import PeerDistances
from skerry.algorithms.token import TokenState
from skerry.protocol.messages import BroadcastId, BundleReference
from skerry.recipe import Recipe

R = TypeVar("R", bound=RuleState)


@dataclass(frozen=True, slots=True)
class RegionSettings:
    """What a region is told once, when it starts."""

    name: str  # of the coordinator
    region: str
    peers: tuple[str, ...]
    recipe: Recipe
    bundle: BundleReference
    part_bytes_max: int
    url: str | None = None  # where agents reach this coordinator; None: they are not to be sent here
    process: str = ""  # a name that no earlier process of this coordinator had
    size: int = 0  # entries of the model
    tail: int = 0  # of them, at its end, not trainable

    @classmethod
    def of(
        cls, config: CoordinatorConfig, bundle: BundleReference, *, process: str, size: int, tail: int
    ) -> "RegionSettings":
        """Return the settings of a coordinator whose model has `size` entries, the last `tail` not trainable."""
        assert isinstance(config.recipe, Recipe), "config.load reads a recipe that is given as a path"
        return cls(
            name=config.name,
            region=config.region,
            peers=tuple(sorted(config.peers)),
            recipe=config.recipe,
            bundle=bundle,
            part_bytes_max=config.limits.part_bytes_max,
            url=config.url,
            process=process,
            size=size,
            tail=tail,
        )


class HeldUpdate(msgspec.Struct, frozen=True):
    """An update that stands in the journal and waits for the arrival rule."""

    position: int
    arrival: Arrival
    whole: bool = False  # a model, not a difference
    factor: float = 1.0  # of the guard, that its weight is multiplied with


@dataclass(slots=True)
class PeerHeld:
    """Which publication of a peer the replica is."""

    lineage: str
    publication: int
    broadcast: BroadcastId


@dataclass(slots=True)
class RegionState:
    """What survives a restart: the scalars of everything that is on disk."""

    lineage: str
    ages: AgeHistory  # its last entry is the model's version and age
    position: int = 0  # newest of the journal
    publication: int = 0  # newest of this coordinator
    ledger: Ledger = field(default_factory=Ledger)
    held: list[HeldUpdate] = field(default_factory=list)
    peers: dict[str, PeerHeld] = field(default_factory=dict)
    token: TokenState | None = None  # None: nothing was decided about it yet
    rules: dict[type[RuleState], RuleState] = field(default_factory=dict)  # of those rules that remember something
    conducts: list[Conduct] = field(default_factory=list)  # of devices, as they were at the last stop

    @property
    def refused_peers(self) -> Mapping[str, str]:
        """The peers whose models do not count, and why."""
        return (self.remembered(PeerDistances) or PeerDistances()).refused

    def remembered(self, kind: type[R]) -> R | None:
        """Return the state of one rule; None: it has nothing to remember."""
        found = self.rules.get(cast("type[RuleState]", kind))
        assert found is None or isinstance(found, kind)
        return found


@dataclass(slots=True)
class Counts:
    """What happened since the process started."""

    accepted: int = 0
    repeats: int = 0
    taken_back: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    merges: int = 0
    peer_models_refused: Counter[str] = field(default_factory=Counter)  # by peer
    alarms: int = 0
