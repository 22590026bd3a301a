"""Where a device's examples come from. A source is a line of text; what it gives is checked against the manifest.

    npz:FILE                         arrays x and y, and split if the file says which rows are held out
    csv:FILE                         a header row; the column named label, or else the last or only one left, the class
    python:MODULE:FUNCTION           returns (x, y) or (x, y, split); the module is importable on the device
    builtin:activity?part=0&parts=6  a task shipped with the product, its people dealt to parts
    builtin:mnist?part=0&parts=100   a data set that the user has: mnist, cifar10, wikitext2, shakespeare

Every source takes `?split=train|test|all`; csv also takes `?label=COLUMN`.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import numpy as np
import numpy.typing as npt

from skerry.errors import DataError
from skerry.tasks import csv_file, npz_file
from skerry.tasks.activity import people
from skerry.tasks.manifest import Input, Manifest
from skerry.tasks.options import whole_number
from skerry.tasks.table import Table

if TYPE_CHECKING:
    from skerry.tasks.builtin.source import OpenDataSet

SPLITS = ("train", "test", "all")
REMEDY = "see docs/data.md"


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Checked examples. `rows` gives them as the graphs take them; integers, such as an image's, are kept as stored."""

    x: npt.NDArray[Any]  # (examples, *input shape)
    y: npt.NDArray[Any]  # (examples, *label shape), int64 or float32
    input: Input | None = None  # prepares rows when they are taken; None: x is prepared
    label_column: str | None = None  # which y came from, of a file that has named columns

    def __len__(self) -> int:
        return len(self.y)

    def rows(self, chosen: slice | npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return x and y of some rows, prepared for the graphs."""
        x = self.x[chosen]
        return x if self.input is None else self.input.prepare(x), self.y[chosen]


@dataclass(frozen=True, slots=True)
class _Request:
    """One reading of one source; loaders take from `options` what they know."""

    rest: str  # of the source, behind its kind
    options: dict[str, str]
    manifest: Manifest
    split: str
    data_dir: Path | None
    open_data_set: "OpenDataSet | None"


def load(
    source: str,
    manifest: Manifest,
    *,
    held_out: bool = False,
    data_dir: Path | None = None,
    open_data_set: "OpenDataSet | None" = None,
) -> Dataset:
    """Read `source` and check it against `manifest`; `held_out` asks for the rows that are kept from training.

    A source that does not say which rows are held out gives all of them, to training as to evaluation. `data_dir` is
    where the data sets of the built-in tasks are, for a source that does not say `dir=`. `open_data_set` opens them; a
    lab with many devices in one process keeps what was read.

    Raises:
        DataError: naming file, column and row where there is one, and the remedy.
    """
    default = "test" if held_out else "train"
    table, split = _read(source, manifest, default, data_dir, open_data_set)
    return _dataset(source, table, split or default, manifest)


def load_parts(source: str, manifest: Manifest, *, data_dir: Path | None = None) -> tuple[Dataset, Dataset | None]:
    """Read `source` once; return the rows to train on and those that are held out.

    The latter are None where the source does not say which rows they are, or says `split=` for all purposes: an
    evaluation on training rows would mislead.

    Raises:
        DataError: as for `load`.
    """
    table, split = _read(source, manifest, "all", data_dir)
    rows = _dataset(source, table, split or "train", manifest)
    if split is not None or table.held_out is None or not table.held_out.any():
        return rows, None
    return rows, _dataset(source, table, "test", manifest)


def _read(
    source: str,
    manifest: Manifest,
    default: str,
    data_dir: Path | None,
    open_data_set: "OpenDataSet | None" = None,
) -> tuple[Table, str | None]:
    """Return the checked rows of the split that the source asks for, else of `default`; and what it asks for."""
    kind, rest, options = _located(source)
    split = options.pop("split", None)
    if split is not None and split not in SPLITS:
        raise DataError(f"data source {source!r}: split={split} is none of {', '.join(SPLITS)}")
    table = _LOADERS[kind](_Request(rest, options, manifest, split or default, data_dir, open_data_set))
    if options:
        raise DataError(f"data source {source!r}: unknown option {', '.join(sorted(options))}; {REMEDY}")
    return table.checked(manifest), split


def _dataset(source: str, table: Table, split: str, manifest: Manifest) -> Dataset:
    x, y = _select(table, split)
    if not len(y):
        raise DataError(f"data source {source!r}: no rows with split={split}")
    if x.dtype == np.float32:
        return Dataset(manifest.input.prepare(x), y, label_column=table.label_column)
    return Dataset(x, y, manifest.input, table.label_column)


def check_source(source: str, data_dir: Path | None = None) -> None:
    """See what can be seen of a source before its task is known: its form, and that its file or folder is there.

    Raises:
        DataError: naming the source, and the remedy.
    """
    kind, rest, options = _located(source)
    if kind == "builtin" and rest != "activity":
        from skerry.tasks.builtin import source as data_set_source  # half a megabyte that others do not need

        options.pop("split", None)
        data_set_source.check(rest, options, data_dir)
    if kind in {"npz", "csv"} and not Path(rest).is_file():
        raise DataError(
            f"{Path(rest).absolute()}: no such file: correct the data source {source!r}, or put the file there"
        )


def _located(source: str) -> tuple[str, str, dict[str, str]]:
    location, options = _parse(source)
    kind, _, rest = location.partition(":")
    if kind not in _LOADERS or not rest:
        kinds = "npz:FILE, csv:FILE, python:MODULE:FUNCTION or builtin:TASK"
        raise DataError(f"data source {source!r}: must be {kinds}; {REMEDY}")
    return kind, rest, options


def _parse(source: str) -> tuple[str, dict[str, str]]:
    location, question, query = source.partition("?")
    if not question:
        return location, {}
    try:
        pairs = parse_qsl(query, strict_parsing=True, max_num_fields=16)
    except ValueError as error:
        raise DataError(f"data source {source!r}: options must read ?key=value&key=value; {REMEDY}") from error
    return location, dict(pairs)


def _select(table: Table, split: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    if table.held_out is None or split == "all":
        return table.x, table.y
    chosen = table.held_out if split == "test" else ~table.held_out
    return table.x[chosen], table.y[chosen]


def _load_npz(request: _Request) -> Table:
    return npz_file.read_table(Path(request.rest), request.manifest)


def _load_csv(request: _Request) -> Table:
    return csv_file.read_table(Path(request.rest), request.manifest, request.options.pop("label", None))


def _load_python(request: _Request) -> Table:
    """Call a function of this device's own code; whoever writes the configuration runs the agent anyway."""
    module_name, _, function_name = request.rest.partition(":")
    origin = f"python:{request.rest}"
    try:
        given = getattr(importlib.import_module(module_name), function_name)()
    except ImportError as error:
        raise DataError(f"{origin}: {error}: install the module where the agent's Python finds it") from error
    except Exception as error:  # foreign code: whatever it raises is its own word on what is wrong
        raise DataError(f"{origin}: {type(error).__name__}: {error}") from error
    if not isinstance(given, tuple) or len(given) not in {2, 3}:
        raise DataError(f"{origin}: returned {type(given).__name__}, must return (x, y) or (x, y, split)")
    try:
        x, y, *split = (np.asarray(array) for array in given)
    except ValueError as error:
        raise DataError(f"{origin}: what it returned are no arrays: {error}") from error
    return Table(origin, x, y, split[0] if split else None)


def _load_builtin(request: _Request) -> Table:
    options = request.options
    if request.rest != "activity":
        from skerry.tasks.builtin import source as data_set_source

        opened = request.open_data_set or data_set_source.open_data_set
        where = request.split, request.data_dir
        return data_set_source.read_table(request.rest, options, request.manifest, *where, opened)
    return people.table(whole_number(options, "part", 0), whole_number(options, "parts", 1))


_LOADERS: dict[str, Callable[[_Request], Table]] = {
    "npz": _load_npz,
    "csv": _load_csv,
    "python": _load_python,
    "builtin": _load_builtin,
}
