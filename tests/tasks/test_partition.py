"""Parts are disjoint, cover everything, keep their promise about labels, and are the same for the same seed."""

import hashlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.errors import DataError
from skerry.tasks import partition

Labels = npt.NDArray[np.int64]

label_lists = st.lists(st.integers(0, 9), min_size=1, max_size=300).map(lambda given: np.array(given, np.int64))
seeds = st.integers(-5, 1 << 70)


def digest(owners: partition.Owners) -> str:
    return hashlib.sha256(owners.astype("<i4").tobytes()).hexdigest()[:16]


def sizes(owners: partition.Owners, parts: int) -> list[int]:
    """Count the examples of each part; an owner outside [0, parts) would change the length."""
    counted: list[int] = np.bincount(owners, minlength=parts).tolist()
    assert len(counted) == parts
    return counted


@given(st.integers(0, 500), st.integers(1, 60), seeds)
def test_an_iid_split_is_even(examples: int, parts: int, seed: int) -> None:
    counted = sizes(partition.iid(examples, parts, seed), parts)
    assert sum(counted) == examples
    assert max(counted) - min(counted) <= 1


@given(label_lists, st.integers(1, 20), st.integers(1, 4), seeds)
def test_no_part_has_more_labels_than_its_shards(labels: Labels, parts: int, per_part: int, seed: int) -> None:
    present = len(set(labels.tolist()))
    if not present <= parts * per_part <= len(labels):
        with pytest.raises(DataError, match="shards, must be at least"):
            partition.shard_shares(labels, parts, per_part, seed)
        return
    owners = partition.by_shares(labels, partition.shard_shares(labels, parts, per_part, seed), seed)
    counted = sizes(owners, parts)
    assert sum(counted) == len(labels)
    assert min(counted) >= per_part  # no shard is empty
    for part in range(parts):
        assert 1 <= len(set(labels[owners == part].tolist())) <= per_part


@pytest.mark.parametrize("seed", range(5))
def test_groups_of_parts_hold_the_same_labels_or_their_own(seed: int) -> None:
    """100 parts in 4 groups: 20 shards of each of 10 classes, so 5 for each group, or 2.5 classes for each."""
    labels: Labels = np.arange(6000, dtype=np.int64) % 10
    alike = partition.shard_shares(labels, 100, 2, seed, groups=4)
    skewed = partition.shard_shares(labels, 100, 2, seed, groups=4, between="skewed")
    for shares in (alike, skewed):
        assert shares.sum(axis=0).tolist() == [2] * 100
        assert shares.sum(axis=1).tolist() == [20] * 10
    by_group = [shares.reshape(10, 4, 25).sum(axis=2) for shares in (alike, skewed)]
    assert by_group[0].tolist() == [[5] * 4] * 10
    assert by_group[1][:, 0].tolist() == [20, 20, 10] + [0] * 7
    assert (by_group[1] > 0).sum(axis=0).tolist() == [3] * 4
    for shares in (alike, skewed):  # within a group the draw is random
        assert len({tuple(part) for part in shares[:, :25].T.tolist()}) > 2


def test_one_group_is_no_group() -> None:
    labels: Labels = np.arange(600, dtype=np.int64) % 10
    plain = partition.shard_shares(labels, 20, 2, 3)
    np.testing.assert_array_equal(plain, partition.shard_shares(labels, 20, 2, 3, groups=1, between="skewed"))


@pytest.mark.parametrize("groups", [0, 3, 40])
def test_groups_must_be_of_equal_size(groups: int) -> None:
    with pytest.raises(DataError, match=f"parts=20, groups={groups}: groups must be of equal size"):
        partition.shard_shares(np.arange(600, dtype=np.int64) % 10, 20, 2, 3, groups=groups)


@settings(deadline=None)
@given(label_lists, st.integers(1, 12), st.floats(0.05, 50), seeds)
def test_dirichlet_leaves_no_part_empty(labels: Labels, parts: int, alpha: float, seed: int) -> None:
    try:
        shares = partition.dirichlet_shares(labels, parts, alpha, seed)
    except DataError:
        assert alpha < 1.0 or len(labels) < 20 * parts  # else every part can easily get something
        return
    counted = sizes(partition.by_shares(labels, shares, seed), parts)
    assert sum(counted) == len(labels)
    assert min(counted) >= 1


@given(st.lists(st.integers(0, 30), min_size=1), st.integers(1, 40))
def test_a_natural_clients_examples_stay_together(clients: list[int], parts: int) -> None:
    numbers = np.array(clients, np.int64)
    if parts > max(clients) + 1:
        with pytest.raises(DataError, match="natural clients"):
            partition.natural(numbers, max(clients) + 1, parts)
        return
    owners = partition.natural(numbers, max(clients) + 1, parts)
    assert {(client, int(owner)) for client, owner in zip(clients, owners, strict=True)} == {
        (client, client % parts) for client in clients
    }


