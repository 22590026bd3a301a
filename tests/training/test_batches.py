import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.tasks.data import Dataset
from skerry.training.batches import Batches
from skerry.training.shuffle import Shuffle


def numbered(rows: int) -> Dataset:
    return Dataset(np.arange(rows, dtype=np.float32)[:, None], np.arange(rows))


@given(rows=st.integers(1, 50), batch=st.integers(1, 60), seed=st.integers(0, 100))
def test_every_epoch_holds_every_example_once(rows: int, batch: int, seed: int) -> None:
    batches = Batches(numbered(rows), batch, Shuffle(seed))
    drawn = np.concatenate([next(batches)[1] for _ in range(rows * 3)])
    for epoch in range(len(drawn) // rows):
        assert sorted(drawn[epoch * rows : (epoch + 1) * rows]) == list(range(rows))


@given(rows=st.integers(1, 50), batch=st.integers(1, 60))
def test_all_batches_are_of_one_size(rows: int, batch: int) -> None:
    batches = Batches(numbered(rows), batch, Shuffle(0))
    assert {len(next(batches)[1]) for _ in range(20)} == {min(rows, batch)} == {batches.batch_examples}


def test_much_randomness_is_the_same_as_little_after_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python makes no more than 2 ** 31 random bits at a time: 33 million rows would not be put in order."""
    order, noise = Shuffle(3).permutation(100), Shuffle(3).uniform(100)
    monkeypatch.setattr("skerry.training.shuffle.BYTES_AT_ONCE", 24)
    np.testing.assert_array_equal(Shuffle(3).permutation(100), order)
    np.testing.assert_array_equal(Shuffle(3).uniform(100), noise)


def test_features_stay_with_their_labels() -> None:
    x, y, _noise = next(Batches(numbered(100), 32, Shuffle(0)))
    assert x[:, 0].tolist() == y.tolist()


def test_the_order_changes_from_epoch_to_epoch_and_follows_from_the_seed() -> None:
    first, second, again = (Batches(numbered(100), 100, Shuffle(seed)) for seed in (1, 2, 1))
    orders = [next(batches)[1].tolist() for batches in (first, first, second)]
    assert len({tuple(order) for order in orders}) == 3
    assert [next(again)[1].tolist() for _ in range(2)] == orders[:2]


def test_there_must_be_something_to_draw_from() -> None:
    with pytest.raises(AssertionError):
        Batches(numbered(0), 1, Shuffle(0))
