"""How many messages the lab in virtual time carries per second of wall time, and what a connected device costs.

    python -m benchmarks.simulation [--json FILE] [--pairs N]

The same WebSocket echo, aiohttp's client and server in one process on one core, runs in turns over the simulated
network (1,000 clients, each with bandwidth, latency, jitter and losses of its own) and over loopback (100 clients).
What the kernel spends on loopback counts, what simulated clients wait does not. Then 10,000 clients connect and rest.
"""

import argparse
import os
import statistics
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import child, result
from benchmarks.simulation_traffic import Traffic

SEED = 1
TIMEOUT_S = 600.0
MESSAGES = 100_000  # of each turn
LOOPBACK_CLIENTS = 100  # more only cost the kernel more


def measure(plan: Traffic) -> dict[str, Any]:
    return child.run("benchmarks.simulation_traffic", [msgspec.json.encode(plan).decode()], TIMEOUT_S)


def main() -> None:
    """Measure, print, and write what `--json` names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--clients", type=int, default=1000, help="of the simulated network, that talk")
    parser.add_argument("--idle", type=int, default=10_000, help="clients that are connected and rest")
    options = parser.parse_args()
    figures = {"messages": messages(options.pairs, options.clients), "idle": idle(options.idle)}
    if options.json:
        result.write(options.json, "simulation", figures, seed=SEED)


def messages(pairs: int, clients: int) -> dict[str, Any]:
    """Return messages per second over both networks, by wall and by CPU time."""
    plans = {
        "simulated": Traffic("simulated", clients, MESSAGES // 2 // clients, SEED),
        "loopback": Traffic("loopback", LOOPBACK_CLIENTS, MESSAGES // 2 // LOOPBACK_CLIENTS, SEED),
    }
    load_average = os.getloadavg()[0]
    found: list[dict[str, dict[str, Any]]] = []
    print(f"{'pair':>4} {'simulated/s':>12} {'loopback/s':>11} {'ratio':>6} {'by CPU':>7}")
    for number in range(pairs):
        order = list(plans.items())
        pair = {name: measure(plan) for name, plan in (order if number % 2 == 0 else order[::-1])}
        found.append(pair)
        each, cpu_each = rates(pair, "took_s"), rates(pair, "cpu_s")
        print(
            f"{number:>4} {each['simulated']:>12,.0f} {each['loopback']:>11,.0f} "
            f"{each['simulated'] / each['loopback']:>6.2f} {cpu_each['simulated'] / cpu_each['loopback']:>7.2f}",
            flush=True,
        )
    digests = {pair["simulated"]["digest"] for pair in found}
    assert len(digests) == 1, "the same seed gave other traffic"

    def median(time: str, of: str) -> float:
        return statistics.median(rates(pair, time)[of] for pair in found)

    def ratio(time: str) -> float:
        return statistics.median(each["simulated"] / each["loopback"] for each in (rates(pair, time) for pair in found))

    return {
        "simulated_per_s": round(median("took_s", "simulated")),
        "loopback_per_s": round(median("took_s", "loopback")),
        "simulated_per_cpu_s": round(median("cpu_s", "simulated")),
        "loopback_per_cpu_s": round(median("cpu_s", "loopback")),
        "ratio": round(ratio("took_s"), 3),
        "cpu_ratio": round(ratio("cpu_s"), 3),
        "virtual_s_per_wall_s": round(found[0]["simulated"]["virtual_s"] / found[0]["simulated"]["took_s"]),
        "clients": clients,
        "digest": digests.pop(),
        "load_average_before": load_average,
    }


def rates(pair: dict[str, dict[str, Any]], time: str) -> dict[str, float]:
    return {name: turn["messages"] / turn[time] for name, turn in pair.items()}


def idle(clients: int) -> dict[str, Any]:
    """Return what it costs that so many clients are connected, server included."""
    turn = measure(Traffic("simulated", clients, 0, SEED))
    found = {
        "clients": clients,
        "kb_per_client": round(turn["kb_per_client"], 1),
        "resident_mb": round(turn["resident_mb"]),
        "peak_mb": round(turn["peak_mb"]),
        "connecting_s": round(turn["connecting_s"], 1),
    }
    print(
        f"{clients:,} idle clients: {found['kb_per_client']} kB each, {found['resident_mb']} MB in all, "
        f"connected in {found['connecting_s']} s"
    )
    return found


if __name__ == "__main__":
    main()
