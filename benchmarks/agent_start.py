"""How long an agent that has its bundle takes from the start of its process to its first training step.

    python -m benchmarks.agent_start --json docs/results/agent_start.json
    python -m benchmarks.agent_start --task mnist-cnn --data-dir /srv/datasets --starts 3

Real processes: a coordinator runs, an agent has trained in its region and was stopped; then it is started again and
again. The figures are medians of seconds since the process was started, read from the agent's own log:

    task_open_s        the bundle is verified and loaded, the data are read
    second_step_s      the second local step is done (calibration with one step for warm-up, one timed)
    connected_s        the coordinator has greeted it
    reference_s        a Python that imports numpy, onnxruntime and aiohttp and ends, run in turn with the starts
    ratio              second_step_s / reference_s

The target is a first step within 1.5 s; the second one, which the log tells, is later.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from benchmarks import builtin_task, result
from coordinator.history import read_history
from edge_agent import config as config_file
from skerry import toml_file
from skerry.recipe import Recipe
from testbed.processes import toml_text
from testbed.processes.federation import Federation
from testbed.processes.process import Process
from testbed.scenario import Scenario

WORLD = """
name = "one-device"
description = "one region, one device at full speed"
task = "{bundle}"
data = "{source}"
held_out = "{source}"
central = {{}}

[[regions]]
name = "here"
coordinator = "here-1"
devices = [{{ name = "device", profile = "jetson-orin-nano", link = {{}} }}]
"""
RECIPE = """
[local_steps]
rule = "cycle"
cycle_min_s = 0.5
steps_max = 1000000
"""
REFERENCE = "import numpy, onnxruntime, aiohttp"
STAMPS = {"task ": "task_open_s", "calibrated": "second_step_s", "joined region": "connected_s"}
PATIENCE_S = 60.0
SECOND_STEP_S_MAX = 1.5


def reference_s() -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", REFERENCE], check=True)
    return time.perf_counter() - start


async def one_start(agent: Process) -> dict[str, float]:
    """Start the agent, wait until its log says all that is asked, stop it; return the seconds."""
    agent.log.write_bytes(b"")
    started_at_s = time.time()
    await agent.start()
    while len(stamps := dict(_stamps(agent.log, started_at_s))) < len(STAMPS):
        assert time.time() < started_at_s + PATIENCE_S, agent.log.read_text()
        await asyncio.sleep(0.05)
    await agent.stop()
    return stamps


def _stamps(log: Path, started_at_s: float) -> Iterator[tuple[str, float]]:
    for line in reversed(log.read_text().splitlines()):  # the first of a kind is yielded last, and counts
        record = json.loads(line)
        for beginning, name in STAMPS.items():
            if record["message"].startswith(beginning):
                yield name, datetime.fromisoformat(record["at"]).timestamp() - started_at_s


async def measure(bundle: str, source: str, starts: int, data_dir: Path | None) -> dict[str, float]:
    scenario = toml_file.parse(WORLD.format(bundle=bundle, source=source), Scenario, "world")
    with tempfile.TemporaryDirectory() as folder:
        recipe = toml_file.parse(RECIPE, Recipe, "recipe")
        federation = Federation(scenario, recipe, Path(folder), seed=1, data_dir=data_dir)
        try:
            await federation.start()
            agent = federation.agents["device"]
            while not read_history(federation.state_dir("here-1")).updates:  # noqa: ASYNC110 - a real process
                await asyncio.sleep(0.1)
            await agent.stop()
            _prepare(Path(agent.command[-1]))
            found = [
                await one_start(agent) | {"reference_s": await asyncio.to_thread(reference_s)} for _ in range(starts)
            ]
        finally:
            await federation.stop()
    medians = {name: statistics.median(one[name] for one in found) for name in found[0]}
    return medians | {"ratio": medians["second_step_s"] / medians["reference_s"], "starts": float(starts)}


def _prepare(file: Path) -> None:
    """Let the agent log what can be parsed, and calibrate in two steps."""
    config = config_file.load(file)
    training = msgspec.structs.replace(config.training, calibration_steps=1)
    file.write_text(toml_text.render(msgspec.structs.replace(config, training=training, log_json=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--task", default="activity,mnist-cnn", metavar="TASKS", help="(default %(default)s)")
    parser.add_argument("--starts", type=int, default=9, help="of the agent and of the reference (default 9)")
    parser.add_argument("--data-dir", type=Path, default=builtin_task.data_dir_by_default(), help="(SKERRY_DATA)")
    parser.add_argument("--folder", type=Path, default=builtin_task.FOLDER, help="of bundles (%(default)s)")
    options = parser.parse_args()
    figures = {}
    for task in options.task.split(","):
        bundle = builtin_task.bundle_of(task, options.data_dir, options.folder)
        source = builtin_task.device_source(task)
        print(f"{task}: {options.starts} starts", file=sys.stderr, flush=True)
        figures[task] = asyncio.run(measure(bundle, source, options.starts, options.data_dir))
    for task, found in figures.items():
        print(f"{task}: target {'met' if found['second_step_s'] <= SECOND_STEP_S_MAX else 'missed'}")
        for name, value in found.items():
            print(f"    {name:16} {value:8.3f}")
    if options.json:
        result.write(options.json, "agent_start", figures)


if __name__ == "__main__":
    main()
