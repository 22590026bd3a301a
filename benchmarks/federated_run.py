"""A built-in task end to end: a coordinator and a few agents as processes, and how good the region's model gets.

    python -m benchmarks.federated_run mnist-cnn --bundle lab-results/benchmarks/mnist-cnn.skerry --seconds 30

The training data are dealt to the agents at random (IID); the coordinator evaluates its model on the held-out data.
The clock starts with the first update. Default recipe, loopback, no shaped links.
"""

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.builtin_task import data_dir_by_default
from coordinator.history import History, read_history
from skerry import toml_file
from skerry.recipe import Recipe
from skerry.tasks.builtin.catalogue import task_of
from testbed.processes.federation import Federation
from testbed.scenario import Scenario

DEVICES = 2  # one for each core of a small machine
EVALUATE_S = 5.0
PATIENCE_S = 120.0  # until the first update, and until the last evaluation
SEED = 1
WORLD = """
name = "one-region"
description = "one region, devices of one kind at full speed"
task = "{bundle}"
data = "builtin:{data_set}?part={{part}}&parts={{parts}}&partition=iid"
held_out = "builtin:{data_set}"
evaluate_every_s = {evaluate_s}
central = {{}}

[[regions]]
name = "here"
coordinator = "here-1"
devices = [{devices}]
"""
DEVICE = '{{ name = "device-{number}", profile = "{profile}", link = {{}} }}'
PROFILE = 'name = "one-thread"\nthreads = 1\n'


async def train(name: str, bundle: str, data_dir: Path | None, seconds: float, devices: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        profile = folder / "one-thread.toml"
        profile.write_text(PROFILE)
        world = WORLD.format(
            bundle=bundle,
            data_set=task_of(name).data_set,
            evaluate_s=min(EVALUATE_S, seconds / 4),
            devices=", ".join(DEVICE.format(number=number, profile=profile) for number in range(devices)),
        )
        scenario = toml_file.parse(world, Scenario, "world")
        federation = Federation(scenario, Recipe(), folder, seed=SEED, data_dir=data_dir)

        def history() -> History:
            if federation.failure.done():
                raise SystemExit(str(federation.failure.exception() or federation.failure.result()))
            return read_history(federation.state_dir("here-1"))

        try:
            await federation.start()
            deadline_s = time.monotonic() + PATIENCE_S
            while not (found := history()).updates:
                if time.monotonic() > deadline_s:
                    raise SystemExit(f"no update within {PATIENCE_S:g} s")
                await asyncio.sleep(0.1)
            end_s = found.updates[0].received_at_s + seconds
            while time.time() < end_s:
                history()
                await asyncio.sleep(0.5)
            while not (found.evaluations and found.evaluations[-1].at_s >= end_s):
                found = history()
                if time.time() > end_s + PATIENCE_S:
                    raise SystemExit(f"no evaluation within {PATIENCE_S:g} s of the end")
                await asyncio.sleep(0.2)
        finally:
            await federation.stop()
    return figures(found, seconds, devices)


def figures(found: History, seconds: float, devices: int) -> dict[str, Any]:
    """Return what the journal says of the first `seconds` of training; times are from the first update on."""
    start_s = found.updates[0].received_at_s
    points = [
        {"at_s": point.at_s - start_s, "accuracy": point.correct / point.examples}
        for point in found.evaluations
        if point.kind == "regional" and point.at_s > start_s and point.correct is not None
    ]
    last = next(point for point in points if point["at_s"] >= seconds)
    counted = [update for update in found.updates if update.received_at_s - start_s <= last["at_s"]]
    return {
        "devices": devices,
        "seconds": last["at_s"],
        "updates": len(counted),
        "steps": sum(update.steps for update in counted),
        "accuracy": last["accuracy"],
        "held_out_examples": found.evaluations[-1].examples,
        "points": points,
    }


def measure(name: str, bundle: str, data_dir: Path | None, seconds: float, devices: int = DEVICES) -> dict[str, Any]:
    """Train for `seconds` from the first update on; return counts, and accuracies over time."""
    return asyncio.run(train(name, bundle, data_dir, seconds, devices))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", help="a built-in task that has an accuracy: see skerry-task list")
    parser.add_argument("--bundle", required=True, help="its bundle: a path, or builtin:TASK")
    parser.add_argument("--data-dir", type=Path, default=data_dir_by_default(), help="of data sets (SKERRY_DATA)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training (default 60)")
    parser.add_argument("--devices", type=int, default=DEVICES, help="agents (default %(default)s)")
    options = parser.parse_args()
    found = measure(options.task, options.bundle, options.data_dir, options.seconds, options.devices)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
