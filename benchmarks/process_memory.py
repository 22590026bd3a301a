"""The memory of one process, as the kernel counts it. One MB is 1,000,000 bytes."""

from pathlib import Path


def memory_of(pid: int | str) -> dict[str, float]:
    """Return resident_mb and peak_mb of a process; `self` is this one."""
    return parsed(Path(f"/proc/{pid}/status").read_text())


def parsed(status: str) -> dict[str, float]:
    """Return VmRSS as resident_mb and VmHWM as peak_mb, from the text of /proc/PID/status."""
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return {
        figure: int(fields[key].split()[0]) * 1024 / 1e6
        for key, figure in (("VmRSS", "resident_mb"), ("VmHWM", "peak_mb"))
    }
