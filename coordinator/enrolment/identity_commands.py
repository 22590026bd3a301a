"""`skerry-coordinator init` and `join`: how a coordinator becomes part of a federation."""

import asyncio
import json
import os
import secrets
import time
from pathlib import Path
from typing import Any

import click

from coordinator import config as configuration
from coordinator.config import CoordinatorConfig
from coordinator.enrolment import founding
from skerry import joining
from skerry.exposure import is_loopback
from skerry.identity import key_file
from skerry.identity.certificate import fingerprint
from skerry.identity.own import own_addresses
from skerry.join_token_option import chosen_join_token, join_token_option

LOOPBACK = ("localhost", "127.0.0.1", "::1")  # in every server's certificate: its own commands use one of them

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
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
address_option = click.option(
    "--address",
    "-a",
    "addresses",
    multiple=True,
    metavar="HOST",
    help="A host name or IP address that agents and peers reach this coordinator by; may be given several times. "
    "`listen.host` and localhost are always among them; without this option also this machine's name, unless "
    "`listen.host` is a loopback address.",
)


@click.command()
@config_option
@address_option
@as_json
def init(config_path: Path, addresses: tuple[str, ...], as_json: bool) -> None:
    """Make a federation, of which this is the first coordinator.

    Makes the federation's root, this coordinator's certificate and an operator's. Once for a federation: further
    coordinators use `join`.

    \b
    Examples:
      skerry-coordinator init --address eu.example.org
      skerry-coordinator init -a eu.example.org -a 192.0.2.7 --config eu.toml
    """  # noqa: D301 - click takes \b for "do not rewrap"
    config = configuration.load(config_path)
    folder = config.identity_folder()
    known_by = _addresses(config, addresses)
    made = founding.found(
        folder, federation=secrets.token_hex(8), coordinator=config.name, addresses=known_by, now_s=time.time()
    )
    admin = founding.admin_folder(folder.path).path
    report = {
        "federation": made.federation,
        "coordinator": config.name,
        "addresses": known_by,
        "identity_dir": str(folder.path),
        "operator_dir": str(admin),
        "root_sha256": fingerprint(made.root_certificate).hex(),
    }
    text = f"""\
federation {made.federation}, with {config.name} as its first coordinator
addresses   {", ".join(known_by)}
identity    {folder.path}
operator    {admin}: commands use it; copy the folder to where else you work as an operator
root's key  {folder.path / key_file.ROOT_KEY}: needed where coordinators join or renew; keep a copy offline
next        skerry-coordinator run, then skerry-coordinator token create"""
    _tell(report, text, as_json)
    _warn_insecure(config, config_path)


@click.command()
@click.argument("url")
@join_token_option
@config_option
@address_option
@as_json
def join(url: str, token_file: Any, config_path: Path, addresses: tuple[str, ...], as_json: bool) -> None:
    """Join the federation of the coordinator at URL, as another coordinator.

    The join token comes from `skerry-coordinator token create --role coordinator`, run where the root's key is. Should
    the answer get lost, run it again: the same join token does.

    \b
    Examples:
      skerry-coordinator join https://eu.example.org:8470 --token-file token.txt --address us.example.org
      skerry-coordinator join https://eu.example.org:8470 --token-file - -a 192.0.2.8
    """  # noqa: D301 - click takes \b for "do not rewrap"
    config = configuration.load(config_path)
    folder = config.identity_folder()
    founding.refuse_second(folder)
    joined = asyncio.run(
        joining.join(
            url,
            chosen_join_token(token_file),
            folder,
            role="coordinator",
            name=config.name,
            addresses=_addresses(config, addresses),
            wall_clock=time.time,
        )
    )
    known_by = list(own_addresses(folder))
    report = {"coordinator": joined.name, "addresses": known_by, "identity_dir": str(folder.path)}
    text = f"""\
coordinator {joined.name} has joined the federation of {url}
addresses   {", ".join(known_by)}
identity    {folder.path}
next        name each other in `peers` of both configurations, then skerry-coordinator run"""
    _tell(report, text, as_json)
    if missing := [one for one in addresses if one not in known_by]:
        click.echo(
            f"skerry-coordinator: note: not at {', '.join(missing)}: the join token is for other addresses", err=True
        )
    _warn_insecure(config, config_path)


def _addresses(config: CoordinatorConfig, given: tuple[str, ...]) -> list[str]:
    """Return every address that is asked for, each once.

    Machines are often called alike, and two coordinators cannot have the same address: the name is the last resort.
    """
    every = config.listen.host in {"0.0.0.0", "::", ""}  # noqa: S104 - what it is compared with
    here = [] if every else [config.listen.host]
    name = [] if given or is_loopback(config.listen.host) else [os.uname().nodename]
    return list(dict.fromkeys([*given, *here, *name, *LOOPBACK]))


def _tell(report: dict[str, Any], text: str, as_json: bool) -> None:
    click.echo(json.dumps(report) if as_json else text)


def _warn_insecure(config: CoordinatorConfig, config_path: Path) -> None:
    if config.insecure:
        click.echo(
            f"skerry-coordinator: note: {config_path} says `insecure = true`: remove it, or this identity goes unused",
            err=True,
        )
