"""The data of the built-in task: which rows, whose, and which are held out, the same everywhere and for ever."""

import hashlib

import numpy as np
import pytest

from skerry.tasks.activity import people
from skerry.tasks.bundle import Bundle
from skerry.tasks.data import load
from skerry.tasks.manifest import Manifest


@pytest.fixture(scope="module")
def activity() -> Manifest:
    return Bundle.builtin("activity").manifest


def test_the_data_are_those_that_were_published() -> None:
    table = people.table()
    assert table.x.shape == (5418, 43)
    assert int(np.isnan(table.x).sum()) == 615
    assert np.bincount(table.y).tolist() == [2081, 1625, 632, 528, 306, 246]
    assert len(people.feature_names()) == 43
    assert "Kwapisz" in (people.FILE.parent / "readme.txt").read_text()


def test_the_held_out_rows_are_the_same_everywhere() -> None:
    """Accuracies of different machines are comparable only if this never changes."""
    held_out = people.table().held_out
    assert held_out is not None
    assert int(held_out.sum()) == 1086
    assert (
        hashlib.sha256(np.packbits(held_out).tobytes()).hexdigest()
        == "8dc0f3ee1ed09a5ded8ce4befb24c323c35331257a76706d48aed75a48057ab7"
    )


def test_a_fifth_of_each_persons_rows_is_held_out() -> None:
    person = np.repeat([3, 8, 9], [10, 152, 1])
    held_out = people.held_out_rows(person)
    assert [int(held_out[person == number].sum()) for number in (3, 8, 9)] == [2, 30, 0]


@pytest.mark.parametrize("parts", [1, 2, 6, 36])
def test_every_row_belongs_to_exactly_one_part(activity: Manifest, parts: int) -> None:
    whole = load("builtin:activity?split=all", activity)
    pieces = [load(f"builtin:activity?part={part}&parts={parts}&split=all", activity) for part in range(parts)]
    rows = np.concatenate([piece.x for piece in pieces])
    assert sorted(row.tobytes() for row in rows) == sorted(row.tobytes() for row in whole.x)


def test_a_part_holds_out_the_rows_that_the_whole_holds_out(activity: Manifest) -> None:
    """Else a device could train on what the coordinator evaluates with."""
    whole = {row.tobytes() for row in load("builtin:activity", activity, held_out=True).x}
    for part in range(6):
        mine = load(f"builtin:activity?part={part}&parts=6", activity, held_out=True)
        assert {row.tobytes() for row in mine.x} <= whole


def test_training_rows_are_normalised(activity: Manifest) -> None:
    x = load("builtin:activity", activity).x.astype(np.float64)
    varying = x.std(axis=0) > 0
    assert varying.sum() == 42  # the authors' XAVG is 0 throughout
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(x.std(axis=0)[varying], 1, rtol=1e-3)
