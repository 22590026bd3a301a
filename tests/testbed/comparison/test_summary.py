"""What a comparison came to: measures of each run, medians and ends over seeds, ratios, grids, failures."""

import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from skerry.errors import ConfigError
from testbed.comparison import summary
from testbed.comparison.crew import State
from testbed.comparison.plan import Plan, RunKey
from testbed.comparison.run_spec import RunResult, RunSpec
from testbed.comparison.summary import ArmSummary, ComparisonSummary, spread
from testbed.comparison.worker import Failed

PlanOf = Callable[..., Plan]
Simulated = Callable[[RunSpec], RunResult]


def of(state: State) -> ComparisonSummary:
    return summary.summarise(state, command="skerry-lab run small", versions={"skerry": "1"})


def arm_of(whole: ComparisonSummary, name: str) -> ArmSummary:
    return next(arm for arm in whole.worlds[0].arms if arm.name == name)


def test_every_measure_of_a_run_is_there(state_of: Callable[..., State]) -> None:
    """The stand-in's accuracy is 1 - exp(-0.6 * 1.1 t) for seed 1, in steps of half a second."""
    plain = arm_of(of(state_of()), "plain")
    first = plain.runs[0]
    assert (first.seed, first.digest, first.ended) == (1, "plain-1", "duration over")
    values = first.values
    assert values["regional_s_to_0.5"] == 2.0  # 1 - exp(-0.66 * 1.5) is 0.63, the mean over a second back 0.5
    assert values["federated_s_to_0.5"] == 1.5
    assert values["regional_bytes_to_0.5"] == 3500 * 2.0
    assert values["regional_final"] == pytest.approx(1.0 - math.exp(-0.66 * 9.5), abs=1e-3)
    assert values["regional_best"] == values["regional_final"]
    assert (values["updates"], values["staleness_p99"], values["idle_servers"]) == (100.0, 12.0, 0.5)
    assert (values["bytes_up"], values["bytes_down"], values["bytes_peers"]) == (10_000.0, 20_000.0, 5_000.0)


def test_medians_and_ratios_are_over_the_seeds(state_of: Callable[..., State]) -> None:
    whole = of(state_of(seeds=[1, 2, 3]))
    plain, tuned = arm_of(whole, "plain"), arm_of(whole, "tuned")
    times = [run.values["regional_s_to_0.9"] for run in plain.runs]
    assert times == sorted((one for one in times if one is not None), reverse=True)  # a higher seed learns faster
    measured = plain.over_seeds["regional_s_to_0.9"]
    assert (measured.median, measured.low, measured.high, measured.measured) == (times[1], times[2], times[0], 3)
    assert plain.ratios["regional_s_to_0.9"] == 1.0
    expected = tuned.over_seeds["regional_s_to_0.9"].median
    assert expected is not None
    assert measured.median is not None
    assert tuned.ratios["regional_s_to_0.9"] == expected / measured.median < 1.0


def test_a_target_that_is_not_always_reached_counts_as_never() -> None:
    assert spread([3.0, None, 1.0]) == summary.Spread(median=3.0, low=1.0, high=None, measured=2)
    assert spread([None, None, 1.0]) == summary.Spread(median=None, low=1.0, high=None, measured=1)
    assert spread([None]) == summary.Spread(median=None, low=None, high=None, measured=0)


def test_the_grid_and_its_choice_are_shown(state_of: Callable[..., State]) -> None:
    whole = of(state_of())
    tuned = arm_of(whole, "tuned")
    assert [(one.point["arrival.server_rate"], one.chosen) for one in tuned.grid] == [(0.3, False), (0.6, True)]
    assert all(one.values is not None for one in tuned.grid)
    assert tuned.point == {"arrival.server_rate": 0.6}
    assert tuned.stages is not None
    assert tuned.stages["arrival"]["server_rate"] == 0.6
    assert (tuned.servers, tuned.home) == ("one", "north")
    plain = arm_of(whole, "plain")
    assert (plain.grid, plain.home) == ((), None)


def test_what_is_not_there_yet_is_said(plan_of: PlanOf, simulated: Simulated) -> None:
    plan = plan_of()
    key = RunKey("near", "tuned", "arrival.server_rate=0.3", 1)
    state = State(plan, {key: simulated(plan.spec(key))})
    whole = of(state)
    assert (whole.runs_finished, whole.runs_total) == (1, 5)
    tuned = arm_of(whole, "tuned")
    assert (tuned.runs, tuned.over_seeds, tuned.ratios, tuned.stages) == ((), {}, {}, None)
    assert [one.values is None for one in tuned.grid] == [False, True]
    assert whole.worlds[0].parameters == 14_278
    empty = of(State(plan, {}))
    assert (empty.worlds[0].parameters, empty.training_wall_share) == (None, None)


def test_failures_are_named(plan_of: PlanOf) -> None:
    state = State(plan_of(), {}, {RunKey("near", "plain", "", 1): Failed(reason="no rows", traceback="line 1")})
    [failure] = of(state).failures
    assert (failure.run, failure.reason, failure.traceback) == ("near, plain, seed 1", "no rows", "line 1")


def test_the_share_of_training_is_of_all_wall_time(state_of: Callable[..., State]) -> None:
    whole = of(state_of())
    assert whole.wall_s == pytest.approx(3 * 3.0 + 2 * 1.0)
    assert whole.training_wall_share == pytest.approx(0.8)


def test_a_summary_is_read_as_it_was_written(tmp_path: Path, state_of: Callable[..., State]) -> None:
    whole = of(state_of(per_class=True))
    assert whole.worlds[0].arms[0].runs[0].per_class == (0.5, 0.75, None)
    summary.write(whole, tmp_path)
    assert summary.read(tmp_path) == whole
    (tmp_path / "summary.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(whole, format_version=9)))
    with pytest.raises(ConfigError, match="format 9, this version reads 1"):
        summary.read(tmp_path)
    (tmp_path / "summary.json").write_bytes(b'{"scenario": 1}')
    with pytest.raises(ConfigError, match="no summary of a comparison"):
        summary.read(tmp_path)
    with pytest.raises(ConfigError, match=r"is .* the output of a comparison"):
        summary.read(tmp_path / "other")
