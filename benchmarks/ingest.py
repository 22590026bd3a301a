"""How many durable updates a coordinator takes per second, as a share of what a bare WebSocket echo does.

`python -m benchmarks.ingest [--tls] [--json FILE] [--pairs N] [--seconds S]`

With `--tls`: as a share of what the same coordinator does by plain HTTP, every agent with a certificate of its own.

Coordinator and echo run in turns as processes of their own, under the same load from a third process. After each turn
the coordinator's journal and model are checked against what was acknowledged.
"""

import argparse
import contextlib
import importlib.metadata
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil

from benchmarks.identities import make_federation
from benchmarks.ingest_load import Load, Loaded
from benchmarks.ingest_payloads import initial_model, task_bundle, updates
from benchmarks.result import PACKAGES, machine
from coordinator.history import read_history
from coordinator.recovery import rebuild

START_S = 30.0
COORDINATES = 2000  # of the model, replayed one by one in the journal's order

CONFIG = """
name = "ingest"
region = "ingest"
bundle = "{folder}/ingest.skerry"
state_dir = "{folder}/state"
insecure = {insecure}

[listen]
port = 0

[limits]
device_frames_per_s_max = 1000000.0  # 16 devices do here what thousands do elsewhere

[checkpoints]
history_versions = 1000000000  # the whole journal is kept, to be checked afterwards

[recipe.federation]
rule = "none"
"""


@contextlib.contextmanager
def server(command: list[str], port_file: Path) -> Iterator[tuple[psutil.Process, str]]:
    """Run a server until the block ends; it must then stop by itself with 0 or of SIGTERM."""
    process = subprocess.Popen([sys.executable, "-m", *command])
    try:
        deadline = time.monotonic() + START_S
        while not port_file.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} did not start")
            time.sleep(0.02)
        yield psutil.Process(process.pid), f"http://127.0.0.1:{int(port_file.read_text())}"
    finally:
        process.terminate()
        code = process.wait(30)
    if code not in {0, -signal.SIGTERM}:
        raise SystemExit(f"{command[0]} ended with {code}")


def put_under_load(load: Load, process: psutil.Process) -> tuple[Loaded, float]:
    """Return what the load did, and the CPU seconds of the server for each answered update."""
    before = sum(process.cpu_times()[:2])
    encoded = msgspec.json.encode(load).decode()
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.ingest_load", encoded], check=True, stdout=subprocess.PIPE, text=True
    )
    loaded = msgspec.json.decode(run.stdout, type=Loaded)
    return loaded, (sum(process.cpu_times()[:2]) - before) / sum(loaded.updates)


def echo_turn(load: Load) -> tuple[Loaded, float]:
    """Put the echo under load."""
    with tempfile.TemporaryDirectory(prefix="skerry-ingest-") as folder:
        port_file = Path(folder) / "port"
        with server(["benchmarks.ingest_echo", str(port_file), str(load.size)], port_file) as (process, url):
            return put_under_load(msgspec.structs.replace(load, target="echo", url=url), process)


def coordinator_turn(load: Load, bundle: bytes, *, tls: bool = False) -> tuple[Loaded, float]:
    """Put a coordinator with an empty state under load, stop it, and check what it left."""
    with tempfile.TemporaryDirectory(prefix="skerry-ingest-") as name:
        folder = Path(name)
        (folder / "ingest.skerry").write_bytes(bundle)
        (folder / "coordinator.toml").write_text(CONFIG.format(folder=folder, insecure=str(not tls).lower()))
        if tls:
            agents = {f"agent-{agent}": folder / f"agent-{agent}" for agent in range(load.agents)}
            make_federation({"ingest": folder / "state" / "identity"}, agents)
            load = msgspec.structs.replace(load, identities=name)
        command = ["coordinator.cli", "run", "--config", str(folder / "coordinator.toml")]
        with server(command, folder / "state" / "port") as (process, url):
            where = url.replace("http:", "https:") if tls else url
            result = put_under_load(msgspec.structs.replace(load, target="coordinator", url=where), process)
        check(load, result[0], folder / "state")
    return result


