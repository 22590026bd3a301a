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
from testbed import run_record
from testbed import scenario as scenarios
from testbed.run import Order, Run
from testbed.run_record import RunRecord

EXIT_CODES = """
\b
Exit codes:
  0  done; for `run`: it came to its end and every goal held
  1  a goal did not hold, the run failed or was interrupted, or any other error
  2  scenario, recipe or command line
  3  the disk refused a read or a write
  5  training data or bundle
"""
RESULTS = Path("lab-results")

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")


@click.group(epilog=EXIT_CODES, context_settings=CONTEXT_SETTINGS)
@click.version_option(__version__, prog_name="skerry-lab")
def cli() -> None:
    """Skerry's lab: the services as they ship, many of them, on this machine."""


@cli.command(
    epilog="\b\nExamples:\n  skerry-lab run quickstart\n  skerry-lab run ./my-world.toml --output results/today"
)
@click.argument("scenario")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, file_okay=False),
    help=f"Folder for everything that the run leaves; must be empty or new.  [default: {RESULTS}/SCENARIO-TIME]",
)
@click.option("--recipe", help="A packaged recipe or a TOML file, instead of the scenario's own.")
@click.option("--seed", type=click.IntRange(min=0, max=(1 << 32) - 1), help="Instead of the scenario's own.")
@click.option("--duration", "duration_s", type=click.FloatRange(min=0.0, min_open=True), help="Seconds of training.")
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
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Run SCENARIO, a packaged one or a TOML file, and judge it by its goals."""
    from testbed import report

    with _errors():
        world, stages = scenarios.load(scenario, recipe)
        folder = _folder(output, world.name)
        order = Order(
            scenario=world,
            recipe=stages,
            folder=folder,
            seed=world.seed if seed is None else seed,
            duration_s=world.duration_s if duration_s is None else duration_s,
            command=shlex.join(["skerry-lab", *sys.argv[1:]]),
            data_dir=data_dir,
        )
        progress = sys.stderr if as_json else sys.stdout
        record = asyncio.run(_run(order, progress))
        run_record.write(record, folder)
        report.write(record, folder)
    _print_result(record, folder, progress)
    if as_json:
        _print_json(record, folder)
    sys.exit(0 if record.passed else 1)


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
    """List the packaged scenarios."""
    with _errors():
        packaged = scenarios.packaged()
    if as_json:
        rows = [
            {
                "name": one.name,
                "description": one.description,
                "regions": len(one.regions),
                "devices": len(list(one.devices())),
                "recipe": one.recipe,
                "duration_s": one.duration_s,
            }
            for one in packaged
        ]
        click.echo(msgspec.json.encode({"scenarios": rows}))
        return
    width = max(len(one.name) for one in packaged)
    for one in packaged:
        click.echo(f"{one.name:<{width}}  {one.description} (recipe {one.recipe}, at most {one.duration_s:g} s)")


@cli.command(name="report", epilog="\b\nExample:\n  skerry-lab report lab-results/quickstart-20250101-120000")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@_json
def report_(folder: Path, as_json: bool) -> None:
    """Make summary.json and report.html of the run in FOLDER again, from its record.json."""
    from testbed import report

    with _errors():
        record = run_record.read(folder)
        report.write(record, folder)
    _print_result(record, folder, sys.stderr if as_json else sys.stdout)
    if as_json:
        _print_json(record, folder)


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


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported
    cli(prog_name="skerry-lab")


if __name__ == "__main__":
    main()
