"""The built-in tasks as benchmarks use them: bundles that are built once and kept, and small parts of their data."""

import os
import sys
from pathlib import Path

from benchmarks import child
from edge_agent.config import DATA_VARIABLE
from skerry.tasks.builtin.catalogue import SHIPPED, TASKS, task_of
from skerry.tasks.bundle import resolve

FOLDER = Path("lab-results/benchmarks")  # git ignores it; `make clean` removes it
DEAL = "part=0&parts=100&partition=iid"
EXPORT_TIMEOUT_S = 1800.0


def data_dir_by_default() -> Path | None:
    """Return what SKERRY_DATA says."""
    said = os.environ.get(DATA_VARIABLE)
    return Path(said) if said else None


def device_source(name: str) -> str:
    """Return the data source of one device of many: a random part of the task's data set, or some of its people."""
    data_set = task_of(name).data_set
    return "builtin:activity?part=0&parts=6" if data_set == "activity" else f"builtin:{data_set}?{DEAL}"


def export(name: str, bundle: Path, data_dir: Path | None) -> dict[str, float]:
    """Build the bundle in a process of its own, write it to `bundle`, return what `benchmarks.export_times` measured.

    Raises:
        ChildFailedError: it does not build.
    """
    bundle.parent.mkdir(parents=True, exist_ok=True)
    arguments = [name, "--output", str(bundle), *_data_dir_option(data_dir)]
    found = child.run("benchmarks.export_times", arguments, EXPORT_TIMEOUT_S)
    return {key: float(value) for key, value in found.items()}


def bundle_of(name: str, data_dir: Path | None, folder: Path = FOLDER) -> str:
    """Return the bundle of a task as configurations name it: shipped, kept in `folder`, or built now.

    Raises:
        ChildFailedError: it does not build.
        DataError: there is no such task.
    """
    task_of(name)
    if name in SHIPPED:
        return f"builtin:{name}"
    path = (folder / f"{name}.skerry").absolute()
    if not path.exists():
        print(f"{name}: building its bundle", file=sys.stderr, flush=True)
        export(name, path, data_dir)
    return str(path)


def fingerprint(bundle: str) -> str:
    """Return what names the bundle for good, in short."""
    return resolve(bundle).sha256[:16]


def names() -> tuple[str, ...]:
    """Return every built-in task, in the order of the catalogue."""
    return tuple(TASKS)


def _data_dir_option(data_dir: Path | None) -> list[str]:
    return [] if data_dir is None else ["--data-dir", str(data_dir)]
