"""A stand-in for the simulation whose results are known: accuracy rises as 1 - exp(-rate t).

Run as a program it is a worker of a comparison. `FAKE_FAULTS` names arms with what happens to their runs.
"""

import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from skerry.algorithms.arrival import GainControlled
from skerry.errors import DataError
from testbed.comparison.run_spec import CurvePoint, Place, Progress, RunResult, RunSpec
from testbed.comparison.worker import work


def rate_of(spec: RunSpec) -> float:
    """Per second: rises with the server's rate and the seed, so that both can be told apart."""
    server_rate = spec.recipe.arrival.server_rate if isinstance(spec.recipe.arrival, GainControlled) else 1.0
    return server_rate * (1.0 + 0.1 * spec.seed) * (2.0 if spec.servers == "one" else 1.0)


def simulate(spec: RunSpec, place: Place, progress: Callable[[Progress], None]) -> RunResult:
    """Return what the formula gives."""
    fault = dict(one.split("=") for one in os.environ.get("FAKE_FAULTS", "").split() if one).get(spec.arm)
    if fault == "refused":
        raise DataError("the rows do not fit")
    if fault == "defect":
        raise ZeroDivisionError("planted")
    if fault == "dies":
        print("last words", file=sys.stderr, flush=True)
        os._exit(3)
    if fault == "hangs":
        (Path(place.scratch or "") / "left").write_text("what a killed run leaves")
        progress(Progress(at_s=0.5 * spec.duration_s, duration_s=spec.duration_s, value=0.5))
        time.sleep(600)
    rate = rate_of(spec)
    times = [0.5 * step for step in range(int(spec.duration_s / 0.5) + 1)]
    curve = tuple(
        CurvePoint(
            at_s=at_s,
            regional_accuracy=1.0 - math.exp(-rate * at_s),
            regional_loss=2.0 * math.exp(-rate * at_s),
            federated_accuracy=1.0 - math.exp(-1.5 * rate * at_s),
            federated_loss=2.0 * math.exp(-1.5 * rate * at_s),
            updates=int(10 * at_s),
            bytes_up=int(1000 * at_s),
            bytes_down=int(2000 * at_s),
            bytes_peers=int(500 * at_s),
        )
        for at_s in times
    )
    progress(Progress(at_s=spec.duration_s, duration_s=spec.duration_s, value=curve[-1].regional_accuracy))
    return RunResult(
        ended="duration over",
        elapsed_s=spec.duration_s,
        wall_s=3.0 if spec.servers == "one" else 1.0,
        training_wall_share=0.8,
        messages=1000,
        parameters=14_278,
        held_out_examples=1086,
        curve=curve,
        updates=curve[-1].updates,
        updates_rejected=0,
        staleness_mean=3.0,
        staleness_p99=12.0,
        bytes_up=curve[-1].bytes_up,
        bytes_down=curve[-1].bytes_down,
        bytes_peers=curve[-1].bytes_peers,
        idle_devices=0.25,
        idle_servers=0.5,
        per_class=(0.5, 0.75, None) if spec.per_class else None,
        digest=f"{spec.arm}-{spec.seed}",
    )


if __name__ == "__main__":
    work(sys.stdin.buffer, sys.stdout.buffer, simulate)
