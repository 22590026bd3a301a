"""Examples from a csv file: a header row, one example per row, numbers and a class or a value to predict."""

import csv
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Protocol, TextIO

import numpy as np

from skerry.errors import DataError
from skerry.tasks.manifest import Manifest
from skerry.tasks.table import TABLE_BYTES_MAX, Table

CSV_BYTES_MAX = 1 << 30
LINE_CHARACTERS_MAX = 16 << 20
LABEL_COLUMN = "label"
SPLIT_COLUMN = "split"
_CHOOSE = "name its column with csv:FILE?label=COLUMN"
MISSING = {"", "?", "na", "nan", "null"}


class Lines(Protocol):
    """What `csv.reader` returns; the module does not name its type."""

    @property
    def line_num(self) -> int:
        """The line of the file that was read last, from 1."""

    def __iter__(self) -> Iterator[list[str]]: ...

    def __next__(self) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class _Columns:
    """Which column of the file holds what."""

    header: list[str]
    features: list[int]
    label: int
    split: int | None


def read_table(path: Path, manifest: Manifest, label: str | None) -> Table:
    """Read the file; the class stands in column `label`, or else in the one named "label".

    Without either it is the only column that is no feature, where the manifest names those, or else the last. Features
    are found by the manifest's names, or else they are all the other columns in order. A column `split` with train or
    test says which rows are held out. Empty cells, ? and NaN are missing values.

    Raises:
        DataError: naming the file, the column and the row (as the line of the file).
    """
    features, label_shape = manifest.input, manifest.label.shape
    if len(features.shape) != 1 or features.dtype != "float32" or prod(label_shape) != 1:
        raise DataError(
            f"{path}: csv holds rows of measured values with one label each, task {manifest.name!r} takes "
            f"{features.dtype} of shape {features.shape} and labels of shape {label_shape}: use npz"
        )
    if not path.is_file():
        raise DataError(f"{path.absolute()}: no such file: give the path of a csv file; see docs/data.md")
    try:
        if path.stat().st_size > CSV_BYTES_MAX:
            raise DataError(f"{path}: larger than {CSV_BYTES_MAX >> 20} MiB: use npz, which is smaller and faster")
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _Parser(path, manifest, label).parse(csv.reader(_lines(file, path), strict=True))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}") from error


