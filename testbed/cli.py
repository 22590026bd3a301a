"""`skerry-lab`: the commands of those who run whole federations on one machine."""

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TextIO

import click
import msgspec

from skerry import __version__
from skerry.command_line import CONTEXT_SETTINGS
from skerry.errors import ConfigError, SkerryError
from skerry.extras import require
from testbed import report, run_record
from testbed import scenario as scenarios
from testbed.comparison import command as comparisons
from testbed.comparison import summary, table
from testbed.comparison.command import Outcome, Wish
from testbed.deploy.cli import deploy
from testbed.run import Order, Run
from testbed.run_record import RunRecord

EXIT_CODES = """
\b
Exit codes:
  0  done; for `run`: it came to its end and every goal held, or every run of the comparison has its result
  1  a goal did not hold, a run failed or was interrupted, or any other error
  2  scenario, recipe or command line, or a missing package
  3  the disk refused a read or a write
  5  training data or bundle
"""
RESULTS = Path("lab-results")

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")


@click.group(epilog=EXIT_CODES, context_settings=CONTEXT_SETTINGS)
@click.version_option(__version__, prog_name="skerry-lab")
def cli() -> None:
    """Skerry's lab: the services as they ship, many of them, on this machine, in real or in virtual time."""


@cli.command(
    epilog="\b\nExamples:\n  skerry-lab run quickstart\n  skerry-lab run ./my-world.toml --output results/today"
    "\n  skerry-lab run spyker-mnist --smoke\n  skerry-lab run spyker-mnist --arms spyker,fedasync --seed 2"
)
@click.argument("scenario")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, file_okay=False),
    help=f"Folder for everything that the run leaves; must be empty or new, but for a comparison, which goes on there."
    f"  [default: {RESULTS}/SCENARIO-TIME; of a comparison {RESULTS}/SCENARIO]",
)
@click.option("--recipe", help="Processes: a packaged recipe or a TOML file, instead of the scenario's own.")
@click.option("--seed", type=click.IntRange(min=0, max=(1 << 32) - 1), help="Instead of the scenario's own.")
@click.option(
    "--duration",
    "duration_s",
    type=click.FloatRange(min=0.0, min_open=True),
    help="Processes: seconds of training.",
)
@click.option("--smoke", is_flag=True, help="Comparison: its small form, in less than a minute.")
@click.option("--arms", help="Comparison: only these arms, with commas between them.")
@click.option("--jobs", type=click.IntRange(1, 1024), help="Comparison: runs at a time.  [default: one for each core]")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False, resolve_path=True),
    envvar="SKERRY_DATA",
    show_envvar=True,
    help="Where the data sets of the scenario's sources are, e.g. of builtin:mnist.",
)
@_json
def run(
    scenario: str,
    output: Path | None,
    recipe: str | None,
    seed: int | None,
    duration_s: float | None,
    smoke: bool,
    arms: str | None,
    jobs: int | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Run SCENARIO, a packaged one or a TOML file.

    A scenario of processes is run as it would be in the field, and judged by its goals. A comparison runs each of its
    arms in each of its worlds, in virtual time, for every seed; what is finished is kept, and the same command goes on
    after a stop.
    """
    progress = sys.stderr if as_json else sys.stdout
    with _errors():
        require("lab", "this command")
        tables, origin, scenario_folder = scenarios.tables_of(scenario)
        if scenarios.is_comparison(tables):
            _refuse(origin, "a comparison", {"--recipe": recipe, "--duration": duration_s})
            wish = Wish(
                tables=tables,
                origin=origin,
                scenario_folder=scenario_folder,
                smoke=smoke,
                arms=[name.strip() for name in arms.split(",")] if arms else (),
                seeds=() if seed is None else (seed,),
                folder=output,
                results=RESULTS,
                data_dir=data_dir,
                jobs=jobs,
                command=_command(),
            )
            outcome = comparisons.run(wish, progress)
            _print_comparison(outcome, progress, as_json=as_json)
            sys.exit(0 if outcome.complete else 1)
        _refuse(origin, "a scenario of processes", {"--smoke": smoke or None, "--arms": arms, "--jobs": jobs})
        world, stages = scenarios.load(scenario, recipe)
        folder = _folder(output, world.name)
        order = Order(
            scenario=world,
            recipe=stages,
            folder=folder,
            seed=world.seed if seed is None else seed,
            duration_s=world.duration_s if duration_s is None else duration_s,
            command=_command(),
            data_dir=data_dir,
        )
        record = asyncio.run(_run(order, progress))
        run_record.write(record, folder)
        report.write(record, folder)
    _print_result(record, folder, progress)
    if as_json:
        _print_json(record, folder)
    sys.exit(0 if record.passed else 1)


def _refuse(origin: str, kind: str, options: dict[str, object]) -> None:
    """Refuse options that mean nothing for this kind of scenario.

    Raises:
        ConfigError: one of them was given.
    """
    for option, value in options.items():
        if value is not None:
            raise ConfigError(f"{option}: means nothing for {origin}, which is {kind}")


def _command() -> str:
    return shlex.join(["skerry-lab", *sys.argv[1:]])


async def _run(order: Order, progress: TextIO) -> RunRecord:
    """Run with a live view; Ctrl-C and SIGTERM end the run early, a second one at once."""
    from testbed.report.live import open_live_view

    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with open_live_view(progress) as view:
        return await Run(order, view.show).run()


@cli.command(name="list", epilog="\b\nExample:\n  skerry-lab list --json | jq -r .scenarios[].name")
@_json
def list_(as_json: bool) -> None:
    """List the packaged scenarios: those of processes, then the comparisons."""
    with _errors():
        packaged = scenarios.packaged()
        compared = comparisons.packaged()
    if as_json:
        rows = [
            {
                "kind": "processes",
                "name": one.name,
                "description": one.description,
                "regions": len(one.regions),
                "devices": len(list(one.devices())),
                "recipe": one.recipe,
                "duration_s": one.duration_s,
            }
            for one in packaged
        ]
        rows += [
            {
                "kind": "comparison",
                "name": one.name,
                "description": one.description,
                "worlds": [world.name for world in one.worlds],
                "arms": [arm.name for arm in one.arms],
                "seeds": one.seeds,
            }
            for one in compared
        ]
        click.echo(msgspec.json.encode({"scenarios": rows}))
        return
    width = max(len(name) for name in ([one.name for one in packaged] + [one.name for one in compared]))
    for one in packaged:
        click.echo(f"{one.name:<{width}}  {one.description} (recipe {one.recipe}, at most {one.duration_s:g} s)")
    for comparison in compared:
        parts = (("arms", comparison.arms), ("worlds", comparison.worlds), ("seeds", comparison.seeds))
        size = ", ".join(f"{len(one)} {name}" for name, one in parts)
        click.echo(f"{comparison.name:<{width}}  {comparison.description} ({size}, in virtual time)")


@cli.command(name="report", epilog="\b\nExample:\n  skerry-lab report lab-results/quickstart-20250101-120000")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@_json
def report_(folder: Path, as_json: bool) -> None:
    """Make summary.json and report.html of what was run into FOLDER again, from what was recorded there."""
    with _errors():
        require("lab", "this command")
        if (folder / comparisons.RUNS).is_dir():
            outcome = Outcome(comparisons.report(folder), folder)
            _print_comparison(outcome, sys.stderr if as_json else sys.stdout, as_json=as_json)
            return
        record = run_record.read(folder)
        report.write(record, folder)
    _print_result(record, folder, sys.stderr if as_json else sys.stdout)
    if as_json:
        _print_json(record, folder)


@cli.command(
    epilog="\b\nExamples:\n  skerry-lab compare lab-results/spyker-mnist"
    "\n  skerry-lab compare lab-results/spyker-mnist --markdown > spyker-mnist.md"
    "\n  skerry-lab compare results/before results/after --json | jq -r '.rows[] | [.arm, .medians.updates] | @tsv'"
)
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--markdown", "as_markdown", is_flag=True, help="Print the table in Markdown, with what it was made with."
)
@_json
def compare(folders: tuple[Path, ...], as_markdown: bool, as_json: bool) -> None:
    """Show what the comparisons in FOLDERS came to, side by side.

    Ratios are to the reference arm of the same world in the first folder.
    """
    with _errors():
        results = [(str(folder), summary.read(folder)) for folder in folders]
    if as_json:
        click.echo(msgspec.json.encode({"rows": table.rows(results)}))
    else:
        click.echo(table.markdown(results) if as_markdown else table.text(results))
        for line in table.differences(results):
            click.echo(line, err=True)


def _folder(output: Path | None, name: str) -> Path:
    """Return the run's folder, made if needed.

    Raises:
        ConfigError: it holds something already.
    """
    folder = output if output is not None else RESULTS / f"{name}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError(f"{folder}: is not empty; choose another folder with --output, or remove it")
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made: {error.strerror}") from error
    return folder.resolve()


def _print_result(record: RunRecord, folder: Path, stream: TextIO) -> None:
    for verdict in record.verdicts:
        click.echo(f"  {'holds' if verdict.holds else 'FAILS':<6}{verdict.statement}", stream)
    if record.failure is not None:
        click.echo(f"failed: {record.failure.reason}", stream)
        for line in record.failure.log_tail:
            click.echo(f"  | {line}", stream)
    missed = sum(not verdict.holds for verdict in record.verdicts)
    goals = "every goal held" if not missed else f"{missed} of {len(record.verdicts)} goals did not hold"
    click.echo(f"{record.scenario}: {record.ended} after {record.elapsed_s:.0f} s, {goals}", stream)
    click.echo(f"report: {folder / 'report.html'}", stream)


def _print_comparison(outcome: Outcome, stream: TextIO, *, as_json: bool) -> None:
    told = outcome.summary
    click.echo(table.text([("", told)]), stream)
    for failure in told.failures:
        click.echo(f"failed: {failure.run}: {failure.reason}", stream)
    if outcome.smoke:
        click.echo("the small form: it shows that everything works, not which arm is better", stream)
    state = "interrupted, " if outcome.interrupted else ""
    click.echo(f"{told.scenario}: {state}{told.runs_finished} of {told.runs_total} runs finished", stream)
    click.echo(f"report: {outcome.folder / 'report.html'}", stream)
    if as_json:
        result = {
            "scenario": told.scenario,
            "complete": outcome.complete,
            "interrupted": outcome.interrupted,
            "runs_finished": told.runs_finished,
            "runs_total": told.runs_total,
            "folder": str(outcome.folder),
            "failures": told.failures,
            "rows": table.rows([("", told)]),
        }
        click.echo(msgspec.json.encode(result))


def _print_json(record: RunRecord, folder: Path) -> None:
    result = {
        "scenario": record.scenario,
        "passed": record.passed,
        "ended": record.ended,
        "elapsed_s": record.elapsed_s,
        "folder": str(folder),
        "verdicts": record.verdicts,
        "failure": record.failure,
    }
    click.echo(msgspec.json.encode(result))


@contextmanager
def _errors() -> Iterator[None]:
    """Print what a person can act on as one line; leave defects their traceback."""
    try:
        yield
    except SkerryError as error:
        click.echo(f"skerry-lab: {error}", err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, asyncio.CancelledError):
        click.echo("skerry-lab: interrupted", err=True)
        sys.exit(1)


cli.add_command(deploy)


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported
    cli(prog_name="skerry-lab")


if __name__ == "__main__":
    main()
