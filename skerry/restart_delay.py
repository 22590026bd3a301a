"""Lets a service that fails again and again wait longer before each new start: `python -m skerry.restart_delay`.

systemd can do so by itself from version 254 on (RestartSteps=); Debian 12 has 252. The units call this before a start
(`wait`) and after an end (`note`). What it counts lies in the unit's runtime folder, which systemd keeps between
restarts and removes at a stop, so that whoever stops and starts a service by hand never waits.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

FILE_NAME = "failures.json"
DELAY_MAX_S = 300.0
FORGIVEN_S = 900.0  # that long after the failure before, a new one is the first of a row again


class Failures(NamedTuple):
    """How often a service failed in a row, and when last, in seconds since the machine started."""

    in_a_row: int = 0
    last_s: float = 0.0

    def one_more(self, now_s: float) -> "Failures":
        """Return the row with a failure at `now_s`."""
        before = self.in_a_row if now_s - self.last_s < FORGIVEN_S else 0
        return Failures(before + 1, now_s)

    def wait_s(self, now_s: float) -> float:
        """Return how long to wait at `now_s` before the next start: nothing after one failure, then 2, 4, 8 ... s."""
        delay_s = 0.0 if self.in_a_row <= 1 else min(2.0 ** min(self.in_a_row - 1, 16), DELAY_MAX_S)
        return min(max(0.0, self.last_s + delay_s - now_s), DELAY_MAX_S)


def read(path: Path) -> Failures:
    """Return what `path` says; what is missing or damaged counts as none: a service must start in spite of it."""
    try:
        in_a_row, last_s = json.loads(path.read_bytes())
        return Failures(int(in_a_row), float(last_s))
    except (OSError, ValueError, TypeError):
        return Failures()


def run(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> int:
    """Do what `arguments` ask; return the exit code. `clock` counts from the start of the machine."""
    folder = environment.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if list(arguments) not in (["wait"], ["note"]) or not folder:
        print("usage: python -m skerry.restart_delay wait|note, in a unit with a RuntimeDirectory=", file=sys.stderr)
        return 2
    path = Path(folder) / FILE_NAME
    failures = read(path)
    if arguments[0] == "wait":
        wait_s = failures.wait_s(clock())
        if wait_s > 0.0:
            print(f"failed {failures.in_a_row} times in a row: starting in {wait_s:.0f} s", file=sys.stderr)
            sleep(wait_s)
    elif environment.get("SERVICE_RESULT") != "success":
        path.write_text(json.dumps(failures.one_more(clock())))
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], os.environ, lambda: time.clock_gettime(time.CLOCK_BOOTTIME), time.sleep))
