"""How a join token is given to a command of either service: in a file, by standard input or in the environment.

Never as an argument: everybody on a machine can read the arguments of its processes, and a shell remembers them.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from skerry.errors import ConfigError
from skerry.identity import join_token
from skerry.identity.join_token import JoinToken

VARIABLE = "SKERRY_JOIN_TOKEN"

C = TypeVar("C", bound=Callable[..., Any])


def join_token_option(command: C) -> C:
    """Give a click command the option `--token-file`; it takes it as `token_file`."""
    of_file = click.option(
        "--token-file",
        type=click.File(),
        metavar="FILE",
        help=f"A file that holds the join token; - is the standard input.  [default: what {VARIABLE} says]",
    )
    return of_file(command)


def chosen_join_token(token_file: Any, environment: Mapping[str, str] = os.environ) -> JoinToken:
    """Return the join token that was given; the file's goes before that of the environment.

    Raises:
        ConfigError: there is none, or it is none.
    """
    if token_file is not None:
        try:
            return join_token.parse(token_file.read(4096))
        except UnicodeDecodeError:
            raise ConfigError(f"{token_file.name}: holds no join token: it is no text") from None
    text = environment.get(VARIABLE)
    if text is None:
        raise ConfigError(
            f"a join token is needed: --token-file FILE, or {VARIABLE} in the environment. An operator makes one with "
            "`skerry-coordinator token create`"
        )
    return join_token.parse(text)
