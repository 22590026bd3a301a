"""A scenario: a world of regions, devices and links, what is trained in it, and the goals that a run must reach.

A TOML file; packaged scenarios stand in `testbed/scenarios`, packaged recipes in `testbed/recipes`. Reading is the only
I/O here.
"""

import random
from collections.abc import Iterator, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from skerry import toml_file
from skerry.errors import ConfigError
from skerry.profile import Profile
from skerry.protocol.messages import Name
from skerry.recipe import Recipe
from testbed.processes.link import Link, Shape

PACKAGED_SCENARIOS = resources.files("testbed") / "scenarios"
PACKAGED_RECIPES = resources.files("testbed") / "recipes"
SUFFIX = ".toml"

T = TypeVar("T")
Positive = Annotated[float, Meta(gt=0.0)]


class LinkShape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A link, the same in both directions."""

    latency_ms: Annotated[float, Meta(ge=0.0, le=60_000.0)] = 0.0  # one way
    mbit_per_s: Positive | None = None  # None: not limited

    def link(self) -> Link:
        """Return a new link of this shape."""
        shape = Shape(self.latency_ms / 1e3, None if self.mbit_per_s is None else self.mbit_per_s * 1e6)
        return Link(shape, shape)


class Links(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The two kinds of links."""

    devices: LinkShape | None = (
        None  # between a device and its coordinator, each has its own; None: as its profile says
    )
    regions: LinkShape = LinkShape()  # between two coordinators, one for each pair


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One device; devices are dealt the task's natural clients in the order of the file."""

    name: Name
    profile: str  # a device type of profiles/
    link: LinkShape | None = None  # None: links.devices


