"""What a result was made with: versions of packages and system, and the source of what decides over a simulated run."""

import hashlib
import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path

import coordinator
import edge_agent
import skerry
import testbed

PACKAGES = ("skerry", "aiohttp", "msgpack", "msgspec", "numpy", "onnxruntime")
SIMULATED = (coordinator, edge_agent, skerry)  # what a simulation runs, beside its own folder
SIMULATION = "simulation"  # folder of testbed


def installed() -> dict[str, str]:
    """Return the versions of Python, the system and the packages that matter; without those that are not installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # the lab runs from a checkout that is not installed
    return {"python": platform.python_version(), "system": platform.platform(), **versions}


def source_digest() -> str:
    """Return the SHA-256 of the services' and the simulation's source: results of another one are not the same."""
    folders = [Path(package.__path__[0]) for package in SIMULATED] + [Path(testbed.__path__[0]) / SIMULATION]
    return digest_of(folders)


def digest_of(folders: Sequence[Path]) -> str:
    """Return the SHA-256 of the names and contents of all Python and SQL files in `folders`."""
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted(path for path in folder.rglob("*") if path.suffix in {".py", ".sql"}):
            content = file.read_bytes()
            digest.update(f"{folder.name}/{file.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()
