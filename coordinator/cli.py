"""`skerry-coordinator`: run a regional coordinator, look at it, take its model."""

import asyncio
import faulthandler
import json
import logging
import os
import random
import signal
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import click
import msgspec

from coordinator import config as configuration
from coordinator import export, remote
from coordinator.config import CoordinatorConfig
from coordinator.config_text import config_text
from coordinator.enrolment import identity_commands, operator, operator_commands
from coordinator.status_text import status_text
from skerry import __version__, logging_setup, service_manager
from skerry.command_line import CONTEXT_SETTINGS, naming
from skerry.errors import SkerryError, StorageError
from skerry.exposure import check_url
from skerry.extras import require
from skerry.reload import Reloads
from skerry.tasks import bundle as bundles

EXIT_CODES = """\b
Exit codes: 0 done, 1 something else went wrong (not running, for example),
2 wrong usage or configuration or a missing package, 3 the disk refused, 4 the
state was written by a newer version, 5 a bundle or data that does not fit,
6 the state is damaged, 7 the identity is missing, expired, revoked or refused:
join."""

log = logging.getLogger(__name__)

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
config_option = click.option(
    "--config",
    "-c",
    "config_path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=configuration.DEFAULT_PATH,
    envvar="SKERRY_COORDINATOR_CONFIG",
    show_default=True,
    help="The configuration file.",
)


identity_option = click.option(
    "--identity",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder of an operator's identity; default: `admin` in the coordinator's identity folder.",
)
insecure_option = click.option("--insecure", is_flag=True, help="Ask by plain http, on this machine alone.")


@click.group(epilog=EXIT_CODES, context_settings=CONTEXT_SETTINGS)
@click.version_option(__version__, prog_name="skerry-coordinator")
def coordinator() -> None:
    """Coordinate the devices of one region, and federate with other regions.

    \b
    Examples:
      skerry-coordinator config check --config coordinator.toml
      skerry-coordinator init --address eu.example.org
      skerry-coordinator token create --ttl 1h
      skerry-coordinator run --config coordinator.toml
      skerry-coordinator status --url https://eu.example.org:8470
      skerry-coordinator model export --format onnx --output model.onnx
    """  # noqa: D301 - click takes \b for "do not rewrap"


for command in (
    identity_commands.init,
    identity_commands.join,
    operator_commands.token,
    operator_commands.devices,
    operator_commands.peers,
    operator_commands.drain,
):
    command.epilog = EXIT_CODES
    coordinator.add_command(command)


@coordinator.command(epilog=EXIT_CODES)
@config_option
def run(config_path: Path) -> None:
    """Run until SIGTERM or SIGINT; then say goodbye to the agents, write a checkpoint, and exit with 0.

    SIGHUP: read the configuration again; docs/coordinator.md lists what of it is taken without a restart.

    \b
    Examples:
      skerry-coordinator run
      skerry-coordinator run --config lab/eu.toml
    """  # noqa: D301 - click takes \b for "do not rewrap"
    require("coordinator", "this command")
    faulthandler.enable(2)  # standard error: where every thread was, should the watchdog end a process that hangs

    def load() -> CoordinatorConfig:
        config = configuration.load(config_path)
        logging_setup.configure(config.log_json)
        return config

    config = load()
    with naming(config_path):
        asyncio.run(_serve(config, load))


@coordinator.command(epilog=EXIT_CODES)
@config_option
@click.option("--url", help="Base URL of the coordinator; default: as the configuration says.")
@identity_option
@insecure_option
@as_json
def status(config_path: Path, url: str | None, identity: Path | None, insecure: bool, as_json: bool) -> None:
    """Show how a running coordinator is doing.

    \b
    Examples:
      skerry-coordinator status
      skerry-coordinator status --url https://eu.example.org:8470 --identity ann --json
    """  # noqa: D301 - click takes \b for "do not rewrap"
    base, context = _reached(config_path, url, identity, insecure)
    body = asyncio.run(remote.get(base, "/v1/admin/status", bytes_max=export.STATUS_BYTES_MAX, context=context))
    try:
        report = json.loads(body)
        text = status_text(report)
    except (ValueError, KeyError, TypeError) as error:
        raise remote.UnexpectedAnswerError(f"{base}: the answer is no coordinator's status: {error!r}") from error
    click.echo(json.dumps(report) if as_json else text)


@coordinator.group()
def model() -> None:
    """Take the region's model, or put one back."""


@model.command("export", epilog=EXIT_CODES)
@config_option
@click.option("--url", help="Take it from the running coordinator at this base URL, instead of from the state folder.")
@click.option("--kind", type=click.Choice(["regional", "federated"]), default="federated", show_default=True)
@click.option("--format", "form", type=click.Choice(["safetensors", "onnx"]), default="safetensors", show_default=True)
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file to write."
)
@identity_option
@insecure_option
@as_json
def model_export(
    config_path: Path,
    url: str | None,
    kind: Literal["regional", "federated"],
    form: Literal["safetensors", "onnx"],
    output: Path,
    identity: Path | None,
    insecure: bool,
    as_json: bool,
) -> None:
    """Write the model to a file: named tensors, or an ONNX model that predicts as it stands.

    Without --url the model comes from the state folder that the configuration names, whether the coordinator
    runs or not.

    \b
    Examples:
      skerry-coordinator model export --output model.safetensors
      skerry-coordinator model export --format onnx --kind regional --url https://127.0.0.1:8470 -o model.onnx
    """  # noqa: D301 - click takes \b for "do not rewrap"
    if url is None:
        with naming(config_path):
            exported = export.from_state(configuration.load(config_path), kind, form)
    else:
        base, context = _reached(config_path, url, identity, insecure)
        exported = asyncio.run(export.from_running(base, kind, form, context))
    _write(output, exported.data)
    report = {
        "path": str(output),
        "kind": kind,
        "format": form,
        "version": exported.version,
        "trained": exported.trained,
        "file_bytes": len(exported.data),
    }
    text = f"{output}: {kind} model {exported.version} as {form}, {len(exported.data)} bytes"
    click.echo(json.dumps(report) if as_json else text)
    if not exported.trained:
        click.echo(
            "skerry-coordinator: note: no update has been applied yet: these are the bundle's initial parameters",
            err=True,
        )