class Region(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A coordinator and its devices."""

    name: Name
    coordinator: Name
    devices: Annotated[tuple[Device, ...], Meta(min_length=1)]


class Central(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long the same model is trained in one place, to compare with."""

    epochs: Annotated[int, Meta(ge=1, le=100_000)] = 40
    evaluate_every_epochs: Annotated[int, Meta(ge=1)] = 2


class Goals(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What must hold at the end; None: not asked for."""

    points_below_central_max: Positive | None = 3.0  # percentage points of accuracy, every region's own model
    updates_min: Annotated[int, Meta(ge=1)] | None = 1  # applied, from every device
    idle_share_max: Annotated[float, Meta(gt=0.0, le=1.0)] | None = 0.05  # of every agent
    steps_to_speed_error_max: Positive | None = 0.2  # between any two devices of a region
    uplink_saving_min: Positive | None = 20.0  # times smaller than the same updates as dense float32
    hold_s: Annotated[float, Meta(ge=0.0)] = 5.0  # a run ends early when all goals have held for so long
    earliest_s: Annotated[float, Meta(ge=0.0)] = 0.0  # but not before


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A world, a task, a recipe and goals."""

    name: Name
    description: str
    task: str = "builtin:activity"  # bundle: a path or builtin:TASK
    data: str = "builtin:activity?part={part}&parts={parts}"  # of each device
    held_out: str = "builtin:activity?split=test"  # what every model is measured on
    recipe: str = "default"  # a packaged recipe, or a path relative to the scenario's file
    duration_s: Annotated[float, Meta(gt=0.0, le=1e6)] = 60.0  # of training, at most
    seed: Annotated[int, Meta(ge=0, lt=1 << 32)] = 1
    evaluate_every_s: Positive = 2.0
    compute_share: Annotated[float, Meta(gt=0.0, le=1.0)] = (
        1.0  # of a core, for a device that its profile does not slow
    )
    batch_examples: Annotated[int, Meta(ge=1, le=65536)] | None = None  # None: as the bundle says
    links: Links = Links()
    central: Central | None = Central()
    goals: Goals = Goals()
    regions: Annotated[tuple[Region, ...], Meta(min_length=1, max_length=64)]

    def __post_init__(self) -> None:
        """Check what one key alone cannot say."""
        for kind, names in (
            ("regions.name", [region.name for region in self.regions]),
            ("regions.coordinator", [region.coordinator for region in self.regions]),
            ("regions.devices.name", [device.name for _, device in self.devices()]),
        ):
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{kind}: {name!r} is used twice")
        if self.goals.points_below_central_max is not None and self.central is None:
            raise ValueError("goals.points_below_central_max needs the table central")
        try:
            self.data.format(part=0, parts=1)
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"data: only {{part}} and {{parts}} can be filled in: {error!r}") from error

    def devices(self) -> Iterator[tuple[Region, Device]]:
        """Every device with its region, in the order of the file."""
        for region in self.regions:
            for device in region.devices:
                yield region, device

    def data_source(self, device: str) -> str:
        """Return the data source of the device of that name."""
        names = [one.name for _, one in self.devices()]
        return self.data.format(part=names.index(device), parts=len(names))

    def duty_cycle(self, profile: Profile) -> float:
        """Return the share of the time that a device of this type may compute here, in (0, 1]."""
        return self.compute_share * profile.lab.duty_cycle

    def device_link(self, device: Device, profile: Profile) -> Link:
        """Return a new link whose end a is the device and whose end b is its coordinator."""
        chosen = device.link or self.links.devices
        if chosen is not None:
            return chosen.link()
        if profile.link is None:
            return LinkShape().link()
        link = profile.link
        up, down = (
            Shape(link.latency_s, bytes_per_s * 8, link.jitter_s, link.loss_share)
            for bytes_per_s in (link.up_bytes_per_s or link.down_bytes_per_s, link.down_bytes_per_s)
        )
        return Link(up, down, random.Random(f"{self.seed}/{device.name}"))  # noqa: S311 - jitter and losses


def packaged() -> list[Scenario]:
    """Every scenario of real processes that comes with the product, by name."""
    files = ((file, tables_of(file.removesuffix(SUFFIX))[0]) for file in packaged_files(PACKAGED_SCENARIOS))
    processes = (toml_file.convert(tables, Scenario, file) for file, tables in files if not is_comparison(tables))
    return sorted(processes, key=lambda one: one.name)


def packaged_files(folder: Traversable) -> list[str]:
    """Return the names of the TOML files in a folder of the product, sorted."""
    return sorted(item.name for item in folder.iterdir() if item.name.endswith(SUFFIX))


def is_comparison(tables: Mapping[str, Any]) -> bool:
    """Say whether a scenario's tables are those of a comparison in virtual time: it has arms instead of one recipe."""
    return "arms" in tables


def tables_of(spec: str) -> tuple[dict[str, Any], str, Path]:
    """Return what the scenario `spec` says, the file's name for errors, and the folder that paths in it start from.

    `spec` is the name of a packaged scenario or a path that ends in `.toml`.

    Raises:
        ConfigError: there is no such scenario, or it is no TOML.
    """
    if spec.endswith(SUFFIX):
        return toml_file.read(Path(spec), dict[str, Any]), spec, Path(spec).parent
    return read_packaged(PACKAGED_SCENARIOS, spec, dict[str, Any], "scenario"), f"{spec}{SUFFIX}", Path()


def load(spec: str, recipe: str | None = None) -> tuple[Scenario, Recipe]:
    """Return the scenario `spec`, the name of a packaged one or a path that ends in `.toml`, and its recipe.

    `recipe`, likewise a name or a path, stands in for the scenario's own.

    Raises:
        ConfigError: there is no such scenario or recipe, or a key in it is unknown, missing or out of range.
    """
    tables, origin, folder = tables_of(spec)
    scenario = toml_file.convert(tables, Scenario, origin)
    if recipe is None:
        return scenario, load_recipe(scenario.recipe, folder)
    return scenario, load_recipe(recipe, Path())


def load_recipe(spec: str, folder: Path) -> Recipe:
    """Return the recipe `spec`, the name of a packaged one or a path relative to `folder`.

    Raises:
        ConfigError: there is no such recipe, or a key in it is unknown, missing or out of range.
    """
    if spec.endswith(SUFFIX):
        return toml_file.read(folder / spec, Recipe)
    return read_packaged(PACKAGED_RECIPES, spec, Recipe, "recipe")


def read_packaged(folder: Traversable, name: str, kind: type[T], word: str) -> T:
    """Return what comes with the product under `name`; `word` says in errors what that is.

    Raises:
        ConfigError: there is no such file in `folder`, or it is no `kind`.
    """
    file = folder / f"{name}{SUFFIX}"
    if not file.is_file():
        names = ", ".join(one.removesuffix(SUFFIX) for one in packaged_files(folder))
        raise ConfigError(f"no {word} {name!r}; there are {names}, or give a path to a .toml file")
    return toml_file.parse(file.read_text(), kind, file.name)