def check(load: Load, loaded: Loaded, state_dir: Path) -> None:
    """See that the journal holds what was acknowledged, once, and that the model is its weighted sum, bit for bit."""
    rows = read_history(state_dir).updates
    journal: dict[str, list[int]] = {}
    for row in rows:
        journal.setdefault(row.device, []).append(row.sequence)
    expected = {f"agent-{agent}": list(range(1, count + 1)) for agent, count in enumerate(loaded.updates)}
    assert journal == expected, "the journal is not what was acknowledged"

    chosen = np.random.default_rng(load.seed).choice(load.size, COORDINATES, replace=False)
    at = np.full(load.size, -1, np.int64)
    at[chosen] = np.arange(COORDINATES)
    pieces = {
        f"agent-{agent}": [
            (at[update.indices[hit]], update.values[hit])
            for update in updates(agent, load.size, load.values, load.seed)
            for hit in [at[update.indices] >= 0]
        ]
        for agent in range(load.agents)
    }
    model = initial_model(load.size, load.seed)[chosen]
    for row in sorted(rows, key=lambda row: row.version or 0):
        assert row.weight is not None
        ring = pieces[row.device]
        places, values = ring[row.sequence % len(ring)]
        model[places] += np.float32(row.weight) * values
    assert np.array_equal(model, rebuild(state_dir, len(rows))[chosen]), "the model is not the weighted sum"


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run all pairs and return the report."""
    load = Load(
        url="",
        target="",
        identities="",
        agents=arguments.agents,
        size=arguments.size,
        values=arguments.values,
        window=arguments.window,
        warm_up_s=1.0,
        measured_s=arguments.seconds,
        seconds_per_step=1.5,  # a plausible cycle of 30 s: models go out to the agents that often
        seed=arguments.seed,
    )
    load_average = os.getloadavg()[0]  # of the last minute: what else is running
    bundle = task_bundle(load.size, load.seed)
    pairs: list[dict[str, Any]] = []
    reference = "plain" if arguments.tls else "echo"
    print(
        f"{'pair':>4} {'coordinator/s':>14} {reference + '/s':>8} {'ratio':>6} {'cpu us/update':>14} {reference:>5} us"
    )
    for number in range(arguments.pairs):
        turns = {}
        for target in ("coordinator", reference) if number % 2 == 0 else (reference, "coordinator"):
            if target == "echo":
                turns[target] = echo_turn(load)
            else:
                turns[target] = coordinator_turn(load, bundle, tls=arguments.tls and target == "coordinator")
        (ours, ours_cpu_s), (echo, echo_cpu_s) = turns["coordinator"], turns[reference]
        pair = {
            "coordinator_updates_per_s": ours.measured / ours.measured_s,
            f"{reference}_updates_per_s": echo.measured / echo.measured_s,
            "ratio": ours.measured / echo.measured,
            "cpu_ratio": echo_cpu_s / ours_cpu_s,  # hardly depends on what else runs on the machine
            "coordinator_cpu_us_per_update": 1e6 * ours_cpu_s,
            f"{reference}_cpu_us_per_update": 1e6 * echo_cpu_s,
            "acknowledged": sum(ours.updates),
            "repeats": ours.repeats,
            "load_cpu_share": {"coordinator": ours.cpu_s / ours.measured_s, reference: echo.cpu_s / echo.measured_s},
        }
        pairs.append(pair)
        print(
            f"{number:>4} {pair['coordinator_updates_per_s']:>14.0f} {pair[f'{reference}_updates_per_s']:>8.0f} "
            f"{pair['ratio']:>6.3f} {1e6 * ours_cpu_s:>14.0f} {1e6 * echo_cpu_s:>8.0f}",
            flush=True,
        )

    def median(key: str) -> float:
        return float(statistics.median(pair[key] for pair in pairs))

    report = {
        "benchmark": "ingest_tls" if arguments.tls else "ingest",
        "command": f"python -m benchmarks.ingest {' '.join(sys.argv[1:])}".strip(),
        "ratio": median("ratio"),
        "cpu_ratio": median("cpu_ratio"),
        "coordinator_updates_per_s": median("coordinator_updates_per_s"),
        f"{reference}_updates_per_s": median(f"{reference}_updates_per_s"),
        "seed": load.seed,
        "load": {key: getattr(load, key) for key in ("agents", "size", "values", "window", "warm_up_s", "measured_s")},
        "pairs": pairs,
        "machine": machine() | {"load_average_before": load_average},
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    print(f"median ratio {report['ratio']:.3f}, by CPU time {report['cpu_ratio']:.3f}")
    print("every acknowledged update is in the journal and in the model, once")
    return report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest", description=__doc__)
    parser.add_argument("--tls", action="store_true", help="mutual TLS against plain HTTP")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="measured time of each turn")
    parser.add_argument("--agents", type=int, default=16)
    parser.add_argument("--size", type=int, default=1_000_000, help="parameters of the model")
    parser.add_argument("--values", type=int, default=1000, help="values of an update")
    parser.add_argument("--window", type=int, default=64, help="updates under way per agent")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    report = run(arguments)
    if arguments.json:
        arguments.json.write_text(msgspec.json.format(msgspec.json.encode(report), indent=1).decode() + "\n")


if __name__ == "__main__":
    main()
