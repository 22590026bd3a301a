"""What `skerry-lab` does with a comparison: run it, show it again, and put several side by side."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from skerry.errors import ConfigError
from skerry.tasks.data import check_source
from testbed import scenario as scenarios
from testbed import versions
from testbed.comparison import bundles, crew, scenario_file, store, summary
from testbed.comparison.crew import Crew, State
from testbed.comparison.plan import Plan, RunKey, label, select
from testbed.comparison.run_spec import CurvePoint
from testbed.comparison.scenario import Comparison
from testbed.comparison.summary import ComparisonSummary
from testbed.comparison.view import View

RUNS = store.FOLDER  # a folder of results has this one in it
Curves = dict[str, dict[str, list[tuple[CurvePoint, ...]]]]


@dataclass(frozen=True)
class Wish:
    """What somebody asks for on the command line."""

    tables: dict[str, Any]  # of the scenario's file
    origin: str  # its name, for errors
    scenario_folder: Path  # that its paths are relative to
    smoke: bool
    arms: Sequence[str]  # none: all
    seeds: Sequence[int]  # none: the scenario's
    folder: Path | None  # for everything that is left; what is there is used; None: one of the comparison's name
    results: Path  # of all comparisons, where that folder and bundles are
    data_dir: Path | None
    jobs: int | None  # runs at a time; None: one for each core
    command: str  # how to run it again


@dataclass(frozen=True)
class Outcome:
    """How a comparison ended."""

    summary: ComparisonSummary
    folder: Path
    interrupted: bool = False

    @property
    def smoke(self) -> bool:
        """Whether it is a small form, by the command that made it."""
        return "--smoke" in self.summary.command.split()

    @property
    def complete(self) -> bool:
        """Whether every run has a result."""
        return self.summary.runs_finished == self.summary.runs_total and not self.summary.failures


def packaged() -> list[Comparison]:
    """Every comparison that comes with the product, by name, in its full form."""
    found = []
    for file in scenarios.packaged_files(scenarios.PACKAGED_SCENARIOS):
        tables, origin, _ = scenarios.tables_of(file.removesuffix(scenarios.SUFFIX))
        if scenarios.is_comparison(tables):
            found.append(scenario_file.comparison(tables, origin, smoke=False))
    return sorted(found, key=lambda one: one.name)


def run(wish: Wish, progress: TextIO, worker: Sequence[str] = crew.COMMAND) -> Outcome:
    """Run what is not there yet, and write summary and report of what is; Ctrl-C ends it early, and keeps what is done.

    Raises:
        SkerryError: scenario, recipe, bundle or data cannot be used; the disk refused a read or a write.
    """

    def tell(text: str) -> None:
        progress.write(f"{text}\n")
        progress.flush()

    whole = scenario_file.comparison(wish.tables, wish.origin, smoke=wish.smoke)
    comparison = select(whole, wish.arms, wish.seeds)
    folder = wish.folder or wish.results / f"{comparison.name}{'-smoke' if wish.smoke else ''}"
    jobs = wish.jobs or cores()
    _check_data(comparison, wish.data_dir)
    specs = [world.task.bundle for world in comparison.worlds]
    places, digests = bundles.places(specs, wish.scenario_folder, wish.results, wish.data_dir, tell)
    try:
        plan = Plan.of(comparison, wish.scenario_folder, digests)
    except ConfigError as error:
        raise ConfigError(f"{wish.origin}: {error}") from error
    made_with = versions.installed() | {"source": versions.source_digest()}
    state = State(plan, store.finished(folder, plan, made_with))
    tell(f"{comparison.name}: {plan.total()} runs, {jobs} at a time, seeds {', '.join(map(str, comparison.seeds))}")
    tell(f"repeat or go on with: {wish.command}")
    view = View(progress, jobs)
    view.already(state)
    workers = Crew(state, folder, versions=made_with, places=places, command=worker, show=view.show)
    interrupted = asyncio.run(_until_done(workers, jobs))
    view.end()
    told = summary.summarise(state, command=wish.command, versions=made_with)
    write(told, curves_of(state), folder)
    return Outcome(told, folder, interrupted=interrupted)


def _check_data(comparison: Comparison, data_dir: Path | None) -> None:
    """See that data sources can be read as far as that can be seen now; better one word of it than one from every run.

    Raises:
        DataError: one cannot.
    """
    for world in comparison.worlds:
        seed = comparison.seeds[0]
        for source in (world.task.source(0, world, seed), world.task.held_out_source(seed)):
            check_source(source, data_dir)


def write(told: ComparisonSummary, curves: Curves, folder: Path) -> None:
    """Write `summary.json` and `report.html`."""
    from testbed.report import comparison_page

    folder.mkdir(parents=True, exist_ok=True)
    summary.write(told, folder)
    comparison_page.write(told, curves, folder)


def report(folder: Path) -> ComparisonSummary:
    """Write `report.html` of a comparison that was run into `folder` again; return its summary.

    Raises:
        ConfigError: there is no comparison in `folder`.
        StorageError: a file that is there cannot be read.
    """
    told = summary.read(folder)
    curves: Curves = {}
    for world in told.worlds:
        for arm in world.arms:
            keys = [RunKey(world.world.name, arm.name, label(arm.point), run.seed) for run in arm.runs]
            results = [store.read_any(store.path_of(folder, key)) for key in keys]
            kept = [
                result.curve
                for run, result in zip(arm.runs, results, strict=True)
                if result is not None and result.digest == run.digest
            ]
            if kept:
                curves.setdefault(world.world.name, {})[arm.name] = kept
    write(told, curves, folder)
    return told


def curves_of(state: State) -> Curves:
    """Return the curves of every world and arm at the point that was chosen for it, one for each seed that is there."""
    plan = state.plan
    curves: Curves = {}
    for world in plan.comparison.worlds:
        for arm in plan.comparison.arms:
            point = plan.chosen(world, arm, state.results, state.failed)
            keys = [RunKey(world.name, arm.name, point or "", seed) for seed in plan.comparison.seeds]
            there = [state.results[key].curve for key in keys if point is not None and key in state.results]
            if there:
                curves.setdefault(world.name, {})[arm.name] = there
    return curves


async def _until_done(workers: Crew, jobs: int) -> bool:
    """Run the workers; return whether Ctrl-C or SIGTERM ended them early."""
    task = asyncio.ensure_future(workers.run(jobs))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
