"""`skerry-agent join`: makes this device a member of a federation. One command, after which the agent can run."""

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import msgspec
from msgspec.structs import replace

from edge_agent import config as config_file
from edge_agent import enrolment_file
from edge_agent.config import DEFAULT_PATH, AgentConfig
from edge_agent.enrolment_file import Enrolment
from skerry.command_line import errors_told
from skerry.errors import ConfigError, SkerryError
from skerry.identity.join_token import JoinToken
from skerry.join_token_option import chosen_join_token, join_token_option
from skerry.protocol.limits import NAME_CHARS_MAX
from skerry.protocol.messages import Joined, Name

COORDINATORS_MAX = 16
UNIT = "skerry-agent"

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


class NotStartedError(SkerryError):
    """The device has joined, and the system did not start the agent."""


@click.command(
    epilog="""\b
Examples:
  skerry-agent join https://eu.example.org:8470 --token-file token.txt
  skerry-agent join https://eu.example.org:8470 --token-file - --data csv:/srv/readings.csv --start"""
)
@click.argument("url")
@join_token_option
@click.option("--device", metavar="NAME", help="What the device is to be called.  [default: the coordinator chooses]")
@click.option("--data", "source", metavar="SOURCE", help="Where its examples are, as `data.source`: see docs/data.md.")
@click.option(
    "--start", is_flag=True, help="Start the agent's service, now and at every boot (systemctl enable --now)."
)
@click.option(
    "--config",
    "-c",
    "path",
    type=click.Path(path_type=Path),
    default=DEFAULT_PATH,
    envvar="SKERRY_AGENT_CONFIG",
    show_default=True,
    help="The agent's TOML file; need not be there.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def join(
    url: str,
    token_file: object,
    device: str | None,
    source: str | None,
    start: bool,
    path: Path,
    as_json: bool,
) -> None:
    """Join the federation of the coordinator at URL.

    The device makes its key itself; the coordinator is believed if its federation's root has the fingerprint that
    stands in the join token, and gives the device a certificate, which the agent renews by itself. Should the answer
    get lost, run it again: the same join token does.
    """
    from skerry.tasks.data import check_source

    with errors_told("skerry-agent"):
        config = config_file.load_before_join(path)
        if path != DEFAULT_PATH and not path.exists():
            click.echo(f"skerry-agent: note: {path} is not there; using defaults", err=True)
        if source is not None:
            check_source(source, config.data.dir)
            source = from_anywhere(source)
        enrolment = enrol(config, url, chosen_join_token(token_file), device, source, time.time)
        if start:
            start_service(_run)
    report = {"device": enrolment.device, "region": enrolment.region, "coordinators": enrolment.coordinators}
    folder = config.identity_folder().path
    text = f"""\
device {enrolment.device} has joined region {enrolment.region}
identity    {folder}
next        {_next(config, enrolment, start)}"""
    click.echo(json.dumps(report) if as_json else text)


def enrol(
    config: AgentConfig,
    url: str,
    token: JoinToken,
    device: str | None,
    source: str | None,
    wall_clock: Callable[[], float],
) -> Enrolment:
    """Join, and write down what the agent needs to know.

    Raises:
        SkerryError: see `joining.join`.
        ConfigError: a name that no device can have, or configuration, command line and an earlier join give different
            ones.
    """
    from skerry import joining

    _check_name(device)
    folder = config.identity_folder()
    before = enrolment_file.read((folder.path,))
    names = {
        "--device": device,
        "the configuration": config.device or None,
        "an earlier join": before and before.device,
    }
    given = {place: name for place, name in names.items() if name}
    if len(set(given.values())) > 1:
        told = ", ".join(f"{place} says {name!r}" for place, name in given.items())
        raise ConfigError(
            f"the device has several names: {told}. To make it another device, remove {folder.path} first"
        )
    name = next(iter(given.values()), None)
    joined = asyncio.run(joining.join(url, token, folder, role="agent", name=name, wall_clock=wall_clock))
    enrolment = Enrolment(joined.name, joined.region, coordinators(url, joined), source)
    if source is None and before is not None:
        enrolment = replace(enrolment, data_source=before.data_source)
    folder.write(enrolment_file.FILE_NAME, enrolment_file.encode(enrolment))
    return enrolment


def _check_name(device: str | None) -> None:
    """Refuse a name that the coordinator would, before it is asked.

    Raises:
        ConfigError: says what a name may be.
    """
    try:
        msgspec.convert(device, Name | None)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"--device: {device!r} is no device's name: at most {NAME_CHARS_MAX} letters, digits, `.`, `_` and `-`, "
            "beginning with a letter or a digit, such as greenhouse-7"
        ) from error


def start_service(run: Run) -> None:
    """Let systemd start the agent, now and at every boot.

    Raises:
        NotStartedError: it did not.
    """
    try:
        done = run(["systemctl", "enable", "--now", UNIT])
    except OSError as error:
        raise NotStartedError(
            f"the device has joined, but systemctl cannot be run: {error.strerror}: start the agent by hand: "
            "skerry-agent run"
        ) from error
    if done.returncode != 0:
        raise NotStartedError(
            f"the device has joined, but `systemctl enable --now {UNIT}` failed: {done.stderr.strip()[:500]}"
        )


def from_anywhere(source: str) -> str:
    """Return a data source with its file's whole path: the service runs in another folder than this command."""
    kind, _, rest = source.partition(":")
    return f"{kind}:{Path(rest).absolute()}" if kind in {"csv", "npz"} else source


def coordinators(url: str, joined: Joined) -> tuple[str, ...]:
    """Return whom to stream to: the one that let the device in first, then the others of the federation."""
    others = [other for _, other in sorted(joined.coordinators.items()) if other.startswith("https://")]
    return tuple(dict.fromkeys([url.rstrip("/"), *others]))[:COORDINATORS_MAX]


def _next(config: AgentConfig, enrolment: Enrolment, started: bool) -> str:
    if not config.data.source and enrolment.data_source is None:
        return "name the device's data: join again with --data SOURCE, or `source` below [data] in agent.toml"
    return "skerry-agent status" if started else "skerry-agent run, or systemctl enable --now skerry-agent"


def _run(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    program = shutil.which(command[0]) or command[0]
    return subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)  # noqa: S603 - ours
