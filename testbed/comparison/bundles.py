"""The bundles of a comparison's tasks: those that are not shipped are built once, where torch is, and kept."""

import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from skerry.errors import DataError
from skerry.tasks.builtin.catalogue import SHIPPED
from skerry.tasks.bundle import BUILTIN_PREFIX, Bundle, resolve
from testbed.comparison.run_spec import Place

FOLDER = "bundles"
ERROR_LINES = 5


def places(
    specs: Iterable[str], scenario_folder: Path, results: Path, data_dir: Path | None, tell: Callable[[str], None]
) -> tuple[dict[str, Place], dict[str, str]]:
    """Return for each bundle where its runs find their files, and its SHA-256; build what is not there.

    Args:
        specs: bundles as a scenario names them: `builtin:TASK`, or a path.
        scenario_folder: that paths are relative to.
        results: of all comparisons; bundles that are built are kept in a folder there.
        data_dir: where data sets are.
        tell: is told what takes long.

    Raises:
        DataError: a bundle does not exist, is damaged, or cannot be built here.
    """
    found: dict[str, Place] = {}
    digests: dict[str, str] = {}
    for spec in dict.fromkeys(specs):
        path = _path(spec, scenario_folder, results, data_dir, tell)
        found[spec] = Place(bundle=path, data_dir=None if data_dir is None else str(data_dir))
        digests[spec] = resolve(path).sha256
    return found, digests


def _path(spec: str, scenario_folder: Path, results: Path, data_dir: Path | None, tell: Callable[[str], None]) -> str:
    name = spec.removeprefix(BUILTIN_PREFIX)
    if name == spec:
        return str(scenario_folder / spec)
    if name in SHIPPED:
        return spec
    path = results / FOLDER / f"{name.replace('?', '-').replace('&', '-')}.skerry"
    if not path.is_file():
        _build(spec, path, data_dir, tell)
    Bundle.open(path)  # a damaged one is named now, not by every run
    return str(path.resolve())


def _build(spec: str, path: Path, data_dir: Path | None, tell: Callable[[str], None]) -> None:
    """Build a bundle as `skerry-task build` does: in a process of its own, as torch is large and needed only here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.new")
    tell(f"building {spec} once, which takes about a minute: {path}")
    command = [sys.executable, "-m", "skerry.cli", "build", spec, "--output", str(beside)]
    command += [] if data_dir is None else ["--data-dir", str(data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own program
    if done.returncode:
        told = "\n".join(done.stderr.strip().splitlines()[-ERROR_LINES:])
        raise DataError(f"{spec}: its bundle is not shipped, and building it failed: {told}")
    beside.replace(path)
