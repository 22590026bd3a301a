"""A small comparison, and an analytic stand-in for the simulation: curves that rise as a formula says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testbed.comparison import scenario_file
from testbed.comparison.crew import State
from testbed.comparison.plan import Plan
from testbed.comparison.run_spec import Place, RunResult, RunSpec
from testbed.comparison.scenario import Comparison
from tests.testbed.comparison import analytic

SHA256 = "0" * 64


def make_tables(**changes: Any) -> dict[str, Any]:
    """Two regions, two arms of which one has a grid of two, two seeds."""
    whole: dict[str, Any] = {
        "name": "small",
        "description": "two arms",
        "duration_s": 10.0,
        "targets": [0.9, 0.5],
        "seeds": [1, 2],
        "world": {
            "name": "near",
            "regions": ["north", "south"],
            "latency_ms": [[0, 100], [100, 0]],
            "devices": 4,
            "task": {"data": "builtin:activity?part={part}&parts={parts}", "held_out": "builtin:activity?split=test"},
        },
        "arms": [
            {"name": "plain", "recipe": "default"},
            {"name": "tuned", "recipe": "dense", "servers": "one", "grid": {"arrival.server_rate": [0.3, 0.6]}},
        ],
        "smoke": {"seeds": [1], "duration_s": 2.0, "world": {"devices": 2}},
    }
    return whole | changes


@pytest.fixture
def tables() -> Callable[..., dict[str, Any]]:
    return make_tables


@pytest.fixture
def make() -> Callable[..., Comparison]:
    def comparison(*, smoke: bool = False, **changes: Any) -> Comparison:
        return scenario_file.comparison(make_tables(**changes), "small.toml", smoke=smoke)

    return comparison


@pytest.fixture
def plan_of(make: Callable[..., Comparison]) -> Callable[..., Plan]:
    def plan(**changes: Any) -> Plan:
        whole = make(**changes)
        return Plan.of(whole, Path(), {world.task.bundle: SHA256 for world in whole.worlds})

    return plan


@pytest.fixture
def simulated() -> Callable[[RunSpec], RunResult]:
    def run(spec: RunSpec) -> RunResult:
        return analytic.simulate(spec, Place(bundle="builtin:activity", data_dir=None), lambda _: None)

    return run


@pytest.fixture
def state_of(plan_of: Callable[..., Plan], simulated: Callable[[RunSpec], RunResult]) -> Callable[..., State]:
    """Make a comparison in which everything is done."""

    def make(**changes: object) -> State:
        state = State(plan_of(**changes), {})
        while (key := state.next()) is not None:
            state.results[key] = simulated(state.plan.spec(key))
        return state

    return make
