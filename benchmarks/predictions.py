"""What training costs those who ask for predictions: latency while the agent trains, against that while it waits.

`python -m benchmarks.predictions [--task TASK] [--json FILE] [--rounds N]`

A real agent and a real coordinator; a client asks over HTTP, one example at a time, with pauses. In each round the
agent first waits: the coordinator is stopped (SIGSTOP), and the outbox, which is full then, pauses training. Then the
coordinator goes on, and the training thread runs at full load. Both kinds of phase alternate, so that whatever else
the machine does meets both alike.
"""

import argparse
import http.client
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks import result
from benchmarks.builtin_task import bundle_of, data_dir_by_default, device_source
from edge_agent import status
from skerry.tasks.bundle import Bundle, resolve
from skerry.tasks.data import load

COORDINATOR = """
name = "here-1"
region = "here"
bundle = "{bundle}"
state_dir = "{folder}/coordinator"
insecure = true
listen = {{ port = {port} }}

[recipe.local_steps]
rule = "cycle"
cycle_min_s = {cycle_s}
steps_max = 1000000
"""
AGENT = """
device = "device"
coordinators = ["http://127.0.0.1:{port}"]
state_dir = "{folder}/agent"
insecure = true
data = {{ source = "{source}" }}

[training]
nicer = {nicer}

[policy]
enabled = false

[limits]
outbox_updates_max = 2
progress_timeout_s = 600.0
status_s = 0.1
telemetry_s = 1.0

[inference]
enabled = true
listen = "127.0.0.1:{predict_port}"
{more}
"""
PATIENCE_S = 60.0
PAUSE_S = (0.001, 0.007)  # between two requests, uniform


class Client:
    """Asks one thing again and again on one connection."""

    def __init__(self, port: int, body: bytes) -> None:
        self._connection, self._body = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S), body
        self._rng = random.Random(1)

    def ask(self) -> float:
        """Return the seconds from the question to the whole answer."""
        started_s = time.perf_counter()
        self._connection.request("POST", "/v1/predict", self._body, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        content = answer.read()
        elapsed_s = time.perf_counter() - started_s
        assert answer.status == 200, content
        return elapsed_s

    def ask_for(self, seconds: float) -> list[float]:
        """Return the seconds of every question within so long."""
        until_s = time.perf_counter() + seconds
        found = []
        while time.perf_counter() < until_s:
            found.append(self.ask())
            time.sleep(self._rng.uniform(*PAUSE_S))
        return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def process(service: str, config: Path) -> Iterator["subprocess.Popen[bytes]"]:
    code = f"from {service}.cli import main; main()"
    with (
        config.with_suffix(".log").open("wb") as log,
        subprocess.Popen([sys.executable, "-c", code, "run", "--config", str(config)], stderr=log) as running,
    ):
        try:
            yield running
        finally:
            running.send_signal(signal.SIGCONT)
            running.terminate()
            running.wait(PATIENCE_S)


def until(what: str, happens: Any) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not happens():
        if time.monotonic() > deadline_s:
            raise SystemExit(f"gave up waiting until {what}")
        time.sleep(0.05)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    name = bundle_of(options.task, data_dir_by_default())
    bundle, source = resolve(name), device_source(options.task)
    port, predict_port = free_port(), free_port()
    fields = {
        "bundle": name,
        "folder": folder,
        "port": port,
        "predict_port": predict_port,
        "cycle_s": options.cycle_s,
        "source": source,
        "nicer": options.nicer,
        "more": "",
    }
    for service, text in (("coordinator", COORDINATOR), ("agent", AGENT)):
        (folder / f"{service}.toml").write_text(text.format(**fields))
    with (
        process("coordinator", folder / "coordinator.toml") as coordinator,
        process("edge_agent", folder / "agent.toml"),
    ):
        until("the agent has trained a cycle", lambda: _status(folder) is not None and _status(folder).cycles > 0)
        client = Client(predict_port, _question(bundle, source, options.examples))
        client.ask_for(1.0)
        idle: list[float] = []
        training: list[float] = []
        shares: list[float] = []
        ratios: list[float] = []
        for _ in range(options.rounds):
            coordinator.send_signal(signal.SIGSTOP)
            until("training pauses", lambda: _training_share(folder, 0.5) < 0.01)
            idle.extend(now := client.ask_for(options.phase_s))
            coordinator.send_signal(signal.SIGCONT)
            until("training goes on", lambda: _training_share(folder, 0.5) > 0.5)
            before_s, started_s = _status(folder).training_s, time.monotonic()
            training.extend(then := client.ask_for(options.phase_s))
            time.sleep(0.15)
            shares.append((_status(folder).training_s - before_s) / (time.monotonic() - started_s))
            ratios.append(_percentile(then, 99) / _percentile(now, 99))
    return {
        "bundle": bundle.manifest.name,
        "parameters": bundle.manifest.layout.size,
        "seconds_per_step": _status(folder).seconds_per_step,
        "nicer": options.nicer,
        "training_share": min(1.0, statistics.mean(shares)),
        **{f"idle_{name}": value for name, value in _figures(idle).items()},
        **{f"training_{name}": value for name, value in _figures(training).items()},
        "p50_ratio": _percentile(training, 50) / _percentile(idle, 50),
        "p99_ratio": _percentile(training, 99) / _percentile(idle, 99),
        "p99_ratio_of_each_round": ratios,
    }


def _question(bundle: Bundle, source: str, examples: int) -> bytes:
    rows = load(source, bundle.manifest, data_dir=data_dir_by_default())
    return msgspec.json.encode({"x": rows.x[:examples].astype(np.float64).tolist()})


def _status(folder: Path) -> Any:
    return status.read(folder / "agent") if (folder / "agent").exists() else None


def _training_share(folder: Path, seconds: float) -> float:
    before_s = _status(folder).training_s
    time.sleep(seconds)
    return float((_status(folder).training_s - before_s) / seconds)


def _figures(seconds: list[float]) -> dict[str, float]:
    return {
        "requests": len(seconds),
        "p50_ms": _percentile(seconds, 50),
        "p99_ms": _percentile(seconds, 99),
        "max_ms": max(seconds) * 1e3,
    }


def _percentile(seconds: list[float], percent: float) -> float:
    return float(np.percentile(seconds, percent) * 1e3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--task", default="activity", help="see skerry-task list; its data set is in SKERRY_DATA")
    parser.add_argument("--rounds", type=int, default=8, help="of waiting and training (default 8)")
    parser.add_argument("--phase-s", type=float, default=4.0, help="of asking in each (default 4)")
    parser.add_argument("--cycle-s", type=float, default=1.0, help="of training (default 1)")
    parser.add_argument("--examples", type=int, default=1, help="in one request (default 1)")
    parser.add_argument("--nicer", type=int, default=5, help="the agent's training.nicer (default 5)")
    options = parser.parse_args()
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(options, Path(folder))
    for name, value in figures.items():
        print(f"{name:28} {value}")
    if options.json:
        result.write(options.json, "predictions", figures)


if __name__ == "__main__":
    main()
