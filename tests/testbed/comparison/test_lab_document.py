"""docs/lab.md says what is true of comparisons: its example can be read, and every key and measure is in it."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from testbed import scenario as scenarios
from testbed.comparison import command, scenario_file, summary
from testbed.comparison.plan import Plan, RunKey
from testbed.comparison.run_spec import RunResult, RunSpec
from testbed.comparison.scenario import Arm, Comparison, ProfileSpeed, RoundTime, Task, World

DOCUMENT = (Path(__file__).parents[3] / "docs" / "lab.md").read_text()
COMPARISONS = DOCUMENT[DOCUMENT.index("## Comparisons") :]


@pytest.mark.parametrize("smoke", [False, True])
def test_the_example_can_be_run(smoke: bool) -> None:
    [text] = re.findall(r"```toml\n(.*?)```", COMPARISONS, re.DOTALL)
    tables = tomllib.loads(text)
    assert scenarios.is_comparison(tables)
    comparison = scenario_file.comparison(tables, "lab.md", smoke=smoke)
    plan = Plan.of(comparison, Path(), {world.task.bundle: "0" * 64 for world in comparison.worlds})
    assert len(plan.due({})) > 3


@pytest.mark.parametrize("kind", [Comparison, World, Arm, Task, RoundTime, ProfileSpeed])
def test_every_key_is_described(kind: type[msgspec.Struct]) -> None:
    missing = [field.name for field in msgspec.structs.fields(kind) if f"`{field.name}`" not in COMPARISONS]
    assert set(missing) <= {"name", "description"}  # which say themselves


def test_every_measure_is_described(plan_of: Callable[..., Plan], simulated: Callable[[RunSpec], RunResult]) -> None:
    plan = plan_of(targets=[0.9])
    names = summary.values_of(simulated(plan.spec(RunKey("near", "plain", "", 1))), plan.comparison)
    assert [name for name in names if f"`{name.replace('federated', 'regional')}`" not in COMPARISONS] == []


def test_every_packaged_comparison_is_named() -> None:
    assert [one.name for one in command.packaged() if f"`{one.name}`" not in COMPARISONS] == []
