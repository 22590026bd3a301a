"""Who takes the processor: the agent and its children, or others."""

from edge_agent.kernel_files import KernelFiles, whole

CHILDREN_MAX = 64  # whose time is looked up; the agent has none of its own, a data source may have some
IDLE, IOWAIT = 3, 4  # fields of the first line of /proc/stat


class Processor:
    """Compares the ticks of `/proc/stat` with the agent's own, from call to call."""

    def __init__(self, files: KernelFiles) -> None:
        self._files = files
        self._before: tuple[int, int, int] | None = None

    def taken_by_others(self) -> float | None:
        """Return the share of all cores that others took since the call before, in [0, 1]; None: not known yet."""
        total_busy = self._files.parse("proc/stat", _total_and_busy)
        own = self._files.parse("proc/self/stat", _ticks)
        if total_busy is None or own is None:
            return None
        own += sum(self._files.parse(f"proc/{child}/stat", _ticks) or 0 for child in self._children())
        now = (*total_busy, own)
        before, self._before = self._before, now
        if before is None or now[0] <= before[0]:
            return None
        total, busy, mine = (after - earlier for after, earlier in zip(now, before, strict=True))
        return min(max((busy - mine) / total, 0.0), 1.0)

    def _children(self) -> list[str]:
        """Return the ids of the processes below this one; none where the kernel does not tell."""
        found: list[str] = []
        parents = ["self"]
        while parents and len(found) < CHILDREN_MAX:
            parent = parents.pop()
            for thread in self._files.entries(f"proc/{parent}/task"):
                words = (self._files.text(f"{thread}/children") or "").split()
                children = [word for word in words if word.isdecimal()]
                found += children
                parents += children
        return found[:CHILDREN_MAX]


def _total_and_busy(stat: str) -> tuple[int, int]:
    """Return all ticks, and those that were not idle, of `user nice system idle iowait irq softirq steal ...`.

    What guests took is in `user` already.
    """
    name, *fields = stat.splitlines()[0].split()
    ticks = [whole(field) for field in fields[:8]]
    if name != "cpu" or len(ticks) <= IOWAIT:
        raise ValueError("not the line of all processors")
    return sum(ticks), sum(ticks) - ticks[IDLE] - ticks[IOWAIT]


def _ticks(stat: str) -> int:
    """Return what a process and its children that have ended took: utime, stime, cutime and cstime, see proc(5)."""
    fields = stat.rpartition(")")[2].split()  # the name before may hold anything
    return sum(whole(field) for field in fields[11:15])
