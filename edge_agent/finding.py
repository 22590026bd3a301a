"""What a check of the installation came to."""

from typing import Literal

import msgspec

Outcome = Literal["ok", "warning", "failure"]


class Finding(msgspec.Struct, frozen=True):
    """One check: `failure` keeps the agent from training, `warning` will hurt sooner or later."""

    check: str  # a word; with `: ` and a coordinator's URL where there is one for each
    outcome: Outcome
    found: str
    remedy: str = ""  # what to do; "" where all is well


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", found)


def warning(check: str, found: str, remedy: str) -> Finding:
    """The agent works, for now or not as well as it could."""
    return Finding(check, "warning", found, remedy)


def failure(check: str, found: str, remedy: str) -> Finding:
    """The agent cannot work like this."""
    return Finding(check, "failure", found, remedy)
