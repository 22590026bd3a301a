"""Arrays from an npz file of any origin: never unpickled, and no larger than its headers said before it was read."""

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from skerry.errors import DataError
from skerry.tasks.manifest import Manifest
from skerry.tasks.table import Table, check_features_form, check_split_form, check_targets_form

FormCheck = Callable[[tuple[int, ...], np.dtype[Any]], None]


def read_table(path: Path, manifest: Manifest) -> Table:
    """Read arrays `x`, `y` and, if it is there, `split` (0 training, 1 held out).

    Raises:
        DataError: not readable, no npz, an array is missing, or its form does not fit the manifest.
    """
    origin = str(path)
    arrays = read_arrays(
        path,
        required={
            "x": lambda shape, dtype: check_features_form(origin, shape, dtype, manifest),
            "y": lambda shape, dtype: check_targets_form(origin, shape, dtype, manifest),
        },
        optional={"split": lambda shape, dtype: check_split_form(origin, shape, dtype)},
    )
    return Table(origin, arrays["x"], arrays["y"], arrays.get("split"))


def read_arrays(
    path: Path,
    required: dict[str, FormCheck],
    optional: dict[str, FormCheck] | None = None,
    content: BinaryIO | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Read the named arrays; each check sees shape and dtype before the array is read, and may raise.

    With `content` that is read, and `path` only names it in errors.

    Raises:
        DataError: not readable, no npz, or a required array is missing.
    """
    checks = required | (optional or {})
    if content is None and not path.is_file():
        raise DataError(f"{path.absolute()}: no such file: give the path of an npz file; see docs/data.md")
    try:
        with zipfile.ZipFile(path if content is None else content) as archive:
            members = set(archive.namelist())
            missing = [name for name in required if f"{name}.npy" not in members]
            if missing:
                raise DataError(
                    f"{path}: holds no array {', '.join(missing)}: "
                    "write it with numpy.savez(path, x=features, y=classes)"
                )
            return {
                name: _read_array(archive, name, path, check)
                for name, check in checks.items()
                if f"{name}.npy" in members
            }
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path}: is no intact npz file: {error}") from error


def _read_array(archive: zipfile.ZipFile, name: str, path: Path, check: FormCheck) -> npt.NDArray[Any]:
    try:
        with archive.open(f"{name}.npy") as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):  # others have headers of up to 4 GB, for records of many fields
                raise DataError(f"{path}: array {name} is of format {version}, must be (1, 0): store plain numbers")
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.hasobject:
            raise DataError(f"{path}: array {name} holds Python objects, which are never loaded: store plain numbers")
        check(shape, dtype)
        with archive.open(f"{name}.npy") as file:
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
    except ValueError as error:
        raise DataError(f"{path}: array {name} is not intact: {error}") from error