class _Parser:
    """One pass over one file."""

    def __init__(self, path: Path, manifest: Manifest, label: str | None) -> None:
        self._path = path
        self._manifest = manifest
        self._label = label
        self._classes = {name: number for number, name in enumerate(manifest.label.names)}

    def parse(self, reader: Lines) -> Table:
        label = self._manifest.label
        x, y, held_out, lines = array("f"), array("d"), array("b"), array("q")
        values_max = TABLE_BYTES_MAX // 4
        try:
            columns = self._columns(next(reader, []))
            for cells in self._rows(reader, len(columns.header)):
                line = reader.line_num
                for column in columns.features:
                    x.append(self._number(cells[column], columns.header[column], line))
                y.append(self._target(cells[columns.label], columns.header[columns.label], line))
                if columns.split is not None:
                    held_out.append(self._is_held_out(cells[columns.split], line))
                lines.append(line)
                if len(x) > values_max:
                    raise DataError(f"{self._path}: more than {TABLE_BYTES_MAX >> 20} MiB of features: keep fewer rows")
        except csv.Error as error:
            raise DataError(f"{self._path}: line {reader.line_num}: {error}") from error
        if not len(y):
            raise DataError(f"{self._path}: no row behind the header")
        return Table(
            str(self._path),
            np.frombuffer(x, np.float32).reshape(len(y), -1),
            np.array(y, np.float64 if label.classes is None else np.int64).reshape(len(y), *label.shape),
            np.frombuffer(held_out, np.int8) if columns.split is not None else None,
            lambda row: f"line {lines[row]}",
            columns.header[columns.label],
        )

    def _columns(self, header: list[str]) -> _Columns:
        check_commas(header, str(self._path))
        header = [name.strip() for name in header]
        if len(set(header)) != len(header) or len(header) < 2:
            raise DataError(f"{self._path}: line 1: must be a header of at least two different column names")
        if self._label is not None and self._label not in header:
            raise DataError(f"{self._path}: no column {self._label!r} for the class; there is: {_listed(header)}")
        split = header.index(SPLIT_COLUMN) if SPLIT_COLUMN in header else None
        others = [column for column in range(len(header)) if column != split]
        wanted = self._manifest.input.names
        absent = [name for name in wanted if name not in header]
        if absent:
            raise DataError(
                f"{self._path}: no column {_listed(absent)}: "
                f"task {self._manifest.name!r} finds its features by name; `skerry-task show BUNDLE` lists them"
            )
        name = self._label_name(header, [header[column] for column in others if header[column] not in wanted])
        label = header.index(name)
        features = [header.index(name) for name in wanted] or [column for column in others if column != label]
        if len(features) != self._manifest.input.shape[0]:
            raise DataError(
                f"{self._path}: {len(features)} feature columns beside {name!r}, "
                f"task {self._manifest.name!r} takes {self._manifest.input.shape[0]}"
            )
        return _Columns(header, features, label, split)

    def _label_name(self, header: list[str], left: list[str]) -> str:
        """Return the name of the column that holds the label; `left` are those that are neither split nor a feature."""
        names = self._manifest.input.names
        name = self._label or (LABEL_COLUMN if LABEL_COLUMN in header else None)
        if name is not None:
            if name in names or name == SPLIT_COLUMN:
                what = "a feature of the task" if name in names else "what says which rows are held out"
                raise DataError(f"{self._path}: column {name!r} is {what}, so it cannot be the label: {_CHOOSE}")
            return name
        if names and len(left) != 1:
            which = f"{_listed(left)} may each be the label" if left else "every column is a feature, none the label"
            raise DataError(f"{self._path}: {which}: {_CHOOSE}")
        return left[-1]

    def _rows(self, reader: Lines, width: int) -> Iterator[list[str]]:
        for cells in reader:
            if not cells:
                continue  # an empty line
            if len(cells) != width:
                raise DataError(f"{self._path}: line {reader.line_num}: {len(cells)} cells, the header has {width}")
            yield cells

    def _number(self, cell: str, column: str, line: int) -> float:
        text = cell.strip()
        if text.lower() in MISSING:
            if self._manifest.input.missing_as is None:
                raise DataError(
                    f"{self._path}: line {line}, column {column!r}: {cell!r} is a missing value, "
                    f"which task {self._manifest.name!r} does not take: fill it in or leave the row out"
                )
            return float("nan")
        try:
            return float(text)
        except ValueError:
            raise DataError(f"{self._path}: line {line}, column {column!r}: {cell[:40]!r} is no number") from None

    def _target(self, cell: str, column: str, line: int) -> float:
        classes = self._manifest.label.classes
        if classes is None:
            return self._number(cell, column, line)
        text = cell.strip()
        if text in self._classes:
            return self._classes[text]
        try:
            number = int(text)
        except ValueError:
            names = f" or one of {_listed(list(self._classes))}" if self._classes else ""
            raise DataError(
                f"{self._path}: line {line}, column {column!r}: {cell[:40]!r} is no class: give its number{names}"
            ) from None
        if not 0 <= number < classes:
            raise DataError(
                f"{self._path}: line {line}, column {column!r}: class {text[:40]}, "
                f"task {self._manifest.name!r} has 0 to {classes - 1}"
            )
        return number

    def _is_held_out(self, cell: str, line: int) -> bool:
        match cell.strip().lower():
            case "train" | "0":
                return False
            case "test" | "1":
                return True
        raise DataError(f"{self._path}: line {line}, column {SPLIT_COLUMN!r}: {cell[:40]!r} is neither train nor test")


def _lines(file: TextIO, path: Path) -> Iterator[str]:
    """Yield the lines with their ends; one without an end could take as much memory as the file."""
    while line := file.readline(LINE_CHARACTERS_MAX + 1):
        if len(line) > LINE_CHARACTERS_MAX:
            raise DataError(f"{path}: a line of more than {LINE_CHARACTERS_MAX} characters: is this a csv file?")
        yield line


def check_commas(header: list[str], origin: str) -> None:
    """Check that the first row is not one cell that holds another separator.

    Raises:
        DataError: naming it.
    """
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and separator in header[0]:
            raise DataError(f"{origin}: line 1: its columns stand between {name}, must stand between commas")


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown
