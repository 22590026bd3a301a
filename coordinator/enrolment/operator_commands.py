"""`skerry-coordinator token` and `devices`: what an operator asks of a running coordinator."""

import asyncio
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from coordinator.enrolment.identity_commands import as_json, config_option
from coordinator.enrolment.operator import Operator, choose
from coordinator.enrolment.registry import TTL_MAX_S, TTL_MIN_S
from coordinator.remote import UnexpectedAnswerError
from skerry.errors import StorageError
from skerry.identity.join_token import IDENTIFIER_BYTES, SECRET_BYTES, JoinToken, secret_sha256

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
TTL_BOUNDS = f"{TTL_MIN_S:.0f}s to {TTL_MAX_S / UNITS_S['d']:.0f}d"

C = TypeVar("C", bound=Callable[..., Any])


class _TimeToLive(click.ParamType[float]):
    """A number with a unit, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        found = re.fullmatch(r"(\d{1,9})([smhd])", str(value))
        if found is None:
            self.fail(f"{value!r} is no time: such as 30m, 12h or 7d", param, ctx)
        seconds = float(found[1]) * UNITS_S[found[2]]
        if not TTL_MIN_S <= seconds <= TTL_MAX_S:
            self.fail(f"{value!r} is not from {TTL_BOUNDS}", param, ctx)
        return seconds


def _asks(command: C) -> C:
    """Give a command the options that say which coordinator is asked, and as whom."""
    for option in (
        as_json,
        click.option(
            "--identity",
            type=click.Path(file_okay=False, path_type=Path),
            help="The folder of an operator's identity; default: `admin` in the coordinator's identity folder.",
        ),
        click.option("--url", help="Base URL of the coordinator; default: as the configuration says."),
        config_option,
    ):
        command = option(command)
    return command


role_option = click.option(
    "--role",
    type=click.Choice(["agent", "coordinator", "admin"]),
    default="agent",
    show_default=True,
    help="Coordinators and operators are shown and revoked in the same way.",
)


# --- join tokens ---


@click.group()
def token() -> None:
    """Make, list and revoke join tokens: who has one may join."""


@token.command("create")
@click.option(
    "--ttl",
    type=_TimeToLive(),
    default="1h",
    show_default=True,
    help=f"How long one can join with it, such as 30m, 12h or 7d: from {TTL_BOUNDS}.",
)
@click.option("--uses", type=click.IntRange(min=1), default=1, show_default=True, help="How many may join with it.")
@click.option("--region", help="The region that is written down for them; default: the coordinator's.")
@click.option("--device", "name", help="The one device that it is for, by its name; default: any.")
@click.option("--role", type=click.Choice(["agent", "coordinator"]), default="agent", show_default=True)
@click.option(
    "--address",
    "-a",
    "addresses",
    multiple=True,
    metavar="HOST",
    help="With `--role coordinator`: a host name or IP address that it gets, and no others; may be given "
    "several times. Default: those that it asks for, as long as no other coordinator has them.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the join token to this file, mode 0600.",
)
@_asks
def token_create(
    ttl: float,
    uses: int,
    region: str | None,
    name: str | None,
    role: str,
    addresses: tuple[str, ...],
    output: Path | None,
    config_path: Path,
    url: str | None,
    identity: Path | None,
    as_json: bool,
) -> None:
    """Make a join token, and print it: on the standard output nothing but the join token.

    Only its hash is kept by the coordinator: it cannot be shown again. Devices join at the coordinator that was asked.

    \b
    Examples:
      skerry-coordinator token create
      skerry-coordinator token create --ttl 7d --uses 50 --region eu -o token.txt
      skerry-coordinator token create --role coordinator --address us.example.org --ttl 30m
    """  # noqa: D301 - click takes \b for "do not rewrap"
    operator = choose(config_path, url, identity)
    identifier, secret = secrets.token_bytes(IDENTIFIER_BYTES), secrets.token_bytes(SECRET_BYTES)
    wanted = {
        "identifier": identifier.hex(),
        "secret_sha256": secret_sha256(secret).hex(),
        "ttl_s": ttl,
        "uses": uses,
        "role": role,
        "region": region,
        "name": name,
        "addresses": addresses,
    }
    made = asyncio.run(operator.post("/v1/admin/join-tokens", wanted))
    with _understanding(operator):
        text = JoinToken(bytes.fromhex(made.pop("root_sha256")), identifier, secret).text()
        note = f"join token {_of_token(made)}"
    if output is not None:
        _write_secret(output, text + "\n")
        made["path"] = str(output)
    else:
        made["join_token"] = text
    if as_json:
        click.echo(json.dumps(made))
        return
    if output is None:
        click.echo(text)
    command = "skerry-agent" if role == "agent" else "skerry-coordinator"
    click.echo(f"{note}\nnext: {command} join {operator.url} --token-file {output or 'FILE'}", err=True)


@token.command("list")
@_asks
def token_list(config_path: Path, url: str | None, identity: Path | None, as_json: bool) -> None:
    """List the join tokens that were made at a coordinator, the newest first.

    \b
    Examples:
      skerry-coordinator token list
      skerry-coordinator token list --url https://eu.example.org:8470 --identity ~/skerry-admin --json
    """  # noqa: D301 - click takes \b for "do not rewrap"
    operator = choose(config_path, url, identity)
    told = asyncio.run(operator.get("/v1/admin/join-tokens"))
    with _understanding(operator):
        rows = [
            (
                one["identifier"],
                one["state"],
                one["role"],
                one["region"],
                one["name"] or "-",
                f"{one['used']}/{one['uses']}",
                _date(one["expires_at_s"]),
            )
            for one in told["join_tokens"]
        ]
    head = ("ID", "STATE", "ROLE", "REGION", "DEVICE", "USED", "UNTIL")
    click.echo(json.dumps(told) if as_json else _table(head, rows, "no join tokens: skerry-coordinator token create"))


@token.command("revoke")
@click.argument("identifier")
@_asks
def token_revoke(identifier: str, config_path: Path, url: str | None, identity: Path | None, as_json: bool) -> None:
    """Let nobody join with a join token any more. Who has joined with it stays.

    \b
    Example:
      skerry-coordinator token revoke 4f1c22d9a7e0b358
    """  # noqa: D301 - click takes \b for "do not rewrap"
    operator = choose(config_path, url, identity)
    told = asyncio.run(operator.post(f"/v1/admin/join-tokens/{_in_path(identifier)}/revoke", {}))
    with _understanding(operator):
        text = f"revoked: join token {_of_token(told)}; {told['used']} joined with it and stay"
    click.echo(json.dumps(told) if as_json else text)


# --- devices ---


@click.group()
def devices() -> None:
    """List, show, rename, release and revoke devices, and whoever else was enrolled at a coordinator."""


@devices.command("list")
@click.option("--all", "everyone", is_flag=True, help="Coordinators, operators and the revoked, too.")
@_asks
def devices_list(everyone: bool, config_path: Path, url: str | None, identity: Path | None, as_json: bool) -> None:
    """List the devices of the federation, as a coordinator knows them.

    REGION is where a device was enrolled; connections and updates are this coordinator's own, and certificates are
    known where they were given.

    \b
    Examples:
      skerry-coordinator devices list
      skerry-coordinator devices list --all --json
    """  # noqa: D301 - click takes \b for "do not rewrap"
    operator = choose(config_path, url, identity)
    found = _parties(operator)
    if not everyone:
        found = [one for one in found if one["role"] == "agent" and not one["revoked"]]
    rows = [
        (
            one["name"],
            "-" if one["title"] == one["name"] else one["title"],
            one["role"],
            one["region"],
            _state(one),
            str(one["updates"]),
            _until(one),
        )
        for one in found
    ]
    head = ("NAME", "TITLE", "ROLE", "REGION", "STATE HERE", "UPDATES HERE", "CERTIFICATE UNTIL")
    empty = "no devices: skerry-coordinator token create makes a join token for one"
    click.echo(json.dumps({"devices": found}) if as_json else _table(head, rows, empty))


@devices.command("show")
@click.argument("name")
@role_option
@_asks
def devices_show(
    name: str, role: str, config_path: Path, url: str | None, identity: Path | None, as_json: bool
) -> None:
    """Show all that is known of one device.

    \b
    Example:
      skerry-coordinator devices show greenhouse-7
    """  # noqa: D301 - click takes \b for "do not rewrap"
    operator = choose(config_path, url, identity)
    found = [one for one in _parties(operator) if (one["role"], one["name"]) == (role, name)]
    if not found:
        raise UnexpectedAnswerError(f"no {role} {name!r} was enrolled at {operator.url}: see `devices list --all`")
    text = "\n\n".join(
        f"""\
{one["role"]:<12}{one["name"]}
title       {one["title"]}
region      {one["region"]}
state       {_state(one)}{f": {_printable(one['quarantine'])}" if one["quarantine"] else ""}
updates     {one["updates"]}
enrolled    {_date(one["enrolled_at_s"])}{f" with join token {one['join_token']}" if one["join_token"] else ""}
certificate {one["serial"]}{", until " if one["serial"] else ""}{_until(one)}{_serves(one)}
key         {one["key"]}"""
        for one in found
    )
    click.echo(json.dumps({"devices": found}) if as_json else text)


@devices.command("revoke")
@click.argument("name")
@role_option
@click.option("--key", help="The one key to revoke, as `devices show` has it; also of one that is not known here.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@_asks
def devices_revoke(
    name: str,
    role: str,
    key: str | None,
    yes: bool,
    config_path: Path,
    url: str | None,
    identity: Path | None,
    as_json: bool,
) -> None:
    """Shut a device out: here at once, in every region within seconds. It cannot be taken back.

    Its certificates count no more, whoever signed them. The name is free again: a device can join with it, with a new
    key and a new join token.

    \b
    Examples:
      skerry-coordinator devices revoke greenhouse-7
      skerry-coordinator devices revoke us-1 --role coordinator --yes
    """  # noqa: D301 - click takes \b for "do not rewrap"
    if not yes:
        click.confirm(f"Revoke {role} {name!r} for good?", abort=True, err=True)
    operator = choose(config_path, url, identity)
    told = asyncio.run(operator.post(f"/v1/admin/devices/{_in_path(name)}/revoke", {"role": role, "key": key}))
    with _understanding(operator):
        count = len(told["revoked"])
    text = f"revoked: {role} {name}" if count else f"{role} {name} was revoked before"
    click.echo(json.dumps(told) if as_json else text)


@devices.command("rename")
@click.argument("name")
@click.argument("title")
@role_option
@_asks
def devices_rename(
    name: str, title: str, role: str, config_path: Path, url: str | None, identity: Path | None, as_json: bool
) -> None:
    """Give a device another title, for people. Its name stays: certificate and updates bear it.

    \b
    Example:
      skerry-coordinator devices rename greenhouse-7 "the one by the window"
    """  # noqa: D301 - click takes \b for "do not rewrap"
    operator = choose(config_path, url, identity)
    told = asyncio.run(operator.post(f"/v1/admin/devices/{_in_path(name)}/title", {"role": role, "title": title}))
    click.echo(json.dumps(told) if as_json else f"{role} {name} is now called {title!r}")


@devices.command("release")
@click.argument("name")
@_asks
def devices_release(name: str, config_path: Path, url: str | None, identity: Path | None, as_json: bool) -> None:
    """Let a device out of the quarantine that the recipe's guard put it in; its updates count again.

    What it sends is judged as before: one that still sends what nobody else does will be back there.

    \b
    Example:
      skerry-coordinator devices release greenhouse-7
    """  # noqa: D301 - click takes \b for "do not rewrap"
    operator = choose(config_path, url, identity)
    told = asyncio.run(operator.post(f"/v1/admin/devices/{_in_path(name)}/release", {}))
    click.echo(json.dumps(told) if as_json else f"released: {name}; its next update counts, if it is in order")


@click.group()
def peers() -> None:
    """Decide about the coordinators of other regions."""


@peers.command("admit")
@click.argument("name")
@_asks
def peers_admit(name: str, config_path: Path, url: str | None, identity: Path | None, as_json: bool) -> None:
    """Let a peer's models be merged again, which were too far away from the model here; see `status`.

    Its next model counts however far away it is, and what is usual is learned anew. Look at the peer first: a model
    that is ruined ruins this one.

    \b
    Example:
      skerry-coordinator peers admit us-1
    """  # noqa: D301 - click takes \b for "do not rewrap"
    operator = choose(config_path, url, identity)
    told = asyncio.run(operator.post(f"/v1/admin/peers/{_in_path(name)}/admit", {}))
    click.echo(json.dumps(told) if as_json else f"admitted: {name}; its next model is merged")


@click.command()
@_asks
def drain(config_path: Path, url: str | None, identity: Path | None, as_json: bool) -> None:
    """Send a coordinator's agents to other ones, before it is stopped for an upgrade. A restart takes agents again.

    They are sent away at once and new ones are refused; peers are served as before. Agents that know no other
    coordinator keep trying, and train on until their outbox is full: 8 updates, by default.

    \b
    Examples:
      skerry-coordinator drain
      skerry-coordinator drain --url https://eu.example.org:8470 --json
    """  # noqa: D301 - click takes \b for "do not rewrap"
    operator = choose(config_path, url, identity)
    told = asyncio.run(operator.post("/v1/admin/drain", {}))
    with _understanding(operator):
        asked, elsewhere = int(told["sent_away"]), ", ".join(told["elsewhere"])
        note = f"drained: {asked} agents were asked to go elsewhere. Known to take agents: {elsewhere}"
        if not elsewhere:
            note = (
                f"drained: {asked} agents were asked to go, but no other coordinator that takes agents is known here. "
                "An agent that has no other one in its own configuration tries on, and trains until its outbox is full"
            )
    note += ". This coordinator can be stopped; a restart takes agents again"
    click.echo(json.dumps(told) if as_json else note)


def _parties(operator: Operator) -> list[dict[str, Any]]:
    """Return who was enrolled, each with what the region knows of its stream and updates."""

    async def both() -> tuple[Any, Any]:
        return await operator.get("/v1/admin/devices"), await operator.get("/v1/admin/status")

    told, status = asyncio.run(both())
    with _understanding(operator):
        found: list[dict[str, Any]] = told["devices"]
        for one in found:
            seen = status["devices"].get(one["name"], {}) if one["role"] == "agent" and not one["revoked"] else {}
            one["connected"], one["updates"] = seen.get("connected", False), seen.get("updates", 0)
            one["quarantine"] = seen.get("quarantine", "")
    return found


def _state(party: dict[str, Any]) -> str:
    if party["revoked"]:
        return "revoked"
    if party["role"] != "agent":
        return "enrolled"
    state = "connected" if party["connected"] else "not connected"
    return f"{state}, in quarantine" if party["quarantine"] else state


def _serves(party: dict[str, Any]) -> str:
    return f", for {_printable(', '.join(party['addresses']))}" if party["addresses"] else ""


def _of_token(token: dict[str, Any]) -> str:
    """Say in one line what a join token is for."""
    whom = f"{token['role']} {token['name']}" if token["name"] else f"{token['role']}s"
    whom += f" at {', '.join(token['addresses'])}" if token["addresses"] else ""
    uses = "1 use" if token["uses"] == 1 else f"{token['uses']} uses"
    return f"{token['identifier']} for {whom} of region {token['region']}: {uses}, until {_date(token['expires_at_s'])}"


def _until(party: dict[str, Any]) -> str:
    """Say until when a party's certificate counts; another coordinator's parties are told without that."""
    return _date(party["expires_at_s"]) if party["expires_at_s"] else "not known here"


def _date(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], empty: str) -> str:
    """Return columns as wide as they must be; what others chose cannot steer a terminal."""
    lines = [[_printable(cell) for cell in row] for row in rows]
    if not lines:
        return empty
    widths = [max(len(row[column]) for row in [list(head), *lines]) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [list(head), *lines]
    )


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else "?" for one in text)


def _in_path(name: str) -> str:
    """Return a name as part of a URL's path; one that holds a slash or the like names nothing there."""
    return re.sub(r"[^A-Za-z0-9._-]", "~", name)[:100]


def _write_secret(path: Path, text: str) -> None:
    try:
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


class _understanding:  # noqa: N801 - reads as a word
    """Say so where an answer is no coordinator's."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    def __enter__(self) -> None:
        """Nothing."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (KeyError, TypeError, ValueError, AttributeError)):
            raise UnexpectedAnswerError(
                f"{self._operator.url}: the answer is no coordinator's: {type(error).__name__} {error}"
            ) from error
