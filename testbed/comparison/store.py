"""Results on disk: one file for each run, written whole or not at all, and recognised by what it was made from."""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from skerry.errors import StorageError
from testbed.comparison.plan import Plan, RunKey
from testbed.comparison.run_spec import RunResult, RunSpec

FOLDER = "runs"
FORMAT_VERSION = 1  # of these files; rises when a field changes its meaning
FILE_BYTES_MAX = 256 << 20


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """One file."""

    fingerprint: str
    spec: RunSpec
    result: RunResult


def fingerprint(spec: RunSpec, versions: Mapping[str, str]) -> str:
    """Return the SHA-256 of everything that decides over a run's result."""
    made_from = {"format": FORMAT_VERSION, "spec": spec, "versions": dict(versions)}
    return hashlib.sha256(msgspec.json.encode(made_from, order="sorted")).hexdigest()


def path_of(folder: Path, key: RunKey) -> Path:
    """Return where the result of a run is kept."""
    point = f"{re.sub(r'[^A-Za-z0-9._=,-]', '_', key.point)}-" if key.point else ""
    return folder / FOLDER / key.world / key.arm / f"{point}seed-{key.seed}.json"


def write(path: Path, stored: Stored) -> None:
    """Write a result; after a power cut it is there whole, or not at all.

    Raises:
        StorageError: the disk refused it.
    """
    beside = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(msgspec.json.encode(stored))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


def read(path: Path, wanted: str) -> RunResult | None:
    """Return the result in `path` if it was made from what the fingerprint `wanted` says; None: it has to be run.

    A file that is damaged, of another format or made from something else is as good as none.

    Raises:
        StorageError: the disk refused to read a file that is there.
    """
    stored = _stored(path)
    return stored.result if stored is not None and stored.fingerprint == wanted else None


def read_any(path: Path) -> RunResult | None:
    """Return the result in `path`, whatever it was made from; None and errors as for `read`."""
    stored = _stored(path)
    return None if stored is None else stored.result


def _stored(path: Path) -> Stored | None:
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            return None
        return msgspec.json.decode(path.read_bytes(), type=Stored)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error


def finished(folder: Path, plan: Plan, versions: Mapping[str, str]) -> dict[RunKey, RunResult]:
    """Return every result in `folder` that `plan` needs and that is still good, those that others lead to included.

    Raises:
        StorageError: as for `read`.
    """
    results: dict[RunKey, RunResult] = {}
    looked: set[RunKey] = set()
    while new := [key for key in plan.due(results) if key not in looked]:
        looked.update(new)
        results |= _good(folder, plan, versions, new)
    return results


def _good(folder: Path, plan: Plan, versions: Mapping[str, str], keys: Iterable[RunKey]) -> dict[RunKey, RunResult]:
    found = ((key, read(path_of(folder, key), fingerprint(plan.spec(key), versions))) for key in keys)
    return {key: result for key, result in found if result is not None}
