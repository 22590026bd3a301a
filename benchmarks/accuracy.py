"""Does a model that is trained by a device's engine get as good as the same training in plain torch?

    python -m benchmarks.accuracy --data-dir /srv/datasets --json docs/results/accuracy.json
    python -m benchmarks.accuracy --quick
    python -m benchmarks.accuracy --only mnist-cnn --seeds 1 --no-federation

Per task and seed, two processes side by side, one thread each: a device's own path (benchmarks.training_run: LocalRun,
Batches, the recipe's optimizer, onnxruntime) and torch.optim.SGD on the task's own module. Same initial parameters,
same batches in the same order, same rate, momentum and weight decay, so that rounding alone tells them apart; rounding
does grow on the way, so accuracies differ a little, in either direction. The trainings are short: their accuracies are
no model's best. Memory is each process's own, training data included (data_mb).

Then, for the tasks of FEDERATED, the whole thing: a coordinator and agents as processes, the training data dealt to
them at random, and the accuracy of the region's model after a fixed time.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import builtin_task, child, federated_run, result
from benchmarks.task_table import markdown, text

STEPS = {"mnist-cnn": 3000, "cifar10-cnn": 1500}
QUICK_STEPS = 40
FEDERATED = {"mnist-cnn": 60.0}  # seconds of training
QUICK_FEDERATED_S = 8.0
SIDES = ("skerry", "torch")
TIMEOUT_S = 3600.0
POINTS_MAX = 1.0  # percentage points of accuracy that the means over the seeds may lie apart


def side_by_side(task: str, bundle: str, seed: int, steps: int, data_dir: Path | None) -> dict[str, dict[str, Any]]:
    """Train both ways at the same time; return the figures by side.

    Raises:
        ChildFailedError: a side failed, or took longer than TIMEOUT_S.
    """
    arguments = [task, "--bundle", bundle, "--seed", str(seed), "--steps", str(steps)]
    arguments += [] if data_dir is None else ["--data-dir", str(data_dir)]
    with tempfile.TemporaryDirectory() as folder:
        outputs = {side: Path(folder) / side for side in SIDES}
        running: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for side, output in outputs.items():
                module = "benchmarks.training_run"
                with output.open("wb") as file:
                    command = child.command(module, [side, *arguments])
                    running[side] = subprocess.Popen(command, stdout=file, stderr=file, env=child.environment())
            for process in running.values():
                process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise child.ChildFailedError(f"{task}: not done within {TIMEOUT_S:g} s") from error
        finally:
            for process in running.values():
                process.kill()
                process.wait()
        return {
            side: child.figures(f"{task}, {side}", process.returncode, outputs[side].read_text(), "")
            for side, process in running.items()
        }


def compared(runs: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return what the seeds of one task say together; differences are ours less torch's, in percentage points."""
    points = [100 * (run["skerry"]["accuracy"] - run["torch"]["accuracy"]) for run in runs]
    return {
        "accuracy": {side: mean(run[side]["accuracy"] for run in runs) for side in SIDES},
        "points": points,
        "points_mean": mean(points),
        "reaches": mean(points) >= -POINTS_MAX,
        "step_ratio": mean(run["skerry"]["step_cpu_ms"] / run["torch"]["step_cpu_ms"] for run in runs),
        "memory_ratio": mean(run["skerry"]["peak_mb"] / run["torch"]["peak_mb"] for run in runs),
    }


HEAD = (
    "task", "seed", "steps", "accuracy", "torch", "points", "ms", "torch ms", "ratio", "MB", "torch MB", "memory ratio"
)  # fmt: skip


def cells(task: str, runs: Sequence[Mapping[str, Mapping[str, Any]]]) -> Iterator[list[str]]:
    """Yield the table's line of each seed, then that of their means."""
    for run in runs:
        ours, theirs = (run[side] for side in SIDES)
        yield [
            task,
            str(ours["seed"]),
            f"{ours['steps']:,}",
            f"{ours['accuracy']:.2%}",
            f"{theirs['accuracy']:.2%}",
            f"{100 * (ours['accuracy'] - theirs['accuracy']):+.2f}",
            f"{ours['step_cpu_ms']:.2f}",
            f"{theirs['step_cpu_ms']:.2f}",
            f"{ours['step_cpu_ms'] / theirs['step_cpu_ms']:.2f}",
            f"{ours['peak_mb']:.0f}",
            f"{theirs['peak_mb']:.0f}",
            f"{ours['peak_mb'] / theirs['peak_mb']:.2f}",
        ]
    all_seeds = compared(runs)
    yield [
        task,
        "mean",
        "",
        *(f"{all_seeds['accuracy'][side]:.2%}" for side in SIDES),
        f"{all_seeds['points_mean']:+.2f}",
        "",
        "",
        f"{all_seeds['step_ratio']:.2f}",
        "",
        "",
        f"{all_seeds['memory_ratio']:.2f}",
    ]


