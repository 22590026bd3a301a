"""What the production services cost in virtual time: messages per second outside training, and memory of each device.

    python -m benchmarks.simulated_services [--json FILE] [--devices N]

Four regions run in one process on one core, agents and coordinators whole: WebSocket and HTTP, journal and outbox in
SQLite, the codec, the token. `calm`: the task `activity` with the default recipe. `busy`: a model of 115 parameters
whose devices send an update every third of a second or so; nothing but traffic, so to speak. `connected`: as many
devices with that model as `--devices` says, for their memory.

A message is what is read as one at the other end: a frame on a device's stream, a request or an answer between
coordinators; so updates, models, acknowledgements, heartbeats, telemetry, peers' models, the token and signs of life.
What takes several segments of the simulated network counts once.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks import child, result
from benchmarks.simulated_fleet import Plan
from skerry.tasks.manifest import Defaults, Input, Label
from skerry.training.definition import TaskDefinition

SEED = 1
TIMEOUT_S = 3600.0
EXAMPLES = 64  # of each device with the small model


def small_task(folder: Path) -> tuple[str, str]:
    """Build a task of 115 parameters; return its bundle and data source."""
    import torch

    from skerry.training.build import build

    torch.manual_seed(SEED)
    definition = TaskDefinition(
        name="largest-of-three",
        model=torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)),
        input=Input(shape=(3,)),
        label=Label(classes=3),
        defaults=Defaults(batch_examples=8, learning_rate=0.05),
    )
    bundle = folder / "largest-of-three.skerry"
    bundle.write_bytes(build(definition).file)
    x = np.random.default_rng(SEED).standard_normal((EXAMPLES, 3)).astype(np.float32)
    np.savez(folder / "rows.npz", x=x, y=x.argmax(axis=1))
    return str(bundle), f"npz:{folder / 'rows.npz'}"


def measure(plan: Plan) -> dict[str, Any]:
    """Run it in a process of its own; print what it took."""
    load_average = os.getloadavg()[0]
    found = child.run("benchmarks.simulated_fleet", [msgspec.json.encode(plan).decode()], TIMEOUT_S)
    outside_s = found["cpu_s"] - found["training_s"]
    figures = {
        "devices": plan.devices,
        "virtual_s": plan.seconds,
        "messages": found["messages"],
        "segments": found["segments"],
        "updates": found["updates"],
        "messages_per_cpu_s_outside_training": round(found["messages"] / outside_s),
        "virtual_s_per_cpu_s": round(plan.seconds / found["cpu_s"], 2),
        "training_share": round(found["training_s"] / found["cpu_s"], 3),
        "starting_cpu_ms_per_device": round(1e3 * found["starting_cpu_s"] / plan.devices, 1),
        "resident_mb": round(found["resident_mb"]),
        "kb_per_device": round(found["kb_per_device"]),
        "digest": found["digest"],
        "load_average_before": load_average,
    }
    print(
        f"{figures['devices']:>7,} {figures['messages']:>9,} {figures['updates']:>8,} "
        f"{figures['messages_per_cpu_s_outside_training']:>10,} {figures['training_share']:>9.0%} "
        f"{figures['resident_mb']:>6,} {figures['kb_per_device']:>10,}",
        flush=True,
    )
    return figures


def main() -> None:
    """Measure, print, and write what `--json` names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--devices", type=int, default=10_000, help="that are connected, for their memory")
    options = parser.parse_args()
    print(
        f"{'devices':>7} {'messages':>9} {'updates':>8} {'per CPU s':>10} {'training':>9} {'MB':>6} {'kB/device':>10}"
    )
    with tempfile.TemporaryDirectory() as folder:
        task, data = small_task(Path(folder))
        figures = {
            "calm": measure(
                Plan(200, 120.0, "builtin:activity", "builtin:activity?part={part}&parts=36", 0.5, None, SEED)
            ),
            "busy": measure(Plan(100, 60.0, task, data, 0.04, 3, SEED)),
            "connected": measure(Plan(options.devices, 20.0, task, data, 5.0, None, SEED)),
        }
    if options.json:
        result.write(options.json, "simulated_services", figures, seed=SEED)


if __name__ == "__main__":
    main()
