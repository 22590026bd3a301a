"""How many devices a coordinator can let join per second, and what a flood of bad joins does to those that have joined.

`python -m benchmarks.joins [--json FILE] [--joins N] [--pairs N] [--seconds S]`

The coordinator and the devices that have joined run on one core, those that join on another. First, devices join: each
with a handshake, a key, a signed certificate and a record on disk; the limits on connections are lifted for that. Then,
with the limits as they are by default, devices that have joined stream updates at a steady rate, in turns with and
without a flood of joins with a wrong secret, as fast as one core can make them. Without it, that core is kept as busy
with something else, so that what the flood takes from the machine is not counted as taken from the coordinator.
"""

import argparse
import asyncio
import os
import secrets
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
import psutil

from benchmarks import result
from benchmarks.ingest_payloads import task_bundle
from benchmarks.joins_load import Load, Loaded
from coordinator.enrolment import founding
from coordinator.enrolment.operator import Operator
from coordinator.enrolment.store import EnrolmentStore
from skerry import joining
from skerry.identity import tls
from skerry.identity.certificate import fingerprint, pem_of
from skerry.identity.join_token import JoinToken, secret_sha256
from skerry.identity.key_file import IdentityFolder

START_S = 60.0
SIZE, VALUES = 100_000, 1000
DEVICES, UPDATES_PER_S = 8, 10.0  # that have joined; of each
NO_LIMITS = """
[limits]
connections_per_s_max = 1e6
connections_per_address_per_s_max = 1e6
"""
CONFIG = """
name = "joins"
region = "joins"
bundle = "{folder}/joins.skerry"
state_dir = "{folder}/state"

[listen]
port = 0

[recipe.federation]
rule = "none"
{more}
"""


class Coordinator:
    """A coordinator with a federation of its own, as a process on one core."""

    def __init__(self, folder: Path, process: psutil.Process, identity: IdentityFolder) -> None:
        self.folder, self.process, self.identity = folder, process, identity
        self.url = f"https://127.0.0.1:{int((folder / 'state' / 'port').read_text())}"
        self.root = identity.certificates("root.pem")[0]
        self.root_pem = pem_of(self.root).decode()

    def token(self, uses: int) -> JoinToken:
        """Make a join token, as an operator does."""
        token = JoinToken(fingerprint(self.root), secrets.token_bytes(8), secrets.token_bytes(16))
        wanted = {
            "identifier": token.identifier.hex(),
            "secret_sha256": secret_sha256(token.secret).hex(),
            "ttl_s": 3600,
            "uses": uses,
        }
        context = tls.client_context(founding.admin_folder(self.identity.path))
        asyncio.run(Operator(self.url, context).post("/v1/admin/join-tokens", wanted))
        return token

    def cpu_s(self) -> float:
        """Return the processor time that it has used."""
        return sum(self.process.cpu_times()[:2])


@contextmanager
def coordinator(core: int, more: str = "") -> Iterator[Coordinator]:
    """Make a federation and run its coordinator until the block ends."""
    with tempfile.TemporaryDirectory(prefix="skerry-joins-") as name:
        folder = Path(name)
        (folder / "joins.skerry").write_bytes(task_bundle(SIZE, 1))
        (folder / "coordinator.toml").write_text(CONFIG.format(folder=folder, more=more))
        identity = IdentityFolder(folder / "state" / "identity")
        founding.found(
            identity,
            federation=secrets.token_hex(8),
            coordinator="joins",
            addresses=["127.0.0.1", "localhost"],
            now_s=time.time(),
        )
        command = [sys.executable, "-m", "coordinator.cli", "run", "--config", str(folder / "coordinator.toml")]
        process = subprocess.Popen(["taskset", "--cpu-list", str(core), *command])
        try:
            deadline = time.monotonic() + START_S
            while not (folder / "state" / "port").exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("the coordinator did not start")
                time.sleep(0.02)
            yield Coordinator(folder, psutil.Process(process.pid), identity)
        finally:
            process.terminate()
            code = process.wait(30)
        if code != 0:
            raise SystemExit(f"the coordinator ended with {code}")


def begin(load: Load, core: int) -> subprocess.Popen[bytes]:
    """Start a load on a core."""
    process = subprocess.Popen(
        ["taskset", "--cpu-list", str(core), sys.executable, "-m", "benchmarks.joins_load"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(load))
    process.stdin.close()
    process.stdin = None
    return process


def end(process: subprocess.Popen[bytes]) -> Loaded:
    """Wait for a load to end; return what it did."""
    output, _ = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"the load ended with {process.returncode}")
    return msgspec.json.decode(output, type=Loaded)


