"""Which runs a comparison needs: grids are tried on the first seed, and what was chosen there runs on all seeds. Pure.

`Plan.due` is asked again after every run; it knows no order but the file's, and no state but the results.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from skerry.errors import ConfigError
from skerry.recipe import Recipe
from testbed.comparison import scenario_file, targets
from testbed.comparison.run_spec import RunResult, RunSpec
from testbed.comparison.scenario import Arm, Comparison, World

Point = dict[str, Any]


@dataclass(frozen=True, order=True)
class RunKey:
    """Which run of a comparison is meant."""

    world: str
    arm: str
    point: str  # as `label` writes it; "" without a grid
    seed: int

    def __str__(self) -> str:
        return f"{self.world}, {self.arm}{f' ({self.point})' if self.point else ''}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """The runs of a comparison."""

    comparison: Comparison
    recipes: Mapping[tuple[str, str], Recipe]  # arm and point's label
    bundles: Mapping[str, str]  # bundle as the file says it -> sha256

    @classmethod
    def of(cls, comparison: Comparison, folder: Path, bundles: Mapping[str, str]) -> "Plan":
        """Return the plan; recipes that are paths are relative to `folder`.

        Raises:
            ConfigError: an arm's recipe, an override or a key of a grid does not fit.
        """
        recipes = {}
        for arm in comparison.arms:
            base = scenario_file.recipe_of(arm, folder)
            for point in points(comparison, arm):
                recipes[arm.name, label(point)] = scenario_file.at_point(base, point, f"grid of arm {arm.name!r}")
        return cls(comparison, recipes, bundles)

    def spec(self, key: RunKey) -> RunSpec:
        """Return what is to be simulated for `key`."""
        comparison = self.comparison
        world = next(one for one in comparison.worlds if one.name == key.world)
        arm = next(one for one in comparison.arms if one.name == key.arm)
        return RunSpec(
            scenario=comparison.name,
            world=world,
            arm=arm.name,
            recipe=self.recipes[key.arm, key.point],
            servers=arm.servers,
            home=arm.home or world.regions[0],
            point=next(point for point in points(comparison, arm) if label(point) == key.point),
            seed=key.seed,
            duration_s=comparison.duration_s,
            evaluate_every_s=comparison.evaluate_every_s,
            metric=comparison.metric,
            targets=comparison.ordered_targets(),
            hold_s=comparison.hold_s,
            judged=comparison.judged,
            patience_s=comparison.patience_s,
            per_class=comparison.per_class,
            bundle_sha256=self.bundles[world.task.bundle],
        )

    def due(self, results: Mapping[RunKey, RunResult], failed: frozenset[RunKey] = frozenset()) -> list[RunKey]:
        """Return every run that is known to be needed by now, finished ones included, in the order to run them.

        Grids come first: what they choose decides over later runs. A failed point is out of the choice.
        """
        tuning: list[RunKey] = []
        judged: list[RunKey] = []
        for world in self.comparison.worlds:
            for arm in self.comparison.arms:
                tried = self.tried(world, arm)
                if len(tried) > 1:
                    tuning += tried
                point = self.chosen(world, arm, results, failed)
                if point is not None:
                    judged += [RunKey(world.name, arm.name, point, seed) for seed in self.comparison.seeds]
        return list(dict.fromkeys([*tuning, *judged]))

    def tried(self, world: World, arm: Arm) -> list[RunKey]:
        """Return the runs among which an arm's point is chosen; the only one of an arm without a grid."""
        labels = [label(point) for point in points(self.comparison, arm)]
        return [RunKey(world.name, arm.name, one, self.comparison.seeds[0]) for one in labels]

    def chosen(
        self,
        world: World,
        arm: Arm,
        results: Mapping[RunKey, RunResult],
        failed: frozenset[RunKey] = frozenset(),
    ) -> str | None:
        """Return the label of the point that an arm is compared at; None: it is not known yet, or every one failed."""
        tried = self.tried(world, arm)
        if len(tried) == 1:
            return tried[0].point
        if any(key not in results and key not in failed for key in tried):
            return None
        there = [key for key in tried if key in results]
        return min(there, key=lambda key: self._rank(results[key])).point if there else None

    def total(self, failed: frozenset[RunKey] = frozenset()) -> int:
        """Return how many runs there will be, if what is not known to have failed succeeds."""
        seeds = len(self.comparison.seeds)
        count = 0
        for world in self.comparison.worlds:
            for arm in self.comparison.arms:
                tried = self.tried(world, arm)
                # the chosen point has been run on the first seed
                count += len(tried) + (0 if len(tried) > 1 and failed.issuperset(tried) else seeds - 1)
        return count

    def _rank(self, result: RunResult) -> tuple[float, ...]:
        """Return what orders points, the best first: time to the hardest target, to the next, ..., then the end."""
        comparison = self.comparison
        values = targets.samples(result.curve, comparison.metric, comparison.judged)
        times = [
            targets.time_to(target, values, comparison.metric, comparison.hold_s)
            for target in reversed(comparison.ordered_targets())
        ]
        end = targets.final(values, comparison.hold_s)
        worst = float("inf")
        cost = worst if end is None else -end if comparison.metric == "accuracy" else end
        return (*(worst if at_s is None else at_s for at_s in times), cost)


def points(comparison: Comparison, arm: Arm) -> list[Point]:
    """Return every point of an arm's grid, in the order of the file; one that says nothing where there is no grid."""
    grid = comparison.grid_of(arm)
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def label(point: Mapping[str, Any]) -> str:
    """Return a point in words, also good as a file's name: `arrival.server_rate=0.3`; "" for the one that says nothing.

    The same key and value always give the same label.
    """
    return ",".join(f"{key}={_plain(value)}" for key, value in point.items())


def select(comparison: Comparison, arms: Sequence[str], seeds: Sequence[int]) -> Comparison:
    """Return the comparison with only these arms, in the order of the file, and these seeds; none: all.

    Raises:
        ConfigError: there is no such arm.
    """
    known = [arm.name for arm in comparison.arms]
    for name in arms:
        if name not in known:
            raise ConfigError(f"arm {name!r}: there is no such arm; there are {', '.join(known)}")
    kept = tuple(arm for arm in comparison.arms if not arms or arm.name in arms)
    reference = comparison.reference if comparison.reference in {arm.name for arm in kept} else None
    return replace(comparison, arms=kept, seeds=tuple(seeds) or comparison.seeds, reference=reference)


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
