"""The options of a data source that say which part is meant."""

import numpy as np
import pytest

from skerry.errors import DataError
from skerry.tasks.builtin.deal import Deal


def test_the_options_are_taken_and_the_others_left() -> None:
    options = {"part": "3", "parts": "100", "partition": "shards", "labels": "4", "seed": "9", "colour": "red"}
    assert Deal.parse(options, "iid") == Deal(3, 100, "shards", 4, 0.5, 9)
    assert options == {"colour": "red"}
    assert Deal.parse({"partition": "dirichlet", "alpha": "0.3"}, "iid") == Deal(0, 1, "dirichlet", 2, 0.3, 0)
    assert Deal.parse({}, "natural").partition == "natural"
    skewed = {"parts": "8", "partition": "shards", "groups": "4", "between": "skewed"}
    assert Deal.parse(skewed, "iid") == Deal(0, 8, "shards", groups=4, between="skewed")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"part": "-1"}, "part=-1: must be a whole number"),
        ({"part": "1.5"}, "part=1.5: must be a whole number"),
        ({"part": "٣"}, "must be a whole number"),
        ({"part": "1"}, "part=1: must be 0 to 0"),
        ({"part": "5", "parts": "5"}, "part=5: must be 0 to 4"),
        ({"parts": "0"}, "must be 0 to -1"),
        ({"parts": "100001"}, "parts=100001: must be a whole number from 0 to 100000"),
        ({"seed": "9" * 40}, "seed="),
        ({"partition": "alphabetical"}, "is none of iid, shards, dirichlet, natural"),
        ({"labels": "2"}, "labels: belongs to partition=shards, this is iid"),
        ({"alpha": "2", "partition": "shards"}, "alpha: belongs to partition=dirichlet"),
        ({"groups": "4"}, "groups: belongs to partition=shards, this is iid"),
        ({"between": "skewed"}, "between: belongs to partition=shards, this is iid"),
        ({"between": "odd", "partition": "shards"}, "between=odd: is none of alike, skewed"),
        ({"alpha": "0", "partition": "dirichlet"}, "alpha=0: must be a number above 0"),
        ({"alpha": "nan", "partition": "dirichlet"}, "alpha=nan: must be a number above 0"),
        ({"alpha": "little", "partition": "dirichlet"}, "alpha=little: must be a number above 0"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, str], said: str) -> None:
    with pytest.raises(DataError) as caught:
        Deal.parse(options, "iid")
    assert said in str(caught.value)


def test_what_has_no_classes_or_no_clients_cannot_be_dealt_by_them() -> None:
    numbers = np.arange(10)
    with pytest.raises(DataError, match="nobody knows who made"):
        Deal(0, 2, "natural").by_class(numbers, numbers)
    for partition in ("shards", "dirichlet"):
        with pytest.raises(DataError, match="take natural or iid"):
            Deal(0, 2, partition).by_client(numbers, 10)


@pytest.mark.parametrize("partition", ["iid", "shards", "dirichlet"])
def test_held_out_images_are_dealt_like_the_training_images(partition: str) -> None:
    train, held_out = np.arange(1000) % 10, np.arange(300) % 10
    deal = Deal(0, 10, partition, labels=2, alpha=0.3, seed=5)
    mine, theirs = deal.by_class(train, train), deal.by_class(train, held_out)
    assert np.bincount(theirs, minlength=10).sum() == 300
    seen = np.zeros((2, 10, 10))
    np.add.at(seen[0], (mine, train), 1)
    np.add.at(seen[1], (theirs, held_out), 1)
    if partition == "iid":
        assert set(seen[1].sum(axis=1)) == {30.0}
    else:  # the same share of each class, but for what whole examples allow
        np.testing.assert_allclose(seen[0] * 0.3, seen[1], atol=1.0)


def test_groups_of_parts_are_skewed_or_alike_as_asked() -> None:
    labels = np.arange(800) % 8
    for between, each in (("alike", 8), ("skewed", 2)):
        options = {"parts": "20", "partition": "shards", "groups": "4", "between": between}
        owners = Deal.parse(options, "iid").by_class(labels, labels)
        assert [len(set(labels[owners // 5 == group].tolist())) for group in range(4)] == [each] * 4
