"""Devices that lie, with each defence and without: what a region reaches, and who is kept apart.

    python -m benchmarks.guards --bundle lab-results/bundles/mnist-cnn.skerry --json docs/results/guards.json

Runs worlds and arms of the scenario `guards` one after the other, in virtual time; the same seed, the same figures.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import result
from benchmarks.builtin_task import data_dir_by_default
from skerry.tasks.bundle import resolve
from testbed import scenario as scenarios
from testbed.comparison import scenario_file
from testbed.comparison.plan import Plan, RunKey
from testbed.comparison.run_spec import Place, RunResult
from testbed.simulation.comparison import simulate

LAST = 5  # evaluations at the end of a run, whose mean is told: with such labels one alone says little


def measure(plan: Plan, place: Place, worlds: Sequence[str], arms: Sequence[str], seed: int) -> list[dict[str, Any]]:
    rows = []
    for world in worlds:
        for arm in arms:
            found = simulate(plan.spec(RunKey(world, arm, "", seed)), place, lambda _: None)
            rows.append({"world": world, "arm": arm, **figures(found)})
            print(line(rows[-1]), flush=True)
    return rows


def figures(found: RunResult) -> dict[str, Any]:
    known = [point.regional_accuracy for point in found.curve[-LAST:] if point.regional_accuracy is not None]
    apart = set(found.quarantined)
    return {
        "accuracy": sum(known) / len(known) if known else None,
        "liars": len(found.malicious),
        "liars_quarantined": len(apart & set(found.malicious)),
        "honest_quarantined": len(apart - set(found.malicious)),
        "updates": found.updates,
        "updates_rejected": found.updates_rejected,
        "megabytes_up": found.bytes_up / 1e6,
        "digest": found.digest[:16],
    }


def line(row: dict[str, Any]) -> str:
    accuracy = "none" if row["accuracy"] is None else f"{row['accuracy']:.1%}"
    return (
        f"| {row['world']} | {row['arm']} | {accuracy} | {row['liars_quarantined']} of {row['liars']} | "
        f"{row['honest_quarantined']} | {row['updates']} | {row['updates_rejected']} | {row['megabytes_up']:.1f} |"
    )


HEAD = """\
| world | defence | accuracy at the end | liars apart | honest ones apart | updates | refused | MB up |
|---|---|---|---|---|---|---|---|"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="builtin:mnist-cnn", help="of mnist-cnn (default: made with torch)")
    parser.add_argument("--data-dir", default=data_dir_by_default(), help="of data sets (SKERRY_DATA)")
    parser.add_argument("--world", action="append", help="only this one; may be given again")
    parser.add_argument("--arm", action="append", help="only this one; may be given again")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tables, origin, folder = scenarios.tables_of("guards")
    comparison = scenario_file.comparison(tables, origin, smoke=False)
    bundle = resolve(options.bundle)
    plan = Plan.of(comparison, folder, {"builtin:mnist-cnn": bundle.sha256})
    place = Place(bundle=str(bundle.path), data_dir=None if options.data_dir is None else str(options.data_dir))
    worlds = [one.name for one in comparison.worlds if not options.world or one.name in options.world]
    arms = [one.name for one in comparison.arms if not options.arm or one.name in options.arm]
    print(HEAD)
    rows = measure(plan, place, worlds, arms, options.seed)
    if options.json is not None:
        result.write(options.json, "guards", {"rows": rows}, seed=options.seed)


if __name__ == "__main__":
    main()
