"""The vectors of a region: what is sent of them puts the other side exactly where this side is."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.model_state import ModelState, Publication
from skerry.algorithms.federation import MergedEntries
from skerry.algorithms.peer_guard import Measured
from skerry.protocol import sparse
from skerry.protocol.messages import BroadcastId
from skerry.values import ValueEncoding
from skerry.vector import Float32, SparseVector

SIZE = 64


def bits(values: Float32) -> bytes:
    return values.tobytes()


def peer_publication(number: int, *, whole: bool = False) -> Publication:
    return Publication("there/1", number, BroadcastId(1, number), 3.0, whole)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(0, 99), st.integers(1, SIZE), st.booleans()), min_size=1, max_size=12))
def test_the_changes_since_any_version_lead_to_the_newest(steps: Any, words: Any) -> None:
    state = ModelState.start(words.initial())
    past = [state.model.copy()]
    state.take_peer_model("there-1", peer_publication(1, whole=True), words.vector(5, SIZE))
    for version, (seed, entries, merge) in enumerate(steps, start=1):
        if merge:
            state.merge("there-1", 0.3, version, float(version), "all")
        else:
            state.apply(words.vector(seed, entries), 0.6, version, float(version))
        past.append(state.model.copy())
    for base, model in enumerate(past):
        changes = sparse.decode(state.changes_since(base), size=SIZE)
        changes.set_in(model)
        assert bits(model) == bits(state.model)
        whole = np.full(SIZE, 7.0, np.float32)
        sparse.decode(state.changes_since(None), size=SIZE).set_in(whole)
        assert bits(whole) == bits(state.model)
    assert len(sparse.decode(state.changes_since(len(steps)), size=SIZE)) == 0


def test_changes_that_are_many_travel_whole(words: Any) -> None:
    state = ModelState.start(words.initial())
    state.apply(words.vector(1, SIZE - 1), 1.0, 1, 1.0)
    assert len(state.changes_since(0)) <= len(state.changes_since(None))


def test_a_whole_model_draws_the_model_towards_it_as_a_merge_does(words: Any) -> None:
    state, other = ModelState.start(words.initial()), ModelState.start(words.initial())
    model = words.vector(3, SIZE)
    state.apply(model, 0.25, 1, 1.0, whole=True)
    other.take_peer_model("there-1", peer_publication(1, whole=True), model)
    other.merge("there-1", 0.25, 1, 1.0, "all")
    assert bits(state.model) == bits(other.model)
    assert (state.version, state.age) == (1, 1.0)
    np.testing.assert_allclose(state.model, 0.75 * words.initial() + 0.25 * model.values, atol=1e-6)


def test_a_merge_moves_the_model_by_the_weight_in_float32(words: Any) -> None:
    state = ModelState.start(words.initial())
    replica = words.vector(3, SIZE)
    state.take_peer_model("there-1", peer_publication(1, whole=True), replica)
    before = state.model.copy()
    state.merge("there-1", 0.25, 1, 4.5, "all")
    expected = before + np.float32(0.25) * (replica.dense() - before)
    assert bits(state.model) == bits(expected)
    assert (state.version, state.age) == (1, 4.5)


def test_a_merge_marks_only_what_it_moved(words: Any) -> None:
    state = ModelState.start(np.ones(SIZE, np.float32))
    same = np.ones(SIZE, np.float32)
    same[[3, 9]] = 2.0
    state.take_peer_model("there-1", peer_publication(1, whole=True), SparseVector.full(same))
    state.merge("there-1", 0.5, 1, 1.0, "all")
    assert list(np.flatnonzero(state.changed_at)) == [3, 9]


@settings(max_examples=60, deadline=None)
@given(
    density=st.sampled_from([0.01, 0.1, 1.0]),
    values=st.sampled_from(list(ValueEncoding)),
    seeds=st.lists(st.integers(0, 999), min_size=1, max_size=8),
    joins_at=st.integers(0, 7),
)
def test_a_replica_is_what_was_published_bit_for_bit(
    density: float, values: ValueEncoding, seeds: Any, joins_at: int, words: Any
) -> None:
    """Also for a peer that joins late and is sent a publication whole."""
    here, there, late = (ModelState.start(words.initial()) for _ in range(3))
    here.model[5] = -0.0
    for number, seed in enumerate(seeds, start=1):
        here.apply(words.vector(seed, 20), 1.0, number, float(number))
        difference = here.difference_to_publish(density, values)
        publication = Publication("here/1", number, BroadcastId(1, number), 3.0, whole=here.published is None)
        decoded = sparse.decode(difference, size=SIZE)
        here.publish(publication, decoded)
        assert here.published is not None
        there.take_peer_model("here-1", publication, sparse.decode(difference, size=SIZE))
        assert bits(there.replicas["here-1"].values) == bits(here.published.values)
        if number - 1 == joins_at:
            whole = Publication("here/1", number, BroadcastId(1, number), 3.0, whole=True)
            late.take_peer_model("here-1", whole, sparse.decode(here.published.whole(), size=SIZE))
        elif number - 1 > joins_at:
            late.take_peer_model("here-1", publication, sparse.decode(difference, size=SIZE))
        if number - 1 >= joins_at:
            assert bits(late.replicas["here-1"].values) == bits(here.published.values)


def test_what_a_sparse_publication_leaves_out_goes_out_with_later_ones(words: Any) -> None:
    state = ModelState.start(words.initial())
    for number in range(1, 40):
        if number == 2:
            state.apply(words.vector(1, 30), 1.0, 1, 1.0)
        payload = state.difference_to_publish(1 / SIZE, ValueEncoding.FLOAT32)
        decoded = sparse.decode(payload, size=SIZE)
        assert len(decoded) <= (SIZE if number == 1 else 1)
        state.publish(peer_publication(number, whole=number == 1), decoded)
    assert state.published is not None
    np.testing.assert_allclose(state.published.values, state.model, atol=1e-6)


def test_a_copy_shares_nothing(words: Any) -> None:
    state = ModelState.start(words.initial())
    state.take_peer_model("there-1", peer_publication(1, whole=True), words.vector(3, SIZE))
    state.publish(peer_publication(1, whole=True), words.vector(4, SIZE))
    copy = state.copy()
    assert state.published is not None
    for vector in (state.model, state.changed_at, state.published.values, state.replicas["there-1"].values):
        np.add(vector, 1, out=vector)
    state.take_peer_model("there-1", peer_publication(2), words.vector(5))
    assert bits(copy.model) == bits(words.initial())
    assert copy.published is not None
    assert bits(copy.published.values) == bits(words.vector(4, SIZE).dense())
    assert bits(copy.replicas["there-1"].values) == bits(words.vector(3, SIZE).dense())
    assert copy.replicas["there-1"].number == 1
    assert not copy.changed_at.any()


@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0 / 3.0])
def test_an_update_is_added_with_its_weight_and_marked(words: Any, weight: float) -> None:
    state = ModelState.start(words.initial())
    update = words.vector(1)
    expected = words.initial()
    expected[update.indices] += np.float32(weight) * update.values
    state.apply(update, weight, 1, 1.0)
    assert bits(state.model) == bits(expected)
    assert list(np.flatnonzero(state.changed_at)) == list(update.indices)


def test_a_merge_of_what_was_published_leaves_all_other_entries_alone(words: Any) -> None:
    """What the peer has not published lately is old in its replica, and would hold the own model back."""
    state = ModelState.start(words.initial())
    state.take_peer_model("there-1", peer_publication(1, whole=True), words.vector(3, SIZE))
    newest = SparseVector(SIZE, np.array([2, 40], np.int64), np.array([0.5, -0.5], np.float32))
    state.take_peer_model("there-1", peer_publication(2), newest)
    before = state.model.copy()
    state.merge("there-1", 0.25, 1, 4.5, "published")
    expected = before.copy()
    replica = state.replicas["there-1"].values
    for entry in (2, 40):
        expected[entry] = before[entry] + np.float32(0.25) * (replica[entry] - before[entry])
    assert bits(state.model) == bits(expected)
    assert list(np.flatnonzero(state.changed_at)) == [2, 40]
    assert (state.version, state.age) == (1, 4.5)


def test_a_whole_publication_names_every_entry(words: Any) -> None:
    published, whole = ModelState.start(words.initial()), ModelState.start(words.initial())
    cases: list[tuple[ModelState, MergedEntries]] = [(published, "published"), (whole, "all")]
    for state, entries in cases:
        state.take_peer_model("there-1", peer_publication(1, whole=True), words.vector(3, SIZE))
        state.merge("there-1", 0.25, 1, 4.5, entries)
    np.testing.assert_array_equal(published.model, whole.model)


def test_a_peers_model_is_measured_before_it_is_taken() -> None:
    state = ModelState.start(np.array([3.0, 0.0, 4.0], np.float32))
    whole = SparseVector.full(np.array([3.0, 2.0, 4.0], np.float32))
    first = Publication("there/1", 1, BroadcastId(1, 1), 1.0, whole=True)
    assert state.measure("there", first, whole) == Measured(2.0, 5.0)
    assert state.replicas == {}
    state.take_peer_model("there", first, whole)
    change = SparseVector(3, np.array([0, 1]), np.array([8.0, 4.0], np.float32))
    second = Publication("there/1", 2, BroadcastId(1, 2), 1.0, whole=False)
    assert state.measure("there", second, change) == Measured(10.0, 5.0)
    assert state.measure("there", replace(second, number=3), change) is None
    assert state.measure("there", replace(second, lineage="there/2"), change) is None
    assert state.measure("elsewhere", second, change) is None
    huge = SparseVector.full(np.full(3, 1e30, np.float32))
    measured = state.measure("there", first, huge)
    assert measured is not None
    assert measured.distance == np.inf
    assert state.model.tolist() == [3.0, 0.0, 4.0]
