"""What a benchmark leaves behind: its figures, and all that is needed to get them again."""

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import skerry

PACKAGES = ("aiohttp", "msgpack", "msgspec", "numpy", "onnxruntime")


def write(path: Path, name: str, figures: Mapping[str, Any], *, seed: int | None = None) -> None:
    """Write the `figures` of benchmark `name` to `path` as JSON, with versions, machine, seed, command and time."""
    result = {
        "benchmark": name,
        "command": command(name),
        "seed": seed,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {
            "skerry": skerry.__version__,
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        },
        "figures": figures,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")


def command(name: str) -> str:
    """Return the command line that this process was started with, to run it again."""
    return shlex.join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]])


def machine() -> dict[str, str | int]:
    """Return what the figures depend on most: processor, the cores this process may use, memory."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def _processor() -> str:
    """Return the processor's name where the kernel tells it; many ARM kernels do not."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
