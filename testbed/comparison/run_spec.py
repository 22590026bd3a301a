"""One run of a comparison, as it is ordered and as it comes back: the seam between a comparison and the simulation.

Everything that decides over a run's result stands in its `RunSpec`, so that a result can be recognised by it.
"""

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from skerry.recipe import Recipe
from testbed.comparison.scenario import Metric, ModelKind, World


class RunSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be simulated."""

    scenario: str
    world: World
    arm: str
    recipe: Recipe  # with the arm's overrides and the point's values
    servers: Literal["regions", "one"]
    home: str  # region of the single coordinator, where `servers` is "one"
    point: dict[str, Any]  # of the arm's grid: recipe key -> value; empty without a grid
    seed: int
    duration_s: float
    evaluate_every_s: float
    metric: Metric
    targets: tuple[float, ...]  # from the easiest to the hardest
    hold_s: float
    judged: ModelKind
    patience_s: float | None
    per_class: bool
    bundle_sha256: str


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run finds its files on this machine; no part of what it is."""

    bundle: str  # path, or builtin:TASK
    data_dir: str | None  # where data sets are
    scratch: str | None = (
        None  # folder for what lasts as long as the run; whoever gives it removes what a killed run left
    )


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run is."""

    at_s: float  # virtual seconds
    duration_s: float
    value: float | None = None  # newest metric of the judged model


class CurvePoint(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a run at one moment: newest evaluations, and what was counted so far."""

    at_s: float  # virtual seconds
    regional_accuracy: float | None  # unweighted mean over the regions' own models, in [0, 1]; None: task has none
    regional_loss: float | None  # None: not finite
    federated_accuracy: float | None  # mean over the federated models that the regions hold
    federated_loss: float | None
    updates: int  # applied
    bytes_up: int  # everything that devices sent, envelopes included
    bytes_down: int  # everything that devices received
    bytes_peers: int  # everything between coordinators

    def value(self, metric: Metric, model: ModelKind) -> float | None:
        """Return one of the four measures."""
        if metric == "accuracy":
            return self.regional_accuracy if model == "regional" else self.federated_accuracy
        return self.regional_loss if model == "regional" else self.federated_loss


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a run came to."""

    ended: Literal["duration over", "targets reached"]
    elapsed_s: float  # virtual seconds
    wall_s: float
    training_wall_share: float  # of the wall time that was training or evaluating, in [0, 1]
    messages: int  # that the network carried
    parameters: int
    held_out_examples: int
    curve: tuple[CurvePoint, ...]  # in time
    updates: int  # applied
    updates_rejected: int  # such as those whose base the coordinator no longer knew
    malicious: tuple[str, ...] = ()  # the devices that lied
    quarantined: tuple[str, ...] = ()  # those that a guard kept apart at the end
    staleness_mean: float | None  # None: no update was applied
    staleness_p99: float | None
    bytes_up: int
    bytes_down: int
    bytes_peers: int
    idle_devices: float  # share of the time that a device had nothing to train on; mean over devices
    idle_servers: float  # share of the time that a coordinator had no work; mean over coordinators
    per_class: (
        tuple[float | None, ...] | None
    )  # accuracy of each class, of the judged model at the end; None: not asked
    digest: str  # of every message and every model: the same for the same seed


Simulate = Callable[[RunSpec, Place, Callable[[Progress], None]], RunResult]
