"""The model that devices hold: behind the region's, by less each time, and the same for all of them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.model_state import ModelState
from coordinator.offered_model import ENTRIES_MIN, OfferedModel
from skerry.algorithms.downlink import TopK
from skerry.protocol import sparse
from skerry.values import ValueEncoding, quantise
from skerry.vector import Float32

SIZE = 64
HALF = ValueEncoding.FLOAT16


def given_to(offered: OfferedModel, base: int | None, held: Float32) -> Float32:
    after = held.copy()
    sparse.decode(offered.changes_since(base), size=SIZE).set_in(after)
    return after


@settings(max_examples=60, deadline=None)
@given(
    seeds=st.lists(st.tuples(st.integers(0, 99), st.integers(1, SIZE)), min_size=1, max_size=10),
    density=st.sampled_from([0.01, 0.1, 1.0]),
    tail=st.sampled_from([0, 3]),
)
def test_every_device_ends_at_the_same_model_whichever_versions_it_saw(
    seeds: Any, density: float, tail: int, words: Any
) -> None:
    state = ModelState.start(words.initial())
    offered = OfferedModel(TopK(density=density), state, tail)
    start = given_to(offered, None, np.zeros(SIZE, np.float32))
    held = [(0, start)]
    for version, (seed, entries) in enumerate(seeds, start=1):
        state.apply(words.vector(seed, entries), 0.6, version, float(version))
        offered.follow(state)
        held = [(base, model) for base, model in held] + [(version, given_to(offered, version - 1, held[-1][1]))]
    for base, model in held:
        assert given_to(offered, base, model).tobytes() == held[-1][1].tobytes()
    assert given_to(offered, None, np.ones(SIZE, np.float32)).tobytes() == held[-1][1].tobytes()


def test_no_more_than_the_share_goes_each_time_and_the_furthest_first(words: Any) -> None:
    size = 1000
    state = ModelState.start(np.zeros(size, np.float32))
    offered = OfferedModel(TopK(density=0.02), state, 0)
    state.model[:] = np.arange(size, dtype=np.float32)
    state.version = 1
    offered.follow(state)
    assert list(sparse.decode(offered.changes_since(0), size=size).indices) == list(range(980, 1000))
    state.version = 2
    offered.follow(state)
    assert list(sparse.decode(offered.changes_since(1), size=size).indices) == list(range(960, 980))
    assert list(sparse.decode(offered.changes_since(0), size=size).indices) == list(range(960, 1000))


def test_a_tiny_model_goes_whole_each_time() -> None:
    state = ModelState.start(np.zeros(5, np.float32))
    offered = OfferedModel(TopK(density=0.01), state, 0)
    state.model[:], state.version = 1.0, 1
    offered.follow(state)
    assert len(sparse.decode(offered.changes_since(0), size=5)) == 5


@pytest.mark.parametrize(("tail", "encoding"), [(0, HALF), (1, ValueEncoding.FLOAT32)])
def test_a_model_that_rests_is_reached_exactly(words: Any, tail: int, encoding: ValueEncoding) -> None:
    state = ModelState.start(words.initial())
    offered = OfferedModel(TopK(density=0.1), state, tail)
    state.apply(words.vector(7, SIZE), 0.5, 1, 1.0)
    for version in range(1, 12):
        state.version = version
        offered.follow(state)
    held = given_to(offered, None, np.zeros(SIZE, np.float32))
    assert held.tobytes() == quantise(state.model, encoding).tobytes()
    state.version = 12
    offered.follow(state)
    assert len(sparse.decode(offered.changes_since(11), size=SIZE)) == 0, "rounding is no reason to send anything"


def test_the_whole_tail_goes_every_time_as_it_is() -> None:
    state = ModelState.start(np.zeros(SIZE, np.float32))
    offered = OfferedModel(TopK(density=0.01), state, 2)
    state.model[:] = 5.0
    state.model[-2:] = [1e6, 1e-9]
    state.version, state.age = 3, 7.5
    offered.follow(state)
    changes = sparse.decode(offered.changes_since(0), size=SIZE)
    assert list(changes.indices[-2:]) == [62, 63]
    assert changes.values[-2:].tobytes() == state.model[-2:].tobytes()
    assert len(changes) == ENTRIES_MIN + 2
    assert (offered.version, offered.age) == (3, 7.5)