def page(
    lines: Sequence[Sequence[str]],
    data_mb: Mapping[str, float],
    federated: Mapping[str, Mapping[str, Any]],
    command: str,
) -> str:
    """Return docs/results/accuracy.md; `data_mb` is what each task's training set takes in memory."""
    data = " and ".join(f"{size:.0f} MB for `{task}`" for task, size in data_mb.items())
    whole = [
        f"`{task}`, {run['devices']} agents and a coordinator for {run['seconds']:.0f} s of training, "
        f"{run['updates']:,} updates, {run['steps']:,} steps in all: {run['accuracy']:.2%}.\n"
        for task, run in federated.items()
    ]
    return "\n".join(
        (
            "# Accuracy on a device's engine, and in torch\n",
            f"`{command}`; every figure is in [accuracy.json](accuracy.json), the same program writes this page.\n",
            "Held-out accuracy after a short training (it is no model's best), both ways from the same parameters over "
            "the same batches. `points` is\nours less torch's. Times are processor time of one step, optimizer "
            "included, each on one thread, both running at the same time. Memory is the\npeak of each process, with "
            f"the whole training set in it: {data}.\n",
            markdown(lines),
            "",
            *(("## End to end\n", *whole) if whole else ()),
        )
    )


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    parser.add_argument("--only", default=",".join(STEPS), metavar="TASKS", help="with commas between (%(default)s)")
    parser.add_argument("--seeds", default="1,2,3", help="with commas between (%(default)s)")
    parser.add_argument("--no-federation", action="store_true", help="leave the agents and the coordinator out")
    parser.add_argument("--quick", action="store_true", help=f"a trial: {QUICK_STEPS} steps")
    parser.add_argument("--data-dir", type=Path, default=builtin_task.data_dir_by_default(), help="(SKERRY_DATA)")
    parser.add_argument("--folder", type=Path, default=builtin_task.FOLDER, help="of bundles and figures (%(default)s)")
    options = parser.parse_args()
    tasks, seeds = options.only.split(","), [int(seed) for seed in options.seeds.split(",")]
    figures: dict[str, Any] = {}
    federated: dict[str, Any] = {}
    lines: list[Sequence[str]] = [HEAD]
    for task in tasks:
        bundle = builtin_task.bundle_of(task, options.data_dir, options.folder)
        steps = QUICK_STEPS if options.quick else STEPS[task]
        runs = [_kept_or_run(task, bundle, seed, steps, options) for seed in seeds]
        figures[task] = {"seeds": runs, **compared(runs)}
        lines += cells(task, runs)
        if task in FEDERATED and not options.no_federation:
            seconds = QUICK_FEDERATED_S if options.quick else FEDERATED[task]
            _say(f"{task}: agents and a coordinator, {seconds:g} s")
            federated[task] = federated_run.measure(task, bundle, options.data_dir, seconds)
    print(text(lines))
    for task, run in federated.items():
        print(f"{task}, end to end: {json.dumps({name: run[name] for name in run if name != 'points'})}")
    if options.json:
        versions = {"torch": version("torch")}
        result.write(options.json, "accuracy", {**versions, "tasks": figures, "federated": federated})
    if options.markdown:
        data_mb = {task: found["seeds"][0]["skerry"]["data_mb"] for task, found in figures.items()}
        options.markdown.parent.mkdir(parents=True, exist_ok=True)
        options.markdown.write_text(page(lines, data_mb, federated, result.command("accuracy")))


def _kept_or_run(task: str, bundle: str, seed: int, steps: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return what an earlier run kept of this seed, or train now and keep it."""
    file = options.folder / f"accuracy-{task}-{steps}-{seed}-{builtin_task.fingerprint(bundle)}.json"
    if file.exists():
        kept: dict[str, Any] = json.loads(file.read_text())
        return kept
    _say(f"{task}: seed {seed}, {steps} steps both ways")
    found = side_by_side(task, bundle, seed, steps, options.data_dir)
    options.folder.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".new")
    beside.write_text(json.dumps(found))
    beside.replace(file)
    return found


if __name__ == "__main__":
    main()