def test_a_small_alpha_is_more_uneven_than_a_large_one() -> None:
    labels = np.arange(6000) % 10

    def largest_share(alpha: float) -> float:
        shares = partition.dirichlet_shares(labels, 20, alpha, 1)
        return float((shares.max(axis=1) / shares.sum(axis=1)).mean())

    assert largest_share(0.1) > 2 * largest_share(1.0) > 4 * largest_share(100.0)
    assert largest_share(1e6) == pytest.approx(1 / 20, rel=0.02)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_dirichlet_shares_have_the_distributions_mean_and_variance(alpha: float) -> None:
    """Each of 4 shares of Dirichlet(alpha) has mean 1/4 and variance 3/16 / (4 alpha + 1)."""
    labels = np.arange(400 * 50) % 400
    shares = partition.dirichlet_shares(labels, 4, alpha, 7)
    drawn = shares / shares.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(drawn.mean(axis=0), 0.25, atol=0.04)
    assert drawn.var() == pytest.approx(3 / 16 / (4 * alpha + 1), rel=0.12)


def test_shards_of_a_class_are_equal_within_one() -> None:
    labels = np.repeat(np.arange(3), [100, 57, 23])
    shares = partition.shard_shares(labels, 18, 1, 4)
    assert shares.sum(axis=1).tolist() == [9, 6, 3]  # the largest shard is as small as 18 shards allow
    owners = partition.by_shares(labels, shares, 4)
    assert sorted(sizes(owners, 18)) == sorted([11] * 8 + [12] + [9] * 3 + [10] * 3 + [7, 8, 8])


def test_a_part_that_no_draw_can_fill_is_an_error_with_a_remedy() -> None:
    for labels, alpha in ((np.zeros(50, np.int64), 1e-6), (np.zeros(3, np.int64), 1e6)):
        with pytest.raises(DataError, match=r"parts=4.*take a larger alpha or fewer parts"):
            partition.dirichlet_shares(labels, 4, alpha, 1)


def test_a_class_that_nobody_trains_on_cannot_be_dealt() -> None:
    """Else its examples would go to whoever the memory happened to name."""
    train = np.array([0, 0, 2, 2])
    for shares in (partition.shard_shares(train, 2, 1, 0), partition.dirichlet_shares(train, 2, 5.0, 0)):
        for label in (1, 3) if not shares[1].any() else (3,):
            with pytest.raises(DataError, match=f"class {label}: has examples that are held out, and none to train on"):
                partition.by_shares(np.array([0, label]), shares, 0)


@pytest.mark.parametrize("alpha", [0.0, -1.0, 1e-320, float("inf"), float("nan")])
def test_an_alpha_that_no_distribution_has_is_refused(alpha: float) -> None:
    with pytest.raises(DataError, match="must be at least 1e-09 and finite"):
        partition.dirichlet_shares(np.arange(100) % 4, 2, alpha, 0)


def test_the_smallest_alpha_gives_each_class_to_one_part() -> None:
    shares = partition.dirichlet_shares(np.arange(100) % 4, 2, partition.ALPHA_MIN, 0)
    assert ((shares > 0).sum(axis=1) == 1).all()


def test_held_out_examples_follow_the_shares_of_the_training_examples() -> None:
    """A device is examined on the classes that it trains on."""
    train, held_out = np.arange(2000) % 10, np.arange(500) % 10
    shares = partition.shard_shares(train, 10, 2, 3)
    mine, theirs = partition.by_shares(train, shares, 3), partition.by_shares(held_out, shares, 3)
    for part in range(10):
        assert set(train[mine == part].tolist()) == set(held_out[theirs == part].tolist())


def test_parts_are_the_same_everywhere_and_for_ever() -> None:
    """Devices partition on their own: if one drew otherwise than another, two would hold the same example."""
    labels = (np.arange(1000) * 7919) % 10
    shards = partition.by_shares(labels, partition.shard_shares(labels, 20, 2, 1), 1)
    dirichlet = partition.by_shares(labels, partition.dirichlet_shares(labels, 20, 0.3, 1), 1)
    found = [digest(partition.iid(1000, 20, 1)), digest(shards), digest(dirichlet)]
    assert found == ["7c7a4a8d579234a8", "fb9245672c0fa14f", "891c83fa959b096a"]


def test_another_seed_gives_other_parts() -> None:
    labels = np.arange(200) % 10
    draws: list[Callable[[int], partition.Owners]] = [
        lambda seed: partition.iid(200, 10, seed),
        lambda seed: partition.by_shares(labels, partition.shard_shares(labels, 10, 2, seed), 0),
        lambda seed: partition.by_shares(labels, partition.dirichlet_shares(labels, 10, 1.0, seed), 0),
        lambda seed: partition.by_shares(labels, np.ones((10, 10), np.int64), seed),
    ]
    for owners in draws:
        assert digest(owners(1)) == digest(owners(1)) != digest(owners(2))


@pytest.mark.parametrize("parts", [0, -1, partition.PARTS_MAX + 1])
def test_a_senseless_number_of_parts_is_refused(parts: int) -> None:
    labels = np.zeros(3, np.int64)
    attempts: list[Callable[[], object]] = [
        lambda: partition.iid(3, parts, 0),
        lambda: partition.natural(labels, 1, parts),
        lambda: partition.shard_shares(labels, parts, 1, 0),
        lambda: partition.dirichlet_shares(labels, parts, 1.0, 0),
    ]
    for make in attempts:
        with pytest.raises(DataError, match=f"parts={parts}: must be 1 to"):
            make()


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("inf"), float("nan")])
def test_a_senseless_alpha_is_refused(alpha: float) -> None:
    with pytest.raises(DataError, match="alpha="):
        partition.dirichlet_shares(np.zeros(3, np.int64), 1, alpha, 0)
