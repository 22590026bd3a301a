"""Which runs are needed, in what order, and which point of a grid is compared."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from skerry.algorithms.arrival import GainControlled
from skerry.errors import ConfigError
from testbed.comparison.plan import Plan, RunKey, label, select
from testbed.comparison.run_spec import RunResult, RunSpec
from testbed.comparison.scenario import Comparison

PlanOf = Callable[..., Plan]
Simulated = Callable[[RunSpec], RunResult]

LOW, HIGH = "arrival.server_rate=0.3", "arrival.server_rate=0.6"


def tuned(point: str, seed: int) -> RunKey:
    return RunKey("near", "tuned", point, seed)


def plain(seed: int) -> RunKey:
    return RunKey("near", "plain", "", seed)


def carried_out(plan: Plan, simulated: Simulated) -> dict[RunKey, RunResult]:
    results: dict[RunKey, RunResult] = {}
    while left := [key for key in plan.due(results) if key not in results]:
        results[left[0]] = simulated(plan.spec(left[0]))
    return results


def test_grids_come_first_and_only_what_is_known_is_due(plan_of: PlanOf) -> None:
    assert plan_of().due({}) == [tuned(LOW, 1), tuned(HIGH, 1), plain(1), plain(2)]


def test_the_point_that_reaches_the_hardest_target_first_runs_on_all_seeds(
    plan_of: PlanOf, simulated: Simulated
) -> None:
    plan = plan_of()
    results = carried_out(plan, simulated)
    assert set(results) == {tuned(LOW, 1), tuned(HIGH, 1), tuned(HIGH, 2), plain(1), plain(2)}
    assert plan.chosen(plan.comparison.worlds[0], plan.comparison.arms[1], results) == HIGH
    assert plan.total() == len(results)


def with_curve(result: RunResult, accuracies: list[float]) -> RunResult:
    """The same run with one accuracy each second."""
    replace = msgspec.structs.replace
    curve = tuple(
        replace(result.curve[0], at_s=float(second), regional_accuracy=value, federated_accuracy=1.0 - value)
        for second, value in enumerate(accuracies)
    )
    return replace(result, curve=curve)


@pytest.mark.parametrize(
    ("low", "high", "chosen"),
    [
        ([0.0, 0.95, 0.95, 0.95], [0.0, 0.6, 0.95, 0.95], LOW),  # to 0.9 sooner
        ([0.0, 0.95, 0.95, 0.1], [0.0, 0.6, 0.95, 0.95], LOW),  # and what comes later does not matter
        ([0.0, 0.4, 1.0, 1.0], [0.6, 0.6, 0.6, 0.6], LOW),  # the hardest target counts before the easier one
        ([0.0, 0.4, 0.6, 0.8], [0.6, 0.6, 0.6, 0.6], HIGH),  # neither: to 0.5 sooner
        ([0.0, 0.1, 0.2, 0.3], [0.0, 0.1, 0.2, 0.2], LOW),  # none at all: better at the end
        ([0.0, 0.1, 0.2, 0.2], [0.0, 0.1, 0.2, 0.2], LOW),  # the same: the first in the file
    ],
)
def test_what_makes_a_point_the_better_one(
    plan_of: PlanOf, simulated: Simulated, low: list[float], high: list[float], chosen: str
) -> None:
    plan = plan_of()
    result = simulated(plan.spec(tuned(LOW, 1)))
    results = {tuned(LOW, 1): with_curve(result, low), tuned(HIGH, 1): with_curve(result, high)}
    assert plan.chosen(plan.comparison.worlds[0], plan.comparison.arms[1], results) == chosen


def test_the_judged_model_and_the_metric_decide(plan_of: PlanOf, simulated: Simulated) -> None:
    plan = plan_of(targets=[])
    result = simulated(plan.spec(tuned(LOW, 1)))
    results = {
        tuned(LOW, 1): with_curve(result, [0.0, 0.8, 0.8]), tuned(HIGH, 1): with_curve(result, [0.0, 0.2, 0.2])
    }  # fmt: skip
    for changes, point in (({}, LOW), ({"judged": "federated"}, HIGH)):
        plan = plan_of(targets=[], **changes)
        assert plan.chosen(plan.comparison.worlds[0], plan.comparison.arms[1], results) == point
    falling = {key: simulated(plan.spec(key)) for key in results}
    plan = plan_of(targets=[], metric="loss")
    assert plan.chosen(plan.comparison.worlds[0], plan.comparison.arms[1], falling) == HIGH


def test_a_failed_point_is_out_of_the_choice(plan_of: PlanOf, simulated: Simulated) -> None:
    plan = plan_of()
    results = {tuned(LOW, 1): simulated(plan.spec(tuned(LOW, 1)))}
    failed = frozenset({tuned(HIGH, 1)})
    assert tuned(LOW, 2) in plan.due(results, failed)
    both = frozenset({tuned(LOW, 1), tuned(HIGH, 1)})
    assert not any(key.arm == "tuned" and key.seed == 2 for key in plan.due({}, both))
    assert plan.total(both) == 4


def test_a_spec_says_everything_about_its_run(plan_of: PlanOf) -> None:
    spec = plan_of().spec(tuned(LOW, 2))
    assert spec.recipe.arrival == GainControlled(server_rate=0.3)
    assert (spec.servers, spec.home, spec.seed, spec.point) == ("one", "north", 2, {"arrival.server_rate": 0.3})
    assert (spec.targets, spec.bundle_sha256) == ((0.5, 0.9), "0" * 64)
    assert plan_of().spec(plain(1)).point == {}


def test_a_grid_is_every_combination(make: Callable[..., Comparison]) -> None:
    grid = {"arrival.server_rate": [0.3, 0.6], "uplink.return_unapplied": [True, False]}
    comparison = make(arms=[{"name": "a", "grid": grid}])
    plan = Plan.of(comparison, Path(), {comparison.worlds[0].task.bundle: "0" * 64})
    assert [key.point for key in plan.due({})] == [
        f"arrival.server_rate={rate},uplink.return_unapplied={flag}"
        for rate in (0.3, 0.6)
        for flag in ("true", "false")
    ]


def test_near_values_have_labels_of_their_own() -> None:
    assert label({"a": 0.1234567}) != label({"a": 0.1234568})


def test_arms_and_seeds_can_be_selected(make: Callable[..., Comparison]) -> None:
    whole = make(reference="tuned")
    some = select(whole, ["plain"], [7])
    assert ([arm.name for arm in some.arms], some.seeds, some.reference_arm()) == (["plain"], (7,), "plain")
    assert select(whole, [], []) == whole
    with pytest.raises(ConfigError, match="arm 'other': there is no such arm; there are plain, tuned"):
        select(whole, ["other"], [])


def test_a_key_that_the_recipe_lacks_is_refused_before_anything_runs(plan_of: PlanOf) -> None:
    with pytest.raises(ConfigError, match=r"grid of arm 'plain': arrival: .*`power`"):
        plan_of(grid={"arrival.power": [1.0]})
