"""Examples as a source gave them, and the check against a manifest that every source passes."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from skerry.errors import DataError
from skerry.tasks.manifest import IGNORED, Input, Manifest

TABLE_BYTES_MAX = 4 << 30  # of features, as they are stored; and of labels
TABLE_ROWS_MAX = 1 << 28


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """What a source gave, nothing checked yet."""

    origin: str  # file or function, for errors
    x: npt.NDArray[Any]
    y: npt.NDArray[Any]
    held_out: npt.NDArray[Any] | None = None  # true where a row is kept from training; None: the source does not say
    row: Callable[[int], str] = "row {} (counted from 0)".format  # how a person finds a row
    label_column: str | None = None  # of a file that has named columns

    def checked(self, manifest: Manifest) -> "Table":
        """Return the same rows: x as float32 or in the integers that it came in, y as the task takes it, bool held_out.

        Raises:
            DataError: a shape, a dtype, a value that is not finite or out of range; names column and row.
        """
        x = self.features(manifest)
        y = self._checked_targets(manifest)
        if len(x) != len(y):
            raise DataError(f"{self.origin}: {len(x)} rows in x, {len(y)} in y: give one label per example")
        return Table(self.origin, x, y, self._checked_split(len(y)), self.row, self.label_column)

    def features(self, manifest: Manifest) -> npt.NDArray[Any]:
        """Return x as float32 or in the integers that it came in, checked, not prepared yet.

        Raises:
            DataError: a shape, a dtype, a value that is not finite or out of range; names column and row.
        """
        check_features_form(self.origin, self.x.shape, self.x.dtype, manifest)
        below = manifest.input.values_below
        if below is not None:
            self._refuse(
                (self.x < 0) | (self.x >= below), self.x, lambda place: f"column {place}", f"an integer in [0, {below})"
            )
            return np.ascontiguousarray(self.x)
        if self.x.dtype.kind in "bui":
            return np.ascontiguousarray(self.x)
        with np.errstate(over="ignore"):  # what overflows float32 is refused below, as infinite
            x = np.ascontiguousarray(self.x, np.float32)
        missing_allowed = manifest.input.missing_as is not None
        names = manifest.input.names
        self._refuse(
            np.isinf(x) if missing_allowed else ~np.isfinite(x),
            x,
            lambda place: f"column {repr(names[int(place.split(', ')[0])]) if names else place}",
            "a finite float32, or NaN where it is missing" if missing_allowed else "a finite float32",
        )
        return x

    def _checked_targets(self, manifest: Manifest) -> npt.NDArray[Any]:
        check_targets_form(self.origin, self.y.shape, self.y.dtype, manifest)
        label = manifest.label
        if label.classes is not None:
            wanted = f"task {manifest.name!r} has 0 to {label.classes - 1}"
            outside = ((self.y < 0) | (self.y >= label.classes)) & (self.y != IGNORED)
            self._refuse(outside, self.y, _target_place, wanted, "class ")
            return np.ascontiguousarray(self.y, np.int64)
        with np.errstate(over="ignore"):
            y = np.ascontiguousarray(self.y, np.float32)
        if label.loss == "bce_with_logits":
            self._refuse(~((y >= 0.0) & (y <= 1.0)), y, _target_place, "must be in [0, 1]")
        self._refuse(~np.isfinite(y), y, _target_place, "must be a finite float32")
        return y

    def _refuse(
        self,
        wrong: npt.NDArray[np.bool_],
        values: npt.NDArray[Any],
        place: Callable[[str], str],
        wanted: str,
        noun: str = "",
    ) -> None:
        """Raise a DataError for the first entry that is `wrong`; `place` words its index within the row."""
        if not wrong.any():
            return
        row, *index = (int(number) for number in np.argwhere(wrong)[0])
        where = place(", ".join(map(str, index)))
        must = wanted if noun or wanted.startswith("must") else f"must be {wanted}"
        raise DataError(f"{self.origin}: {self.row(row)}, {where}: {noun}{values[row, *index]}, {must}")

    def _checked_split(self, rows: int) -> npt.NDArray[np.bool_] | None:
        if self.held_out is None:
            return None
        held_out = self.held_out
        if held_out.shape != (rows,) or held_out.dtype.kind not in "bui" or not np.isin(held_out, (0, 1)).all():
            raise DataError(f"{self.origin}: split must have one value per row: 0 for training, 1 for held out")
        return held_out.astype(np.bool_)


def _target_place(index: str) -> str:
    return f"label {index}" if index else "label"


def check_features_form(origin: str, shape: tuple[int, ...], dtype: np.dtype[Any], manifest: Manifest) -> None:
    """Check shape, dtype and size of an array that may not have been read yet.

    Raises:
        DataError: naming what is there and what the task takes.
    """
    kinds, wanted = ("bui", "an integer type") if manifest.input.dtype == "int64" else ("fbui", "a real number type")
    if dtype.kind not in kinds:
        raise DataError(f"{origin}: x has dtype {dtype}, must be {wanted} such as {manifest.input.dtype}")
    check_features_shape(origin, shape, manifest.input, f"task {manifest.name!r}")
    value_bytes = 4 if dtype.kind == "f" else dtype.itemsize
    if shape[0] > TABLE_ROWS_MAX or shape[0] * manifest.input.values * value_bytes > TABLE_BYTES_MAX:
        raise DataError(
            f"{origin}: {shape[0]} rows are more than {TABLE_BYTES_MAX >> 20} MiB: keep fewer on this device"
        )


def check_features_shape(origin: str, shape: tuple[int, ...], features: Input, task: str = "the task") -> None:
    """Check the shape of x.

    Raises:
        DataError: naming the shape that it has and the one that `task` takes, and how to get there where that is sure.
    """
    if shape and shape[1:] == features.shape:
        return
    expected = ", ".join(("examples", *map(str, features.shape)))
    if shape == features.shape:
        hint = "one example by itself goes into a list of one"
    elif len(shape) > 1 and sorted(shape[1:]) == sorted(features.shape):
        order = (0, *_axes_in_order(shape[1:], features.shape))
        hint = f"transpose it, with numpy x.transpose{order}; a reshape would scramble the values"
    elif shape and _is_regrouped(shape[1:], features.shape):
        hint = f"reshape it to {(shape[0], *features.shape)}"
    else:
        hint = f"its examples have {_values(shape[1:])}, the task's {_values(features.shape)}"
    raise DataError(f"{origin}: x has shape {shape}, {task} takes ({expected}): {hint}")


def _axes_in_order(shape: tuple[int, ...], wanted: tuple[int, ...]) -> list[int]:
    """Return which axis of an array, examples first, becomes each of `wanted`; equal lengths keep their order."""
    left = list(enumerate(shape, start=1))
    order = []
    for length in wanted:
        axis = next(entry for entry in left if entry[1] == length)
        left.remove(axis)
        order.append(axis[0])
    return order


def _is_regrouped(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether the axes of one shape are neighbours of the other merged, so that a reshape keeps every place."""
    one, other = ({prod(axes[:end]) for end in range(1, len(axes) + 1)} | {1} for axes in (shape, wanted))
    return prod(shape) == prod(wanted) and (one <= other or other <= one)


