"""`skerry-agent`: the commands of those who look after a device."""

import asyncio
import faulthandler
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
import msgspec

from edge_agent import config as config_file
from edge_agent import status as status_file
from edge_agent import status_text, vitals
from edge_agent.config import DEFAULT_PATH, AgentConfig
from skerry import __version__, exposure, logging_setup, profile, service_manager
from skerry.command_line import CONTEXT_SETTINGS, errors_told, naming
from skerry.errors import DataError, StorageError
from skerry.reload import Reloads

if TYPE_CHECKING:
    from edge_agent.examples_file import Format
    from edge_agent.prediction import Scores

EXIT_CODES = """
\b
Exit codes:
  0  done; for `run`: stopped by SIGTERM or SIGINT
  1  any other error; for `status`: the agent does not run, or does not answer
  2  configuration or command line
  3  the disk refused a read or a write
  4  the database was written by a newer version
  5  training data or bundle
  6  the state is damaged
  7  the identity is missing, damaged, expired, revoked or refused: join
"""
PROGRESS_S = 3.0

_config = click.option(
    "--config",
    "-c",
    "path",
    type=click.Path(path_type=Path),
    default=DEFAULT_PATH,
    envvar="SKERRY_AGENT_CONFIG",
    show_default=True,
    show_envvar=True,
    help="The agent's TOML file.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


class _Commands(click.Group):
    """The commands; what `join` needs is brought in only where it is asked for, since the service does without."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), "join"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != "join":
            return super().get_command(ctx, cmd_name)
        from edge_agent.join_command import join

        return join


@click.group(cls=_Commands, epilog=EXIT_CODES, context_settings=CONTEXT_SETTINGS)
@click.version_option(__version__, prog_name="skerry-agent")
def cli() -> None:
    """Skerry's agent: trains on this device's data and streams what it learns to its region."""


@cli.command(epilog="\b\nExample:\n  skerry-agent run --config /etc/skerry/agent.toml")
@_config
def run(path: Path) -> None:
    """Run the agent until SIGTERM or SIGINT. SIGHUP: read the configuration again; docs/agent.md says what it takes."""
    faulthandler.enable(2)  # standard error: where every thread was, should the watchdog end a process that hangs

    def load() -> AgentConfig:
        config = config_file.load(path)
        logging_setup.configure(config.log_json)
        return config

    with _errors():
        config = load()
        with naming(path):
            asyncio.run(_run(config, load))


async def _run(config: AgentConfig, load: Callable[[], AgentConfig]) -> None:
    from edge_agent import service

    stop, reloads = asyncio.Event(), Reloads(asyncio.Event(), load)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reloads.wished.set)
    await service.run(config, stop, manager=service_manager.of_this_process(), reloads=reloads)


@cli.command(epilog="\b\nExamples:\n  skerry-agent status\n  skerry-agent status --json | jq .seconds_per_step")
@_config
@_json
def status(path: Path, as_json: bool) -> None:
    """Say how the agent on this device is doing; exit code 1 if it does not run, or lives and does not answer."""
    now_s = time.time()
    with _errors():
        config = config_file.load(path)
        folder = config.runtime_dir or config.state_dir
        found = status_file.read(folder)
        silent_s = None if found is None else status_file.silent_s(found, config.limits.status_s, now_s)
    if as_json:
        click.echo(msgspec.json.encode(found if found is not None else {"running": False}))
    elif found is None:
        click.echo(f"not running: no agent has ever run with {path.absolute()}, in {folder.absolute()}")
    else:
        click.echo(status_text.text(found, now_s, silent_s))
    if found is None or not found.running or silent_s is not None:
        sys.exit(1)


@cli.command(
    epilog="""\b
Examples:
  skerry-agent bench
  skerry-agent bench --bundle my.skerry --output my-board.toml
  skerry-agent bench --coordinator https://coordinator.example.org:8470 --json
  skerry-agent bench --reference lab-machine.toml --output my-board.toml"""
)
@click.option("--bundle", default="builtin:activity", show_default=True, help="A bundle's path, or builtin:TASK.")
@click.option("--engine", type=click.Choice(["onnx", "torch"]), default="onnx", show_default=True)
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True)
@click.option("--provider", "providers", multiple=True, help="An execution provider of onnxruntime; may be repeated.")
@click.option("--batch-examples", type=click.IntRange(1, 65536), help="Examples in a batch.  [default: the bundle's]")
@click.option("--steps", type=click.IntRange(1, 100_000), default=200, show_default=True, help="Timed after warm-up.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1),
    default=60.0,
    show_default=True,
    help="Take no further step after so long.",
)
@click.option(
    "--coordinator", help="Measure the link to the coordinator at this base URL, too; by https as the joined device."
)
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    help="A profile that bench wrote elsewhere: says how much slower this device is than that one.",
)
@click.option("--name", default="this-device", show_default=True, help="The profile's name.")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write the profile to this TOML file.")
@click.option(
    "--disk",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path(),
    help="Folder whose disk is timed; by default the working directory.",
)
@_config
@_json
def bench(
    bundle: str,
    engine: Literal["onnx", "torch"],
    threads: int,
    providers: tuple[str, ...],
    batch_examples: int | None,
    steps: int,
    seconds: float,
    coordinator: str | None,
    reference: Path | None,
    name: str,
    output: Path | None,
    disk: Path,
    path: Path,
    as_json: bool,
) -> None:
    """Measure this device and print its profile: steps of a task, disk, memory and, if asked, the link.

    How long work goes on is told on standard error. The link upwards is not measured.
    """
    from edge_agent import bench as benchmark
    from edge_agent.credentials import credentials_of
    from edge_agent.link_speed import measure_link
    from skerry.tasks.bundle import resolve

    with _errors():
        link = None
        if coordinator is not None:
            exposure.check_url(coordinator, insecure=True)
            shown = credentials_of(config_file.load(path), time.time) if coordinator.startswith("https://") else None
            link = asyncio.run(measure_link(coordinator, time.monotonic, None if shown is None else shown.client))
        subject = benchmark.Subject(
            bundle=resolve(bundle),
            engine=engine,
            threads=threads,
            providers=providers,
            batch_examples=batch_examples,
            steps=steps,
            seconds_max=seconds,
            folder=disk,
        )
        found = benchmark.measure(subject, name, link, _Progress("steps"))
        if reference is not None:
            found = benchmark.with_slowdown(found, profile.load(str(reference)))
        if output is not None:
            _write(output, benchmark.to_toml(found, __version__, None if reference is None else reference.name))
    click.echo(msgspec.json.encode(found) if as_json else benchmark.text(found, link))


class _Progress:
    """Tells on standard error how far long work is: every few seconds, so that short work says nothing."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._told_s = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Take note of how much is done."""
        if time.monotonic() - self._told_s >= PROGRESS_S:
            self._told_s = time.monotonic()
            click.echo(f"{done} of at most {total} {self._what}", err=True)


@cli.command(
    epilog="""\b
Examples:
  skerry-agent doctor
  skerry-agent doctor --bundle builtin:activity
  skerry-agent doctor --json | jq '.findings[] | select(.outcome != "ok")'

\b
Exit codes:
  0  nothing is wrong, or there are warnings only
  1  something keeps the agent from training
  2  command line"""
)
@_config
@click.option("--bundle", help="Check data and speed with this bundle, a path or builtin:TASK, not the region's task.")
@_json
def doctor(path: Path, bundle: str | None, as_json: bool) -> None:
    """Check everything that an installation can have wrong, and say what to do about it.

    A running agent goes on undisturbed. docs/agent.md lists the checks.
    """
    from edge_agent import doctor as examination

    findings = []
    for finding in examination.examine(path, bundle, examination.Surroundings()):
        findings.append(finding)
        if not as_json:
            click.echo(examination.text(finding))
    counts = Counter(finding.outcome for finding in findings)
    if as_json:
        click.echo(msgspec.json.encode({"ok": not counts["failure"], "findings": findings}))
    else:
        click.echo(f"{counts['ok']} good, {counts['warning']} warnings, {counts['failure']} failures")
    sys.exit(1 if counts["failure"] else 0)


@cli.command(
    epilog="\b\nExamples:\n  skerry-agent profiles\n  skerry-agent profiles raspberry-pi-5 --json\n"
    "  skerry-agent profiles ./my-board.toml"
)
@click.argument("name", required=False)
@_json
def profiles(name: str | None, as_json: bool) -> None:
    """List the device types that come with the product, or show the one called NAME or in the file NAME."""
    with _errors():
        if name is None:
            listed = [profile.load(one) for one in profile.names()]
            if as_json:
                rows = [{"name": one.name, "description": one.description} for one in listed]
                click.echo(msgspec.json.encode({"profiles": rows}))
            else:
                width = max(len(one.name) for one in listed)
                for one in listed:
                    click.echo(f"{one.name:<{width}}  {one.description}")
            return
        shown = profile.load(name)
        click.echo(msgspec.json.encode(shown) if as_json else profile.path_of(name).read_text().rstrip())


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


@cli.command(
    epilog="""\b
Examples:
  skerry-agent predict readings.csv
  skerry-agent predict images.npz --json --scores probabilities
  echo '[[0.1, 0.2, 0.3]]' | skerry-agent predict -

\b
Exit codes beside the common ones:
  1  there is no model yet, or the agent is too busy
  5  the examples do not fit the task
"""
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@_config
@click.option(
    "--format",
    "-f",
    "form",
    type=click.Choice(["csv", "npz", "json"]),
    help="Of FILE.  [default: by its name; -: json]",
)
@click.option(
    "--scores",
    type=click.Choice(["probabilities", "logits", "none"]),
    default="none",
    show_default=True,
    help="What --json tells of each class.",
)
@_json
def predict(file: Path, path: Path, form: "Format | None", scores: "Scores", as_json: bool) -> None:
    """Say what the model makes of the examples in FILE (csv, npz or json; - reads standard input).

    Prints one line for each example: the class's name or number, or the values. The agent answers if it runs with
    inference enabled, else the model that it wrote down last does. Nothing is changed.
    """
    from edge_agent import examples_file, predict_command

    with _errors():
        loaded = config_file.load(path)
        if str(file) == "-":
            name, kind, content = Path("standard input"), form or "json", _standard_input(examples_file.FILE_BYTES_MAX)
        else:
            name, kind, content = file, form or examples_file.format_of(file), None
        answer = predict_command.predict(
            loaded, lambda features: examples_file.read(name, kind, features, content), scores
        )
    if as_json:
        click.echo(msgspec.json.encode(answer))
    else:
        for line in predict_command.lines(answer):
            click.echo(line)


def _standard_input(bytes_max: int) -> bytes:
    content = sys.stdin.buffer.read(bytes_max + 1)
    if len(content) > bytes_max:
        raise DataError(f"standard input: larger than {bytes_max >> 20} MiB: give fewer examples at once")
    return content


@cli.group()
def config() -> None:
    """Look at the configuration."""


@config.command(epilog="\b\nExample:\n  skerry-agent config check --config /etc/skerry/agent.toml")
@_config
@_json
def check(path: Path, as_json: bool) -> None:
    """Read and validate the configuration, defaults filled in, without starting anything.

    Of the data only the form of the source and the file's presence are checked: `skerry-task check` reads it.
    """
    from skerry.tasks.data import check_source

    with _errors():
        loaded = config_file.load(path)
        check_source(loaded.data.source, loaded.data.dir)
    if as_json:
        click.echo(msgspec.json.encode(loaded, enc_hook=str))
    else:
        click.echo(f"{path}: good. Device {loaded.device}, coordinators {', '.join(loaded.coordinators)}")


def _errors() -> AbstractContextManager[None]:
    return errors_told("skerry-agent")


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's own threads would only take memory here
    vitals.use_one_malloc_arena()
    cli(prog_name="skerry-agent")


if __name__ == "__main__":
    main()