@model.command("restore", epilog=EXIT_CODES)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@config_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
def model_restore(file: Path, config_path: Path, yes: bool, as_json: bool) -> None:
    """Let the region go on from a model that `model export` wrote as safetensors; the coordinator must be stopped.

    What the model learned since is given up, for good. Devices and peers stay and are sent the model whole when the
    coordinator runs again; what devices had acknowledged does not count twice.

    \b
    Examples:
      skerry-coordinator model restore model.safetensors
      skerry-coordinator model restore monday.safetensors --config lab/eu.toml --yes --json
    """  # noqa: D301 - click takes \b for "do not rewrap"
    require("coordinator", "this command")
    from coordinator.restore import restore

    with naming(config_path):
        loaded = configuration.load(config_path)
        if not yes:
            click.confirm(f"Give up the model in {loaded.state_dir} and go on from {file}?", abort=True, err=True)
        restored = restore(loaded, file, rng=random.SystemRandom(), wall_clock=time.time)
    if as_json:
        click.echo(json.dumps({"restored": asdict(restored)}))
        return
    before = "there was none" if restored.before is None else f"{restored.before} was given up"
    click.echo(
        f"restored: model {restored.model} of age {restored.age:.1f}, as {restored.version}; {before}\n"
        "next: start the coordinator; devices and peers are sent the model"
    )


@coordinator.group()
def config() -> None:
    """Look at the configuration."""


@config.command("check", epilog=EXIT_CODES)
@config_option
@as_json
def config_check(config_path: Path, as_json: bool) -> None:
    """Read the configuration and the files that it names; say what is wrong, or show what is in force.

    \b
    Examples:
      skerry-coordinator config check
      skerry-coordinator config check --config lab/eu.toml --json
    """  # noqa: D301 - click takes \b for "do not rewrap"
    require("coordinator", "this command")
    from coordinator.bundle_checks import check_privacy, check_size
    from coordinator.credentials import check_peers, credentials_of
    from coordinator.service import check_exposure

    loaded = configuration.load(config_path)
    with naming(config_path):
        check_exposure(loaded)
        check_peers(loaded, credentials_of(loaded, time.time))
    bundle = bundles.resolve(loaded.bundle)
    check_size(bundle)
    check_privacy(loaded, bundle)
    held_out = None
    if loaded.evaluation is not None:
        from skerry.tasks import data

        evaluation = loaded.evaluation
        held_out = data.load(evaluation.source, bundle.manifest, held_out=True, data_dir=evaluation.dir)
    if as_json:
        in_force = msgspec.to_builtins(loaded, enc_hook=str)
        click.echo(json.dumps({"ok": True, "config": in_force}))
    else:
        click.echo(f"{config_path}: fine\n{config_text(loaded, bundle, None if held_out is None else len(held_out))}")


async def _serve(config: CoordinatorConfig, load: Callable[[], CoordinatorConfig]) -> None:
    """Run the service until a signal comes or a part fails."""
    from coordinator.service import Service

    stopping, reloads = asyncio.Event(), Reloads(asyncio.Event(), load)
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, reloads.wished.set)
    service = Service(config, manager=service_manager.of_this_process(), reloads=reloads)
    waiting = asyncio.create_task(stopping.wait())
    starting = asyncio.create_task(service.start())  # may wait for peers
    await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if stopping.is_set():
        starting.cancel()
        await asyncio.wait({starting})
        if starting.cancelled():
            return
    starting.result()
    working = asyncio.create_task(service.run())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        working.cancel()
        waiting.cancel()
        await service.stop()


def _reached(
    config_path: Path, url: str | None, identity: Path | None, insecure: bool
) -> tuple[str, ssl.SSLContext | None]:
    """Return where to ask, and as whom; None: by plain http, which is spelt out."""
    require("coordinator", "this command")
    if url is None:
        config = configuration.load(config_path)
        if config.insecure:
            return operator.own_url(config), None
    elif not url.startswith("https://"):
        check_url(url, insecure=insecure, beyond_loopback=False)
        return url, None
    chosen = operator.choose(config_path, url, identity)
    return chosen.url, chosen.context


def _write(path: Path, data: bytes) -> None:
    """Write a file that is never seen half-written."""
    beside = path.with_name(path.name + ".tmp")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, `sys.argv` by default; errors that a person can act on are one line and an exit code."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        coordinator.main(arguments, prog_name="skerry-coordinator")
    except SkerryError as error:
        click.echo(f"skerry-coordinator: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