def _values(shape: tuple[int, ...]) -> str:
    return f"{' x '.join(map(str, shape))} values" if prod(shape) > 1 else "1 value"


def check_targets_form(origin: str, shape: tuple[int, ...], dtype: np.dtype[Any], manifest: Manifest) -> None:
    """Check shape, dtype and size of targets that may not have been read yet.

    Raises:
        DataError: naming what is there and what is wanted.
    """
    label = manifest.label
    if label.classes is not None and dtype.kind not in "bui":
        raise DataError(f"{origin}: y has dtype {dtype}, must be integers: class numbers from 0")
    if dtype.kind not in "fbui":
        raise DataError(f"{origin}: y has dtype {dtype}, must be a real number type such as float32")
    if not shape or shape[1:] != label.shape:
        expected = ", ".join(("examples", *map(str, label.shape))) + ("" if label.shape else ",")
        raise DataError(f"{origin}: y has shape {shape}, must be ({expected})")
    value_bytes = np.dtype(label.dtype).itemsize  # as which they are kept
    if shape[0] > TABLE_ROWS_MAX or shape[0] * prod(label.shape) * value_bytes > TABLE_BYTES_MAX:
        raise DataError(
            f"{origin}: labels of {shape[0]} rows are more than {TABLE_BYTES_MAX >> 20} MiB: keep fewer on this device"
        )


def check_split_form(origin: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Check shape and dtype of a split that may not have been read yet.

    Raises:
        DataError: naming what is there and what is wanted.
    """
    if dtype.kind not in "bui" or len(shape) != 1 or shape[0] > TABLE_ROWS_MAX:
        raise DataError(f"{origin}: split is {dtype} of shape {shape}, must be one integer per row: 0 or 1")