def measure_joins(count: int, cores: tuple[int, int]) -> dict[str, Any]:
    """Let `count` devices join; see that each is on disk."""
    with coordinator(cores[0], NO_LIMITS) as served:
        load = Load("join", served.url, served.root_pem, served.token(count).text(), count=count)
        before = served.cpu_s()
        done = end(begin(load, cores[1]))
        cpu_s = served.cpu_s() - before
        state_dir = served.folder / "state"
        store = EnrolmentStore(state_dir)
        enrolled = sum(one.role == "agent" for one in store.parties())
        store.close()
        assert enrolled == done.done == count, f"{enrolled} of {count} are on disk"
    return {
        "joins": count,
        "joins_per_s": count / done.wall_s,
        "cpu_ms_per_join": 1e3 * cpu_s / count,
        "joins_per_cpu_s": count / cpu_s,
        "latency_p50_ms": 1e3 * quantile(done.latencies_s, 0.5),
        "latency_p99_ms": 1e3 * quantile(done.latencies_s, 0.99),
    }


def measure_bad_joins(seconds: float, cores: tuple[int, int]) -> dict[str, float]:
    """Return what one bad join costs the coordinator, where no limit turns it away: hardly depends on other load."""
    with coordinator(cores[0], NO_LIMITS) as served:
        load = Load("flood", served.url, served.root_pem, served.token(1).text(), seconds=seconds)
        before = served.cpu_s()
        done = end(begin(load, cores[1]))
        cpu_s = served.cpu_s() - before
    return {"answered": done.done, "answered_per_s": done.done / done.wall_s, "cpu_ms_each": 1e3 * cpu_s / done.done}


def measure_flood(pairs: int, seconds: float, cores: tuple[int, int]) -> dict[str, Any]:
    """Let devices stream, in turns with and without a flood."""
    turns: dict[str, list[dict[str, float]]] = {"calm": [], "flood": []}
    for number in range(pairs):
        for kind in ("calm", "flood") if number % 2 == 0 else ("flood", "calm"):
            with coordinator(cores[0]) as served:
                token = served.token(DEVICES)
                folders = [served.folder / f"device-{one}" for one in range(DEVICES)]
                for one in folders:
                    joining_of = joining.join(
                        served.url, token, IdentityFolder(one), role="agent", name=one.name, wall_clock=time.time
                    )
                    asyncio.run(joining_of)
                stream = Load(
                    "stream",
                    served.url,
                    served.root_pem,
                    token.text(),
                    folders=[str(one) for one in folders],
                    seconds=seconds,
                    updates_per_s=UPDATES_PER_S,
                    size=SIZE,
                    values=VALUES,
                )
                before = served.cpu_s()
                streaming = begin(stream, cores[0])
                load = Load(
                    "flood" if kind == "flood" else "spin",
                    served.url,
                    served.root_pem,
                    token.text(),
                    seconds=seconds + 3.0,
                    concurrency=64,
                )
                asking = begin(load, cores[1])
                done = end(streaming)
                cpu_s = served.cpu_s() - before
                bad = end(asking) if kind == "flood" else Loaded(0, 0, 1.0, end(asking).latencies_s)
            assert done.done == DEVICES * int(seconds * UPDATES_PER_S)
            turns[kind].append(
                {
                    "p50_ms": 1e3 * quantile(done.latencies_s, 0.5),
                    "p99_ms": 1e3 * quantile(done.latencies_s, 0.99),
                    "attempts_per_s": (bad.done + bad.cut) / bad.wall_s,
                    "answered_per_s": bad.done / bad.wall_s,
                    "coordinator_cpu_share": cpu_s / done.wall_s,
                }
            )
            print(f"{kind:<6} {turns[kind][-1]}", flush=True)
    ratios = [flood["p99_ms"] / calm["p99_ms"] for calm, flood in zip(turns["calm"], turns["flood"], strict=True)]
    return {**turns, "p99_ratios": ratios, "p99_ratio": statistics.median(ratios)}


def quantile(values: list[float], share: float) -> float:
    """Return the value below which `share` of them lie."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.joins", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--joins", type=int, default=2000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each turn of the flood")
    arguments = parser.parse_args()
    first, *others = sorted(os.sched_getaffinity(0))
    cores = (first, others[0] if others else first)
    load_before = os.getloadavg()[0]
    joins = measure_joins(arguments.joins, cores)
    print({name: round(value, 2) for name, value in joins.items()}, flush=True)
    bad = measure_bad_joins(arguments.seconds, cores)
    print({name: round(value, 2) for name, value in bad.items()}, flush=True)
    flood = measure_flood(arguments.pairs, arguments.seconds, cores)
    print(f"p99 under the flood, as a multiple of the calm one: {flood['p99_ratio']:.2f}")
    if arguments.json:
        figures = {"joins": joins, "bad_joins": bad, "flood": flood, "cores": cores, "load_average_before": load_before}
        result.write(arguments.json, "joins", figures)


if __name__ == "__main__":
    main()
