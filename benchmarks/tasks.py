"""Every built-in task: export, a step against torch, and the memory of a whole agent with either engine.

    python -m benchmarks.tasks --data-dir /srv/datasets --json docs/results/tasks.json --markdown docs/results/tasks.md
    python -m benchmarks.tasks --only mnist-cnn,activity --quick
    python -m benchmarks.tasks --only shakespeare-gru --again steps

Each measurement is a process of its own (benchmarks.export_times, step_times, agent_memory), and its figures are kept
in FOLDER/TASK.json as soon as it ends: a run that was cut short goes on where it stopped. A measurement that failed is
told at the end and made again in the next run; so is one of another bundle, or with other settings (--quick).
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import builtin_task, child, result, task_table
from skerry.tasks.builtin.catalogue import SHIPPED, task_of

SECTIONS = ("export", "steps", "onnx", "torch")
TIMEOUT_S = 900.0
STEPS = {"full": ("--seconds", "24"), "quick": ("--seconds", "3")}
MEMORY = {"full": ("--updates", "12", "--seconds", "15"), "quick": ("--updates", "3", "--seconds", "2")}


class Kept:
    """What is known of one task, in its file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.sections: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}

    def keep(self, section: str, key: str, figures: Mapping[str, Any]) -> None:
        """Take figures and write the file in one piece."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self.sections[section] = {**figures, "key": key, "at": at, "load_average": os.getloadavg()[0]}
        beside = self._file.with_suffix(".json.new")
        beside.write_text(json.dumps(self.sections, indent=2) + "\n")
        beside.replace(self._file)


def is_current(sections: Mapping[str, Mapping[str, Any]], section: str, key: str) -> bool:
    """Whether the section was measured, without failing, of this bundle and with these settings."""
    found = sections.get(section, {})
    return found.get("key") == key and "error" not in found


def merged(folder: Path, tasks: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what is kept of each task, in the order of `tasks`; one of which nothing is known is left out."""
    found = {task: Kept(folder / f"{task}.json").sections for task in tasks}
    return {task: {name: row[name] for name in SECTIONS if name in row} for task, row in found.items() if row}


def measure(task: str, options: argparse.Namespace) -> None:
    """Measure what is not kept yet of one task."""
    kept = Kept(options.folder / f"{task}.json")
    bundle = (options.folder / f"{task}.skerry").absolute()
    again = set(options.again.split(",")) if options.again else set()
    if "export" in again or not (
        bundle.exists() and is_current(kept.sections, "export", builtin_task.fingerprint(str(bundle)))
    ):
        _say(task, "export")
        try:
            figures: dict[str, Any] = builtin_task.export(task, bundle, options.data_dir)
        except child.ChildFailedError as error:
            kept.keep("export", "", {"error": str(error)})
            return
        kept.keep("export", builtin_task.fingerprint(str(bundle)), figures)
    used = f"builtin:{task}" if task in SHIPPED else str(bundle)  # what devices really train
    speed = "quick" if options.quick else "full"
    plans = {
        "steps": ("benchmarks.step_times", STEPS[speed]),
        "onnx": ("benchmarks.agent_memory", ("--engine", "onnx", *MEMORY[speed])),
        "torch": ("benchmarks.agent_memory", ("--engine", "torch", *MEMORY[speed])),
    }
    for section, (module, settings) in plans.items():
        key = f"{builtin_task.fingerprint(used)} {module} {' '.join(settings)}"
        if is_current(kept.sections, section, key) and section not in again:
            continue
        _say(task, section)
        arguments = [task, "--bundle", used, *settings]
        if options.data_dir is not None:
            arguments += ["--data-dir", str(options.data_dir)]
        try:
            kept.keep(section, key, child.run(module, arguments, TIMEOUT_S))
        except child.ChildFailedError as error:
            kept.keep(section, key, {"error": str(error)})


def _say(task: str, section: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {task}: {section}", file=sys.stderr, flush=True)


def _tasks(only: str) -> list[str]:
    chosen = only.split(",") if only else list(builtin_task.names())
    return [task_of(name).name for name in chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    parser.add_argument("--only", default="", metavar="TASKS", help="with commas between (default: all)")
    parser.add_argument("--again", default="", metavar="SECTIONS", help=f"measure anew: of {', '.join(SECTIONS)}")
    parser.add_argument("--quick", action="store_true", help="a trial: seconds instead of a minute for each task")
    parser.add_argument("--data-dir", type=Path, default=builtin_task.data_dir_by_default(), help="(SKERRY_DATA)")
    parser.add_argument("--folder", type=Path, default=builtin_task.FOLDER, help="of bundles and figures (%(default)s)")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for task in _tasks(options.only):
        measure(task, options)
    rows = merged(options.folder, builtin_task.names())
    print(task_table.text(task_table.cells(rows)))
    for line in task_table.errors(rows):
        print(line)
    if options.json:
        result.write(options.json, "tasks", {"torch": version("torch"), "tasks": rows})
    if options.markdown:
        versions = {package: version(package) for package in ("onnxruntime", "torch")}
        options.markdown.parent.mkdir(parents=True, exist_ok=True)
        options.markdown.write_text(task_table.page(rows, result.command("tasks"), result.machine(), versions))


if __name__ == "__main__":
    main()
