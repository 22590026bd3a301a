"""The WISDM data: 5,418 windows of ten seconds by 36 people, and which of them are held out.

Source: Kwapisz, Weiss and Moore, "Activity Recognition using Cell Phone Accelerometers", SensorKDD 2010.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skerry.errors import DataError
from skerry.tasks import npz_file
from skerry.tasks.table import Table

FILE = Path(__file__).parent / "wisdm_transformed.npz"
PEOPLE = 36
CLASSES = ("Walking", "Jogging", "Upstairs", "Downstairs", "Sitting", "Standing")
HELD_OUT_SHARE = 0.2  # of each person's rows
SPLIT_SEED = b"skerry/activity/1"


def table(part: int = 0, parts: int = 1) -> Table:
    """Return the rows of the people of one part: person number k (from 0) belongs to part k modulo `parts`.

    Raises:
        DataError: `parts` is not in [1, 36], or `part` is not below it.
    """
    if not 1 <= parts <= PEOPLE or part >= parts:
        raise DataError(f"builtin:activity?part={part}&parts={parts}: parts must be 1 to {PEOPLE}, part 0 to parts - 1")
    arrays = _arrays("x", "y", "user")
    person = arrays["user"].astype(np.int64) - 1
    chosen = person % parts == part
    origin = f"builtin:activity?part={part}&parts={parts}"
    return Table(origin, arrays["x"][chosen], arrays["y"][chosen], held_out_rows(person)[chosen])


def feature_names() -> list[str]:
    """Return the names of the 43 features, as the data's authors gave them."""
    names: list[str] = _arrays("feature_names")["feature_names"].tolist()
    return names


def held_out_rows(person: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which rows are held out: for each person the nearest number to 20 %, drawn by a keyed hash of the row.

    A hash and not a random generator: the same rows with every version of numpy, on every machine.
    """
    held_out = np.zeros(len(person), np.bool_)
    for number in sorted(set(person.tolist())):  # np.unique would load numpy.ma, a megabyte on a device
        rows = np.flatnonzero(person == number).tolist()
        drawn = sorted(rows, key=lambda row: hashlib.blake2b(str(row).encode(), key=SPLIT_SEED).digest())
        held_out[drawn[: round(HELD_OUT_SHARE * len(rows))]] = True
    return held_out


def _arrays(*names: str) -> dict[str, npt.NDArray[Any]]:
    """Read arrays of the data file, which is our own: its form needs no check."""
    return npz_file.read_arrays(FILE, dict.fromkeys(names, lambda _shape, _dtype: None))
