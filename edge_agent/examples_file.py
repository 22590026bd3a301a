"""Examples without labels, from a file of a person who wants to know what the model says of them."""

import csv
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from skerry.errors import DataError
from skerry.tasks.csv_file import LABEL_COLUMN, MISSING, SPLIT_COLUMN, check_commas
from skerry.tasks.manifest import Input
from skerry.tasks.npz_file import read_arrays
from skerry.tasks.table import check_features_shape

ZIP_MAGIC = b"PK\x03\x04"  # how an npz file begins
FILE_BYTES_MAX = 256 << 20

Format = Literal["csv", "npz", "json"]


def format_of(path: Path) -> Format:
    """Return the format that the file's name says.

    Raises:
        DataError: it says none of them.
    """
    match path.suffix.lower():
        case ".csv":
            return "csv"
        case ".npz":
            return "npz"
        case ".json":
            return "json"
    raise DataError(f"{path}: ends in none of .csv, .npz, .json: say what it is with --format")


def read(path: Path, kind: Format, features: Input, content: bytes | None = None) -> npt.NDArray[Any]:
    """Return x as the file gives it, of the task's shape; missing values are NaN.

    csv: a header row; features by the task's names where it has them, else all columns but `label` and `split`.
    npz: the array x. json: the examples, or a map with them as x. Where `content` is given, `path` only names it.

    Raises:
        DataError: naming the file, and row and column where there is one.
    """

    def check_shape(shape: tuple[int, ...], _dtype: object = None) -> None:
        check_features_shape(str(path), shape, features)

    if kind == "npz":
        x = read_arrays(path, {"x": check_shape}, content=None if content is None else BytesIO(content))["x"]
    else:
        data = _content(path) if content is None else content
        x = _from_json(data, path, features) if kind == "json" else _from_csv(data, path, features)
    if not x.size:
        raise DataError(f"{path}: holds no examples")
    check_shape(x.shape)
    return x


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise DataError(f"{path}: larger than {FILE_BYTES_MAX >> 20} MiB: use npz, or fewer examples at once")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path.absolute()}: cannot be read: {error.strerror}") from error


def _from_json(data: bytes, path: Path, features: Input) -> npt.NDArray[Any]:
    if data.startswith(ZIP_MAGIC):
        raise DataError(f"{path}: is no JSON, and may be npz: say so with --format npz")
    try:
        content = msgspec.json.decode(data)
        return np.array(content["x"] if isinstance(content, dict) else content, _dtype(features))
    except KeyError:
        raise DataError(f"{path}: the map has no x") from None
    except (msgspec.DecodeError, OverflowError, RecursionError, TypeError, ValueError) as error:
        if "inhomogeneous shape" in str(error):  # numpy's words for that
            raise DataError(
                f"{path}: its lists are of unequal lengths; each example must have shape {features.shape}"
            ) from error
        raise DataError(f"{path}: holds no examples: {error}") from error


def _from_csv(data: bytes, path: Path, features: Input) -> npt.NDArray[Any]:
    try:
        reader = csv.reader(data.decode("utf-8-sig").splitlines(), strict=True)
        header = [name.strip() for name in next(reader, [])]
        check_commas(header, str(path))
        columns = _columns(header, path, features)
        rows = []
        for cells in reader:
            if cells and len(cells) != len(header):
                raise DataError(f"{path}: line {reader.line_num}: {len(cells)} cells, the header has {len(header)}")
            if cells:
                rows.append(
                    [_number(cells[column], header[column], f"{path}: line {reader.line_num}") for column in columns]
                )
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}") from error
    return np.array(rows, _dtype(features)).reshape(len(rows), *features.shape)


def _columns(header: list[str], path: Path, features: Input) -> list[int]:
    absent = [name for name in features.names if name not in header]
    if absent:
        raise DataError(f"{path}: no column {', '.join(map(repr, absent[:8]))}: the task finds its features by name")
    if features.names:
        return [header.index(name) for name in features.names]
    columns = [column for column, name in enumerate(header) if name not in {LABEL_COLUMN, SPLIT_COLUMN}]
    if len(columns) != features.values:
        shape = f", of shape {features.shape}, the last index running fastest" if len(features.shape) > 1 else ""
        raise DataError(f"{path}: {len(columns)} feature columns, the task takes {features.values}{shape}")
    return columns


def _number(cell: str, column: str, where: str) -> float:
    text = cell.strip()
    try:
        return float("nan") if text.lower() in MISSING else float(text)
    except ValueError:
        raise DataError(f"{where}, column {column!r}: {text[:40]!r} is no number") from None


def _dtype(features: Input) -> Any:
    return np.int64 if features.dtype == "int64" else np.float64
