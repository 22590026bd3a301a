"""A measurement in a process of its own, so that nothing which was loaded for another one counts in it.

A module that can be measured like this prints one JSON object as the last line of its output.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {"ORT_DISABLE_TELEMETRY": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class ChildFailedError(Exception):
    """A measurement's process ended without figures."""


def command(module: str, arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def environment() -> dict[str, str]:
    """Return this process's environment, with one thread for arithmetic and the checkout's own packages."""
    path = os.environ.get("PYTHONPATH")
    return os.environ | ENVIRONMENT | {"PYTHONPATH": f"{ROOT}{os.pathsep}{path}" if path else str(ROOT)}


def run(module: str, arguments: Sequence[str], timeout_s: float) -> dict[str, Any]:
    """Run `python -m module arguments` to its end and return the figures that it printed.

    Raises:
        ChildFailedError: it failed, took longer than `timeout_s`, or printed something else; with the end of its
            output.
    """
    try:
        done = subprocess.run(
            command(module, arguments),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            env=environment(),
        )
    except subprocess.TimeoutExpired as error:
        raise ChildFailedError(f"{module} {' '.join(arguments)}: not done within {timeout_s:g} s") from error
    return figures(module, done.returncode, done.stdout, done.stderr)


def figures(module: str, status: int, output: str, errors: str) -> dict[str, Any]:
    """Return what a process that has ended printed.

    Raises:
        ChildFailedError: as for `run`.
    """
    last = (output.strip().splitlines() or [""])[-1]
    if status == 0 and last.startswith("{"):
        found: dict[str, Any] = json.loads(last)
        return found
    tail = "\n".join((errors.strip() or output.strip()).splitlines()[-12:])
    raise ChildFailedError(f"{module} ended with exit code {status}:\n{tail}")
