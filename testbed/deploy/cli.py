"""The command line of `skerry-lab deploy`."""

import os
import sys
from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from skerry.errors import ConfigError, SkerryError
from skerry.join_token_option import VARIABLE
from testbed.deploy import command
from testbed.deploy.command import Order, Outcome
from testbed.deploy.plan import VERBS, Verb

TOKEN_BYTES_MAX = 4096


@click.command(
    epilog="""\b
Examples:
  skerry-lab deploy install boards.toml --dry-run
  skerry-lab deploy join boards.toml --token-file token.txt
  skerry-lab deploy start boards.toml --boards greenhouse-7,greenhouse-8
  skerry-lab deploy collect boards.toml --output today

\b
Exit codes:
  0  every board is where it was to be
  1  at least one is not; the others are
  2  inventory or command line"""
)
@click.argument("verb", type=click.Choice(VERBS))
@click.argument("inventory", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--boards", help="Only these, with commas between them.")
@click.option("--jobs", type=click.IntRange(1, 256), default=8, show_default=True, help="Boards at a time.")
@click.option("--dry-run", is_flag=True, help="Ask the boards how they are, and only say what would be done.")
@click.option(
    "--token-file",
    type=click.File("rb"),
    help=f"join: a file with a join token that has a use for each board; - is the standard input.  "
    f"[default: what {VARIABLE} says]",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("boards"),
    show_default=True,
    help="collect: the folder that gets a folder for each board.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
def deploy(
    verb: Verb,
    inventory: Path,
    boards: str | None,
    jobs: int,
    dry_run: bool,
    token_file: BinaryIO | None,
    output: Path,
    as_json: bool,
) -> None:
    """Bring the agents on the boards of INVENTORY, a TOML file, to where VERB wants them, over ssh.

    What is done already is left alone, so that the same command may be given again. docs/deploy.md shows an inventory.
    """
    token = os.environ[VARIABLE].encode() if VARIABLE in os.environ else None
    if token_file is not None:
        token = token_file.read(TOKEN_BYTES_MAX)
    order = Order(
        verb=verb,
        inventory=inventory,
        boards=tuple(name.strip() for name in boards.split(",")) if boards else (),
        jobs=jobs,
        dry_run=dry_run,
        token=token,
        output=output,
    )
    try:
        outcomes = command.run(order, lambda line: click.echo(line, err=as_json))
    except SkerryError as error:
        click.echo(f"skerry-lab: {error}", err=True)
        sys.exit(error.exit_code if isinstance(error, ConfigError) else 1)
    if as_json:
        click.echo(msgspec.json.encode({"verb": verb, "dry_run": dry_run, "boards": outcomes}))
    else:
        click.echo(_summary(outcomes))
    sys.exit(1 if any(outcome.error for outcome in outcomes) else 0)


def _summary(outcomes: list[Outcome]) -> str:
    failed = [outcome.board for outcome in outcomes if outcome.error]
    text = f"{len(outcomes) - len(failed)} of {len(outcomes)} boards are as wanted"
    return f"{text}; not so: {', '.join(failed)}" if failed else text
