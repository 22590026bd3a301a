"""`skerry-agent`: the commands of those who look after a device."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from edge_agent import config as config_file
from edge_agent import status as status_file
from edge_agent import vitals
from edge_agent.config import DEFAULT_PATH, AgentConfig
from skerry import __version__, logging_setup, profile
from skerry.errors import SkerryError, StorageError

EXIT_CODES = """
\b
Exit codes:
  0  done; for `run`: stopped by SIGTERM or SIGINT
  1  any other error; for `status`: the agent does not run
  2  configuration or command line
  3  the disk refused a read or a write
  4  the database was written by a newer version
  5  training data or bundle
"""


_config = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    default=DEFAULT_PATH,
    envvar="SKERRY_AGENT_CONFIG",
    show_default=True,
    show_envvar=True,
    help="The agent's TOML file.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group(epilog=EXIT_CODES)
@click.version_option(__version__, prog_name="skerry-agent")
def cli() -> None:
    """Skerry's agent: trains on this device's data and streams what it learns to its region."""


@cli.command(epilog="\b\nExample:\n  skerry-agent run --config /etc/skerry/agent.toml")
@_config
def run(path: Path) -> None:
    """Run the agent until SIGTERM or SIGINT."""
    with _errors():
        config = config_file.load(path)
        logging_setup.configure(config.log_json)
        asyncio.run(_run(config))


async def _run(config: AgentConfig) -> None:
    from edge_agent import service

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await service.run(config, stop)


@cli.command(epilog="\b\nExamples:\n  skerry-agent status\n  skerry-agent status --json | jq .seconds_per_step")
@_config
@_json
def status(path: Path, as_json: bool) -> None:
    """Say how the agent on this device is doing; exit code 1 if it does not run."""
    with _errors():
        config = config_file.load(path)
        found = status_file.read(config.runtime_dir or config.state_dir)
    if as_json:
        click.echo(msgspec.json.encode(found if found is not None else {"running": False}))
    elif found is None:
        click.echo(f"not running: no agent has ever run with {path}")
    else:
        click.echo(_status_text(found))
    if found is None or not found.running:
        sys.exit(1)


def _status_text(found: status_file.Status) -> str:
    ago_s = max(0.0, time.time() - found.written_at_s)
    speed = "not calibrated" if found.seconds_per_step is None else f"{found.seconds_per_step:.4g} s per step"
    base = "none" if found.base is None else f"{found.base.lineage} version {found.base.number}"
    rows = [
        ("agent", f"{'running' if found.running else 'NOT RUNNING'}, as of {ago_s:.0f} s ago"),
        ("device", found.device),
        ("region", f"{found.region or 'unknown'}, {'connected' if found.connected else 'not connected'}"),
        ("model", base),
        ("training", f"{found.cycles} cycles, {found.steps} steps, {found.steps_per_cycle} a cycle, {speed}"),
        ("idle", f"{found.idle_share:.1%} of {found.uptime_s:.0f} s"),
        ("outbox", f"{found.outbox_updates} updates wait for an answer"),
        ("traffic", f"{found.sent_bytes} bytes sent, {found.received_bytes} received"),
        ("memory", f"{found.resident_bytes / 2**20:.1f} MiB resident"),
        ("temperature", "unknown" if found.temperature_c is None else f"{found.temperature_c:.1f} C"),
        ("last loss", "none" if found.last_loss is None else f"{found.last_loss:.4g}"),
        ("last error", found.last_error or "none"),
    ]
    return "\n".join(f"{name:<12} {value}" for name, value in rows)


@cli.command(epilog="\b\nExamples:\n  skerry-agent bench\n  skerry-agent bench --bundle my.skerry --out my-board.toml")
@click.option("--bundle", default="builtin:activity", show_default=True, help="A bundle's path, or builtin:TASK.")
@click.option("--engine", type=click.Choice(["onnx", "torch"]), default="onnx", show_default=True)
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True)
@click.option("--steps", type=click.IntRange(1, 100_000), default=200, show_default=True, help="Timed after warm-up.")
@click.option("--name", default="this-device", show_default=True, help="The profile's name.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the profile to this TOML file.")
@click.option(
    "--disk",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path(),
    help="Folder whose disk is timed; by default the working directory.",
)
@_json
def bench(
    bundle: str, engine: str, threads: int, steps: int, name: str, out: Path | None, disk: Path, as_json: bool
) -> None:
    """Measure this device and print its profile."""
    from edge_agent.bench import measure
    from skerry.tasks.bundle import resolve

    with _errors():
        measured = measure(resolve(bundle), "torch" if engine == "torch" else "onnx", threads, steps, disk, name)
        if out is not None:
            sources = dict.fromkeys(("", "measured"), f"measured: skerry-agent {__version__} bench")
            _write(out, profile.to_toml(measured, f"Measured by skerry-agent {__version__} bench.", sources))
    if as_json:
        click.echo(msgspec.json.encode(measured))
        return
    figures = measured.measured
    assert figures is not None
    assert measured.memory_bytes is not None
    for label, value in (
        ("device", f"{measured.name}: {measured.description}"),
        ("task", f"{figures.bundle}, batches of {figures.batch_examples}"),
        ("engine", f"{measured.engine}, {measured.threads} thread{'s' if measured.threads > 1 else ''}"),
        ("step", f"{figures.seconds_per_step * 1e3:.4g} ms (median)"),
        ("disk sync", f"{figures.disk_sync_s * 1e3:.4g} ms (median)"),
        ("memory", f"{figures.resident_bytes / 2**20:.1f} MiB of {measured.memory_bytes / 2**20:.0f} MiB"),
    ):
        click.echo(f"{label:<10} {value}")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


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
        check_source(loaded.data.source)
    if as_json:
        click.echo(msgspec.json.encode(loaded, enc_hook=str))
    else:
        click.echo(f"{path}: good. Device {loaded.device}, coordinators {', '.join(loaded.coordinators)}")


@contextmanager
def _errors() -> Iterator[None]:
    """Print what a person can act on as one line, and exit with its code."""
    try:
        yield
    except SkerryError as error:
        click.echo(f"skerry-agent: {error}", err=True)
        sys.exit(error.exit_code)


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's own threads would only take memory here
    vitals.use_one_malloc_arena()
    cli(prog_name="skerry-agent")
