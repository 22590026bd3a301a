"""Examples as a source gave them, and the check against a manifest that every source passes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from skerry.errors import DataError
from skerry.tasks.manifest import Manifest
from skerry.vector import Float32

TABLE_BYTES_MAX = 4 << 30  # of features, as float32
TABLE_ROWS_MAX = 1 << 28


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """What a source gave, nothing checked yet."""

    origin: str  # file or function, for errors
    x: npt.NDArray[Any]
    y: npt.NDArray[Any]
    held_out: npt.NDArray[Any] | None = None  # true where a row is kept from training; None: the source does not say
    row: Callable[[int], str] = "row {} (counted from 0)".format  # how a person finds a row

    def checked(self, manifest: Manifest) -> "Table":
        """Return the same rows as float32 x, int64 y and bool held_out.

        Raises:
            DataError: a shape, a dtype, a value that is not finite, a label out of range; names column and row.
        """
        x = self._checked_features(manifest)
        y = self._checked_labels(manifest)
        if len(x) != len(y):
            raise DataError(f"{self.origin}: {len(x)} rows in x, {len(y)} in y: give one label per example")
        return Table(self.origin, x, y, self._checked_split(len(y)), self.row)

    def _checked_features(self, manifest: Manifest) -> Float32:
        check_features_form(self.origin, self.x.shape, self.x.dtype, manifest)
        with np.errstate(over="ignore"):  # what overflows float32 is refused below, as infinite
            x = np.ascontiguousarray(self.x, np.float32)
        missing_allowed = manifest.input.missing_as is not None
        usable = ~np.isinf(x) if missing_allowed else np.isfinite(x)
        if not usable.all():
            row, *place = (int(index) for index in np.argwhere(~usable)[0])
            names = manifest.input.names
            column = repr(names[place[0]]) if names else ", ".join(map(str, place))
            wanted = "a finite float32, or NaN where it is missing" if missing_allowed else "a finite float32"
            raise DataError(f"{self.origin}: {self.row(row)}, column {column}: {x[row, *place]}, must be {wanted}")
        return x

    def _checked_labels(self, manifest: Manifest) -> npt.NDArray[np.int64]:
        check_labels_form(self.origin, self.y.shape, self.y.dtype)
        classes = manifest.label.classes
        outside = np.flatnonzero((self.y < 0) | (self.y >= classes))
        if len(outside):
            row = int(outside[0])
            raise DataError(
                f"{self.origin}: {self.row(row)}, label: class {self.y[row]}, "
                f"task {manifest.name!r} has 0 to {classes - 1}"
            )
        return np.ascontiguousarray(self.y, np.int64)

    def _checked_split(self, rows: int) -> npt.NDArray[np.bool_] | None:
        if self.held_out is None:
            return None
        held_out = self.held_out
        if held_out.shape != (rows,) or held_out.dtype.kind not in "bui" or not np.isin(held_out, (0, 1)).all():
            raise DataError(f"{self.origin}: split must have one value per row: 0 for training, 1 for held out")
        return held_out.astype(np.bool_)


def check_features_form(origin: str, shape: tuple[int, ...], dtype: np.dtype[Any], manifest: Manifest) -> None:
    """Check shape, dtype and size of an array that may not have been read yet.

    Raises:
        DataError: naming what is there and what the task takes.
    """
    if dtype.kind not in "fbui":
        raise DataError(f"{origin}: x has dtype {dtype}, must be a real number type such as float32")
    if shape[1:] != manifest.input.shape or not shape:
        expected = ", ".join(("examples", *map(str, manifest.input.shape)))
        raise DataError(f"{origin}: x has shape {shape}, task {manifest.name!r} takes ({expected})")
    if shape[0] > TABLE_ROWS_MAX or shape[0] * manifest.input.values * 4 > TABLE_BYTES_MAX:
        raise DataError(
            f"{origin}: {shape[0]} rows are more than {TABLE_BYTES_MAX >> 20} MiB: keep fewer on this device"
        )


def check_labels_form(origin: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Check shape and dtype of labels that may not have been read yet.

    Raises:
        DataError: naming what is there and what is wanted.
    """
    if dtype.kind not in "bui":
        raise DataError(f"{origin}: y has dtype {dtype}, must be integers: class numbers from 0")
    if len(shape) != 1 or shape[0] > TABLE_ROWS_MAX:
        raise DataError(f"{origin}: y has shape {shape}, must be (examples,)")
