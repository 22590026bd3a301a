"""What an agent costs a device: resident memory while it trains `activity`, time to import, time to the first step.

`python -m benchmarks.agent_footprint [--json FILE] [--updates N]`
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import psutil

from benchmarks import result
from coordinator.history import read_history
from skerry import toml_file
from skerry.recipe import Recipe
from testbed.processes.federation import Federation
from testbed.scenario import Scenario

WORLD = """
name = "one-device"
description = "one region, one device at full speed"
central = {}

[[regions]]
name = "here"
coordinator = "here-1"
devices = [{ name = "device", profile = "jetson-orin-nano", link = {} }]
"""
RECIPE = """
[local_steps]
rule = "cycle"
cycle_min_s = 0.5
steps_max = 1000000
"""
IMPORTS = ("edge_agent", "edge_agent.service", "edge_agent.cli")


def import_s(module: str, repeats: int) -> float:
    """Return the median wall time of a fresh interpreter importing `module`, less that of one importing nothing."""

    def run(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - start

    run(f"import {module}")  # compiles, and warms the page cache
    return statistics.median(run(f"import {module}") - run("pass") for _ in range(repeats))


async def train(updates: int) -> dict[str, float]:
    """Run one agent against one coordinator until it has `updates` in the journal; return its memory in MB."""
    resident: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        federation = Federation(
            toml_file.parse(WORLD, Scenario, "world"), toml_file.parse(RECIPE, Recipe, "recipe"), Path(folder), seed=1
        )
        try:
            start = time.perf_counter()
            await federation.start()
            agent = psutil.Process(federation.agents["device"].pid)
            rows = 0
            first_update_s = 0.0
            while rows < updates:
                await asyncio.sleep(0.1)
                resident.append(agent.memory_info().rss / 1e6)
                rows = len(read_history(federation.state_dir("here-1")).updates)
                if rows and not first_update_s:
                    first_update_s = time.perf_counter() - start
            memory = agent.memory_full_info()
        finally:
            await federation.stop()
    return {
        "resident_mb_peak": max(resident),
        "resident_mb_end": resident[-1],
        "unique_mb_end": memory.uss / 1e6,
        "start_to_first_update_s": first_update_s,
        "updates": float(rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--updates", type=int, default=60, help="train for so many updates (default 60)")
    parser.add_argument("--repeats", type=int, default=7, help="of each import (default 7)")
    options = parser.parse_args()
    figures: dict[str, object] = {f"import_s {module}": import_s(module, options.repeats) for module in IMPORTS}
    figures |= asyncio.run(train(options.updates))
    for name, value in figures.items():
        print(f"{name:32} {value:8.3f}")
    if options.json:
        result.write(options.json, "agent_footprint", msgspec.to_builtins(figures))


if __name__ == "__main__":
    main()
