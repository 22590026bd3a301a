"""The memory of a whole agent that trains a built-in task and streams its updates, with either engine.

    python -m benchmarks.agent_memory mnist-cnn --bundle lab-results/benchmarks/mnist-cnn.skerry --engine torch

A real coordinator, a real agent on loopback, batches of 32 on one thread, on a hundredth of the task's data set.
Read from the agent's /proc/PID/status: `resident_mb` is the largest VmRSS from the first acknowledged update on,
`peak_mb` is VmHWM, which has the start in it. One MB is 1,000,000 bytes.
"""

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.builtin_task import data_dir_by_default, device_source
from benchmarks.process_memory import memory_of
from coordinator.history import read_history
from edge_agent.config import Training
from skerry import toml_file
from skerry.profile import EngineName
from skerry.recipe import Recipe
from testbed.processes.federation import Federation
from testbed.scenario import Scenario

WORLD = """
name = "one-device"
description = "one region, one device at full speed"
task = "{bundle}"
data = "{source}"
held_out = "{source}"
evaluate_every_s = 86400.0
batch_examples = 32
central = {{}}

[[regions]]
name = "here"
coordinator = "here-1"
devices = [{{ name = "device", profile = "{profile}", link = {{}} }}]
"""
PROFILE = 'name = "one-thread"\nthreads = 1\n'
RECIPE = """
[local_steps]
rule = "cycle"
steps_median = 4
cycle_min_s = 0.5
cycle_max_s = 4.0
"""
PATIENCE_S = 300.0  # for all updates
STOP_S = 60.0  # to end in good order: a step under way is taken to its end
SAMPLE_S = 0.1


async def measure(
    name: str, bundle: str, engine: EngineName, data_dir: Path | None, updates: int, seconds: float
) -> dict[str, Any]:
    """Train until `updates` are in the journal and `seconds` have passed since the first one."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        profile = folder / "one-thread.toml"
        profile.write_text(PROFILE)
        world = WORLD.format(bundle=bundle, source=device_source(name), profile=profile)
        federation = Federation(
            toml_file.parse(world, Scenario, "world"),
            toml_file.parse(RECIPE, Recipe, "recipe"),
            folder,
            seed=1,
            data_dir=data_dir,
            training=Training(engine=engine, calibration_steps=1),
        )
        try:
            start_s = time.perf_counter()
            await federation.start()
            largest = peak = 0.0
            first_s: float | None = None
            taken: list[int] = []
            while len(taken) < updates or first_s is None or time.perf_counter() < first_s + seconds:
                if federation.failure.done() or time.perf_counter() > start_s + PATIENCE_S + seconds:
                    tail = " / ".join(federation.agents["device"].log_tail(3))
                    raise SystemExit(f"{len(taken)} updates; the agent's log ends with {tail}")
                await asyncio.sleep(SAMPLE_S)
                taken = [update.steps for update in read_history(federation.state_dir("here-1")).updates]
                if taken:
                    now = memory_of(federation.agents["device"].pid)
                    first_s = first_s or time.perf_counter()
                    largest, peak = max(largest, now["resident_mb"]), now["peak_mb"]
            runs_on = next((line for line in federation.agents["device"].log_tail(1000) if "training on" in line), "")
            asked_s = time.perf_counter()
            await federation.agents["device"].stop(STOP_S)
            stop_s = time.perf_counter() - asked_s
        finally:
            await federation.stop()
    return {
        "resident_mb": largest,
        "peak_mb": max(peak, largest),  # the kernel updates the two at different times
        "updates": len(taken),
        "steps": sum(taken),
        "runs_on": runs_on.partition("training on ")[2],
        "stop_s": stop_s,
        "start_to_first_update_s": first_s - start_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", help="a built-in task: see skerry-task list")
    parser.add_argument("--bundle", required=True, help="its bundle: a path, or builtin:TASK")
    parser.add_argument("--engine", choices=("onnx", "torch"), default="onnx", help="the agent's training.engine")
    parser.add_argument("--data-dir", type=Path, default=data_dir_by_default(), help="of data sets (SKERRY_DATA)")
    parser.add_argument("--updates", type=int, default=12, help="train for so many updates (default 12)")
    parser.add_argument("--seconds", type=float, default=15.0, help="and so long after the first (default 15)")
    options = parser.parse_args()
    figures = asyncio.run(
        measure(options.task, options.bundle, options.engine, options.data_dir, options.updates, options.seconds)
    )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
