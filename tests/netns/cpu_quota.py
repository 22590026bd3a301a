"""A share of one core for a process, by the machine's control groups: version 1 or 2, whichever is there."""

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.netns.network import Unavailable

ROOT = Path("/sys/fs/cgroup")
PERIOD_US = 100_000


@dataclass(frozen=True, slots=True)
class Quota:
    """A group with a bound."""

    folder: Path

    @property
    def processes(self) -> Path:
        """The file to which a process's number is written."""
        return self.folder / "cgroup.procs"

    def held_back(self) -> int:
        """Return in how many periods the group had used up its share."""
        lines = (line.split() for line in (self.folder / "cpu.stat").read_text().splitlines())
        return int(dict(lines)["nr_throttled"])

    def used_s(self) -> float:
        """Return the processor time of its processes so far."""
        times = [psutil.Process(int(pid)).cpu_times() for pid in self.processes.read_text().split()]
        return sum(one.user + one.system for one in times)


@contextmanager
def cpu_quota(name: str, share: float) -> Iterator[Quota]:
    """Make a group that gets `share` of one core.

    Raises:
        Unavailable: there is no controller of the processor.
    """
    quota_us = int(share * PERIOD_US)
    if (ROOT / "cgroup.controllers").exists():
        if "cpu" not in (ROOT / "cgroup.controllers").read_text().split():
            raise Unavailable("control groups (version 2) without the cpu controller")
        (ROOT / "cgroup.subtree_control").write_text("+cpu")
        folder, limits = ROOT / name, {"cpu.max": f"{quota_us} {PERIOD_US}"}
    elif (ROOT / "cpu").exists():
        folder = ROOT / "cpu" / name
        limits = {"cpu.cfs_period_us": str(PERIOD_US), "cpu.cfs_quota_us": str(quota_us)}
    else:
        raise Unavailable(f"no control groups with a cpu controller in {ROOT}")
    folder.mkdir()
    try:
        for file, value in limits.items():
            (folder / file).write_text(value)
        yield Quota(folder)
    finally:
        _remove(folder)


def version() -> int:
    """Return which version of control groups this machine has."""
    return 2 if (ROOT / "cgroup.controllers").exists() else 1


def _remove(folder: Path) -> None:
    """Remove the group once its last process has gone."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            folder.rmdir()
            return
        time.sleep(0.05)
    raise AssertionError(f"{folder}: processes are left in it")
