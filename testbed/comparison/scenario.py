"""A comparison: worlds, what is learned in them, when to stop, and the arms, which are recipes to compare.

This is what a scenario file says, checked. No I/O; `scenario_file` reads the TOML.
"""

import string
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from skerry.protocol.messages import Name, Text

Milliseconds = Annotated[float, Meta(ge=0.0, le=3_600_000.0)]
PositiveMilliseconds = Annotated[float, Meta(gt=0.0, le=3_600_000.0)]
PositiveSeconds = Annotated[float, Meta(gt=0.0, le=1e7)]
Factor = Annotated[float, Meta(gt=0.0, le=1000.0)]
Rate = Annotated[float, Meta(gt=0.0, le=1e6)]  # Mbit/s
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Seed = Annotated[int, Meta(ge=0, lt=1 << 32)]
GridValue = float | int | str | bool

Metric = Literal["accuracy", "loss"]
ModelKind = Literal["regional", "federated"]

GRID_POINTS_MAX = 64
FILLED_IN = ("part", "parts", "regions", "seed")


class RoundTime(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="rule", tag="round"):
    """How long `steps` local steps take: Normal(ms, sd_ms), drawn anew for each, times the device's multiplier.

    Source: the experiments of Spyker (arXiv:2406.01439) and its released code: 150 ms, deviation 7.5 ms.
    """

    ms: PositiveMilliseconds = 150.0
    sd_ms: Milliseconds = 7.5
    steps: Annotated[int, Meta(ge=1, le=100_000)] = 1  # of a round
    multipliers: Annotated[tuple[Factor, ...], Meta(min_length=1, max_length=64)] = (
        1.0,
    )  # in turn, over a region's devices

    def __post_init__(self) -> None:
        """Check what one key alone cannot say."""
        if self.sd_ms > self.ms / 3.0:
            raise ValueError(f"sd_ms is {self.sd_ms:g}: at most a third of ms, for a time is never below zero")


class ProfileSpeed(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="rule", tag="profile"
):
    """Devices of the types in `profiles/`: their slowdown, jitter and throttling, on top of a reference core's time."""

    step_ms: PositiveMilliseconds  # of one local step on the reference core
    profiles: Annotated[tuple[str, ...], Meta(min_length=1, max_length=64)]  # in turn, over a region's devices


Speed = RoundTime | ProfileSpeed


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is learned, from which rows."""

    bundle: str = "builtin:mnist-cnn"  # a path, or builtin:TASK
    data: str  # each device's source; {part}, {parts}, {regions} and {seed} are filled in
    held_out: str  # what every model is measured on; a source with few rows, as this is done often
    batch_examples: Annotated[int, Meta(ge=1, le=65536)] | None = None  # None: as the bundle says

    def __post_init__(self) -> None:
        """Check what one key alone cannot say."""
        for key, source in (("data", self.data), ("held_out", self.held_out)):
            known = FILLED_IN if key == "data" else ("seed",)
            try:
                source.format(**dict.fromkeys(known, 0))
                strange = [name for _, name, _, _ in string.Formatter().parse(source) if name and name not in known]
            except (KeyError, IndexError, ValueError) as error:
                raise ValueError(f"{key}: only {', '.join(known)} can be filled in: {error!r}") from error
            if strange:
                raise ValueError(f"{key}: only {', '.join(known)} can be filled in, not {strange[0]}")

    def source(self, part: int, world: "World", seed: int) -> str:
        """Return the data source of the device that is number `part` of a world, counted region by region from 0."""
        return self.data.format(part=part, parts=world.devices, regions=len(world.regions), seed=seed)

    def held_out_source(self, seed: int) -> str:
        """Return the source of the rows that every model is measured on."""
        return self.held_out.format(seed=seed)


class Malicious(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Devices that lie of what they learned: `sign_flip` and `scaled` multiply it, `noise` has nothing of it left."""

    attack: Literal["sign_flip", "scaled", "noise"]
    factor: Annotated[float, Meta(gt=0.0, le=1e6)] = 1.0  # of the difference's length
    every: Annotated[int, Meta(ge=1, le=100_000)] = 5  # one of so many devices of a region lies: the last of them


