"""How a join token is given to a command of either service: in a file, in the environment or on the command line."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from skerry.errors import ConfigError
from skerry.identity import join_token
from skerry.identity.join_token import JoinToken

VARIABLE = "SKERRY_JOIN_TOKEN"

C = TypeVar("C", bound=Callable[..., Any])


def join_token_options(command: C) -> C:
    """Give a click command the options `--token` and `--token-file`; it takes both as `token` and `token_file`."""
    of_text = click.option(
        "--token",
        metavar="TOKEN",
        envvar=VARIABLE,
        show_envvar=True,
        help="The join token. Others on this machine see it while the command runs: --token-file hides it.",
    )
    of_file = click.option(
        "--token-file",
        type=click.File(),
        metavar="FILE",
        help="A file that holds the join token; - is the standard input.",
    )
    return of_text(of_file(command))


def chosen_join_token(token: str | None, token_file: Any) -> JoinToken:
    """Return the join token that was given; of several, the file's goes before that of the environment.

    Raises:
        ConfigError: there is none, or it is none.
    """
    if token_file is not None:
        try:
            return join_token.parse(token_file.read(4096))
        except UnicodeDecodeError:
            raise ConfigError(f"{token_file.name}: holds no join token: it is no text") from None
    if token is None:
        raise ConfigError(
            f"a join token is needed: --token-file FILE, {VARIABLE} in the environment, or --token. An operator makes "
            "one with `skerry-coordinator token create`"
        )
    return join_token.parse(token)
