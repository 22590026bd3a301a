"""`summary.json` of a comparison: what every run came to, the medians over seeds, and ratios to the reference arm.

docs/lab.md describes every field; a change of meaning raises `FORMAT_VERSION`. Pure, but for `write` and `read`.
"""

from collections.abc import Mapping, Sequence
from math import inf, isfinite
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from skerry.errors import ConfigError
from testbed import whole_file
from testbed.comparison import targets
from testbed.comparison.crew import State
from testbed.comparison.plan import RunKey
from testbed.comparison.run_spec import CurvePoint, RunResult
from testbed.comparison.scenario import Arm, Comparison, Metric, ModelKind, World

FILE_NAME = "summary.json"
FORMAT_VERSION = 1
MODELS: tuple[ModelKind, ...] = ("regional", "federated")

Values = dict[str, float | None]  # measure -> value; None: not reached, or there was nothing to measure


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    seed: int
    ended: str
    values: Values
    per_class: tuple[float | None, ...] | None  # accuracy of each class at the end, of the judged model
    digest: str


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """A measure over seeds. A target that was not reached counts as later than any other, and shows as None."""

    median: float | None
    low: float | None
    high: float | None
    measured: int  # runs that have it


class GridPoint(msgspec.Struct, frozen=True, kw_only=True):
    """What was tried while an arm was tuned."""

    point: dict[str, Any]  # recipe key -> value
    values: Values | None  # None: the run failed, or is not there yet
    chosen: bool


class ArmSummary(msgspec.Struct, frozen=True, kw_only=True):
    """An arm in one world, over seeds, at the point that was chosen for it."""

    name: str
    description: str
    recipe: str
    servers: str
    home: str | None  # region of the single coordinator
    stages: dict[str, Any] | None  # the recipe's tables as they were used; None: its point is not chosen yet
    point: dict[str, Any]
    grid: tuple[GridPoint, ...]  # empty: there was nothing to tune
    runs: tuple[RunSummary, ...]
    over_seeds: dict[str, Spread]
    ratios: Values  # median over the reference arm's median; above 1: more, or later


class FailureSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A run that came to no result."""

    run: str
    reason: str
    traceback: str


class WorldSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A world and what came out of it."""

    world: World
    arms: tuple[ArmSummary, ...]
    parameters: int | None  # of the model
    held_out_examples: int | None


class ComparisonSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The whole comparison."""

    format_version: int
    scenario: str
    description: str
    notes: str
    command: str
    versions: dict[str, str]
    seeds: tuple[int, ...]
    duration_s: float | None = None  # virtual seconds of a run, at most; None: written before this was told
    metric: Metric
    targets: tuple[float, ...]
    hold_s: float
    judged: ModelKind
    reference: str
    runs_finished: int
    runs_total: int
    wall_s: float  # of all runs together, on one core each
    training_wall_share: float | None  # of it, training and evaluating
    worlds: tuple[WorldSummary, ...]
    failures: tuple[FailureSummary, ...]


def summarise(state: State, *, command: str, versions: Mapping[str, str]) -> ComparisonSummary:
    """Return what a comparison came to so far."""
    comparison = state.plan.comparison
    walls = [result.wall_s for result in state.results.values()]
    training = sum(result.wall_s * result.training_wall_share for result in state.results.values())
    return ComparisonSummary(
        format_version=FORMAT_VERSION,
        scenario=comparison.name,
        description=comparison.description,
        notes=comparison.notes,
        command=command,
        versions=dict(versions),
        seeds=comparison.seeds,
        duration_s=comparison.duration_s,
        metric=comparison.metric,
        targets=comparison.ordered_targets(),
        hold_s=comparison.hold_s,
        judged=comparison.judged,
        reference=comparison.reference_arm(),
        runs_finished=len(state.results),
        runs_total=state.plan.total(state.failed),
        wall_s=sum(walls),
        training_wall_share=training / sum(walls) if sum(walls) > 0.0 else None,
        worlds=tuple(_world(state, world) for world in comparison.worlds),
        failures=tuple(
            FailureSummary(run=str(key), reason=failure.reason, traceback=failure.traceback)
            for key, failure in sorted(state.failures.items())
        ),
    )


def write(summary: ComparisonSummary, folder: Path) -> Path:
    """Store `summary` as `folder/summary.json`, written beside and renamed; return the path."""
    return whole_file.write_json(folder / FILE_NAME, summary)


def read(folder: Path) -> ComparisonSummary:
    """Read what `write` stored.

    Raises:
        ConfigError: there is no summary in `folder`, or it is not one of this format.
    """
    path = folder / FILE_NAME
    try:
        summary = msgspec.json.decode(path.read_bytes(), type=ComparisonSummary)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror}; is {folder} the output of a comparison?"
        ) from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path}: no summary of a comparison: {error}") from error
    if summary.format_version != FORMAT_VERSION:
        raise ConfigError(f"{path}: format {summary.format_version}, this version reads {FORMAT_VERSION}")
    return summary


def values_of(result: RunResult, comparison: Comparison) -> Values:
    """Return every measure of a run under its name."""
    values: Values = {}
    for model in MODELS:
        curve = targets.samples(result.curve, comparison.metric, model)
        values[f"{model}_final"] = targets.final(curve, comparison.hold_s)
        values[f"{model}_best"] = targets.best(curve, comparison.metric, comparison.hold_s)
        for target in comparison.ordered_targets():
            at_s = targets.time_to(target, curve, comparison.metric, comparison.hold_s)
            values[f"{model}_s_to_{target:g}"] = at_s
            values[f"{model}_bytes_to_{target:g}"] = None if at_s is None else _bytes_until(result.curve, at_s)
    return values | {
        "updates": float(result.updates),
        "updates_rejected": float(result.updates_rejected),
        "staleness_mean": result.staleness_mean,
        "staleness_p99": result.staleness_p99,
        "bytes_up": float(result.bytes_up),
        "bytes_down": float(result.bytes_down),
        "bytes_peers": float(result.bytes_peers),
        "idle_devices": result.idle_devices,
        "idle_servers": result.idle_servers,
        "elapsed_s": result.elapsed_s,
        "messages": float(result.messages),
        "wall_s": result.wall_s,
        "training_wall_share": result.training_wall_share,
    }


def spread(values: Sequence[float | None]) -> Spread:
    """Return median and ends of one value or more; None counts as infinite, and what is infinite shows as None."""
    ordered = sorted(inf if value is None else value for value in values)
    shown = [value if isfinite(value) else None for value in (median(ordered), ordered[0], ordered[-1])]
    return Spread(median=shown[0], low=shown[1], high=shown[2], measured=sum(value is not None for value in values))


def ratios(own: Mapping[str, Spread], reference: Mapping[str, Spread]) -> Values:
    """Return each median over the reference's; None where one of the two is missing or the reference's is 0."""
    return {name: _ratio(one, reference.get(name)) for name, one in own.items()}


def _ratio(one: Spread, other: Spread | None) -> float | None:
    if one.median is None or other is None or not other.median:
        return None
    return one.median / other.median


def _world(state: State, world: World) -> WorldSummary:
    comparison = state.plan.comparison
    arms = [_arm(state, world, arm) for arm in comparison.arms]
    reference = next(arm for arm in arms if arm.name == comparison.reference_arm())
    any_result = next((result for key, result in state.results.items() if key.world == world.name), None)
    return WorldSummary(
        world=world,
        arms=tuple(msgspec.structs.replace(arm, ratios=ratios(arm.over_seeds, reference.over_seeds)) for arm in arms),
        parameters=None if any_result is None else any_result.parameters,
        held_out_examples=None if any_result is None else any_result.held_out_examples,
    )


def _arm(state: State, world: World, arm: Arm) -> ArmSummary:
    plan, comparison = state.plan, state.plan.comparison
    chosen = plan.chosen(world, arm, state.results, state.failed)
    keys = [] if chosen is None else [RunKey(world.name, arm.name, chosen, seed) for seed in comparison.seeds]
    there = [key for key in keys if key in state.results]
    runs = tuple(_run(key, state.results[key], comparison) for key in there)
    names = runs[0].values if runs else ()
    spec = plan.spec(keys[0]) if keys else None
    return ArmSummary(
        name=arm.name,
        description=arm.description,
        recipe=arm.recipe,
        servers=arm.servers,
        home=(arm.home or world.regions[0]) if arm.servers == "one" else None,
        stages=None if spec is None else msgspec.to_builtins(spec.recipe),
        point={} if spec is None else spec.point,
        grid=_grid(state, world, arm, chosen),
        runs=runs,
        over_seeds={name: spread([run.values[name] for run in runs]) for name in names},
        ratios={},
    )


def _run(key: RunKey, result: RunResult, comparison: Comparison) -> RunSummary:
    return RunSummary(
        seed=key.seed,
        ended=result.ended,
        values=values_of(result, comparison),
        per_class=result.per_class,
        digest=result.digest,
    )


def _grid(state: State, world: World, arm: Arm, chosen: str | None) -> tuple[GridPoint, ...]:
    tried = state.plan.tried(world, arm)
    if not state.plan.comparison.grid_of(arm):
        return ()
    return tuple(
        GridPoint(
            point=state.plan.spec(key).point,
            values=values_of(state.results[key], state.plan.comparison) if key in state.results else None,
            chosen=key.point == chosen,
        )
        for key in tried
    )


def _bytes_until(curve: Sequence[CurvePoint], at_s: float) -> float:
    """Return everything that was sent up to a moment of the curve."""
    point = next(point for point in curve if point.at_s >= at_s)
    return float(point.bytes_up + point.bytes_down + point.bytes_peers)