class World(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Regions with a coordinator each, the links between them, and their devices."""

    name: Name
    description: Text = ""
    regions: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=64)]
    latency_ms: tuple[tuple[Milliseconds, ...], ...] = ()  # between regions, one way: a row for each, symmetric
    distance: Annotated[float, Meta(ge=0.0, le=1000.0)] = 1.0  # multiplies latency_ms
    server_mbit_per_s: Rate | None = None  # of each coordinator, each way, for devices and peers; None: not limited
    devices: Annotated[int, Meta(ge=1, le=100_000)]  # of all regions together, the same number in each
    device_latency_ms: Milliseconds = 10.0  # to the region's own coordinator, one way
    device_mbit_per_s: Rate | None = None  # of each device, each way; None: not limited
    slow_start: bool = True  # of TCP, after each pause; False: a message takes its latency, however long it is
    merge_ms: Milliseconds = 2.0  # server work for one update or one peer's model; work waits its turn
    aggregate_ms: Milliseconds = 15.0  # server work for one mean over a round
    speed: Speed = RoundTime()
    malicious: Malicious | None = None
    task: Task

    def __post_init__(self) -> None:
        """Check what one key alone cannot say."""
        count = len(self.regions)
        if len(set(self.regions)) != count:
            raise ValueError("regions: a name is used twice")
        if self.devices % count:
            raise ValueError(f"devices: {self.devices} cannot be dealt evenly to {count} regions")
        rows = self.latency_ms
        if (count > 1 or rows) and (len(rows) != count or any(len(row) != count for row in rows)):
            raise ValueError(f"latency_ms: must have {count} rows of {count} numbers, in the order of regions")
        for one in range(len(rows)):
            for other in range(one + 1):
                if rows[one][other] != (rows[other][one] if one != other else 0.0):
                    ends = f"{self.regions[one]} and {self.regions[other]}"
                    raise ValueError(f"latency_ms: between {ends} must be the same both ways, and 0 within a region")

    def latency_s(self, one: str, other: str) -> float:
        """Return how long a message takes from one region to another, in seconds."""
        if one == other:
            return 0.0
        return self.latency_ms[self.regions.index(one)][self.regions.index(other)] * self.distance / 1e3


class Arm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One way to train: a recipe, with changes, on the servers that it needs."""

    name: Name
    description: Text = ""
    recipe: str = "default"  # a packaged recipe, or a path relative to the scenario's file
    servers: Literal["regions", "one"] = "regions"  # one coordinator in each region, or a single one for everybody
    home: Name | None = None  # region of the single coordinator; None: the first
    overrides: dict[str, Any] = {}  # tables of the recipe, over what it says
    grid: dict[str, tuple[GridValue, ...]] | None = None  # recipe key with dots -> values; None: the comparison's


class Comparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that a comparison is made from."""

    name: Name
    description: Text
    notes: str = ""  # for the report: what differs from the work that is repeated
    duration_s: PositiveSeconds  # virtual seconds of a run, at most
    evaluate_every_s: PositiveSeconds = 0.5  # virtual seconds between a coordinator's evaluations
    metric: Metric = "accuracy"
    targets: Annotated[tuple[float, ...], Meta(max_length=8)] = ()  # of the metric
    hold_s: PositiveSeconds = 1.0  # a target counts as reached when the mean over so long holds it
    judged: ModelKind = "regional"  # which model decides over tuning, ratios and an early end; both are reported
    patience_s: Annotated[float, Meta(ge=0.0)] | None = None  # go on so long after the last target; None: to the end
    per_class: bool = False  # report the accuracy of each class
    seeds: Annotated[tuple[Seed, ...], Meta(min_length=1, max_length=100)] = (1, 2, 3)
    reference: Name | None = None  # the arm that ratios are made to; None: the first
    tune: bool = True  # False: grids are left aside, and every arm is taken as its recipe and overrides say
    grid: dict[str, tuple[GridValue, ...]] = {}  # tried for every arm that has no grid of its own, on the first seed
    arms: Annotated[tuple[Arm, ...], Meta(min_length=1, max_length=64)]
    worlds: Annotated[tuple[World, ...], Meta(min_length=1, max_length=64)]

    def __post_init__(self) -> None:
        """Check what one key alone cannot say."""
        for kind, names in (
            ("arms.name", [arm.name for arm in self.arms]),
            ("worlds.name", [world.name for world in self.worlds]),
            ("seeds", [str(seed) for seed in self.seeds]),
        ):
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{kind}: {name!r} is used twice")
        if self.reference is not None and self.reference not in {arm.name for arm in self.arms}:
            raise ValueError(f"reference: {self.reference!r} is no arm; there are {_names(self.arms)}")
        for target in self.targets:
            if not 0.0 < target <= (1.0 if self.metric == "accuracy" else 1e9):
                raise ValueError(f"targets: {target:g} is no {self.metric} that can be asked for")
        if self.evaluate_every_s > self.hold_s:
            raise ValueError("evaluate_every_s: must not be longer than hold_s, over which a target must be held")
        for arm in self.arms:
            self._check_arm(arm)

    def _check_arm(self, arm: Arm) -> None:
        points = 1
        for values in self.grid_of(arm).values():
            points *= len(values)
        if not 1 <= points <= GRID_POINTS_MAX:
            raise ValueError(f"arms: the grid of {arm.name!r} has {points} points, must have 1 to {GRID_POINTS_MAX}")
        for world in self.worlds:
            if arm.home is not None and arm.home not in world.regions:
                raise ValueError(f"arms: home of {arm.name!r} is {arm.home!r}, no region of {world.name!r}")
        if arm.home is not None and arm.servers != "one":
            raise ValueError(f'arms: home of {arm.name!r} means nothing without servers = "one"')

    def grid_of(self, arm: Arm) -> dict[str, tuple[GridValue, ...]]:
        """Return what is tried for an arm before it is compared; nothing: it is taken as it is."""
        if not self.tune:
            return {}
        return self.grid if arm.grid is None else arm.grid

    def ordered_targets(self) -> tuple[float, ...]:
        """Return the targets from the easiest to the hardest."""
        return tuple(sorted(set(self.targets), reverse=self.metric == "loss"))

    def reference_arm(self) -> str:
        """Return the name of the arm that ratios are made to."""
        return self.reference or self.arms[0].name


def _names(arms: tuple[Arm, ...]) -> str:
    return ", ".join(arm.name for arm in arms)
