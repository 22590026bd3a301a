"""What all of Skerry's commands have in common, so that who knows one knows the others."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from skerry.errors import ConfigError, SkerryError

FORMER_NAMES = {"out": "output"}  # still understood, no longer shown

# For a click group; its commands inherit it.
CONTEXT_SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda name: FORMER_NAMES.get(name, name),
}


@contextmanager
def errors_told(program: str) -> Iterator[None]:
    """Print what a person can act on as one line that begins with `program`, and exit with its code."""
    try:
        yield
    except SkerryError as error:
        click.echo(f"{program}: {error}", err=True)
        sys.exit(error.exit_code)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let every complaint about the configuration in `path` name that file.

    Raises:
        ConfigError: as before, the file put first where it was not mentioned.
    """
    try:
        yield
    except ConfigError as error:
        if str(path) in str(error):
            raise
        raise ConfigError(f"{path}: {error}") from error
