from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from edge_agent.outbox import Outbox, Update
from edge_agent.store import Store
from skerry.algorithms.uplink import Dense, TopK, WholeModel
from skerry.protocol import sparse
from skerry.protocol.messages import ModelVersion
from skerry.values import ValueEncoding
from skerry.vector import Float32, Layout, Tensor

SIZE = 40
LAYOUT = Layout((Tensor("w", (30,), 0), Tensor("b", (10,), 30)))
UPLINK = TopK(density=0.1, values=ValueEncoding.FLOAT32)
BASE = ModelVersion("r/00000001", 3)


def new_update(sequence: int, learning_rate: float = 0.05) -> Update:
    return Update(
        sequence,
        BASE,
        steps=5,
        examples=7,
        loss=0.5,
        seconds_per_step=0.01,
        learning_rate=learning_rate,
        payload=b"",
        event=0,
    )


def difference(seed: int) -> Float32:
    return np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32)


def values_of(update: Update) -> Float32:
    return sparse.decode(update.payload, size=SIZE).dense()


@dataclass(frozen=True)
class Train:
    """A cycle none of whose steps had a higher rate than this."""

    learning_rate: float


# What happens: a new difference, or an answer to the oldest update that waits, with a weight (None: held).
Happening = Train | float | None
answers = st.one_of(st.none(), st.floats(0.0, 1.0))
happenings = st.lists(st.one_of(st.just(Train(0.05)), answers), max_size=25)
happenings_at_changing_rates = st.lists(
    st.one_of(st.builds(Train, st.sampled_from([0.05, 0.03, 1e-5, 0.0])), answers), max_size=25
)


@given(
    happenings,
    st.sampled_from(
        [UPLINK, TopK(density=0.05, values=ValueEncoding.INT8), TopK(density=0.3, values=ValueEncoding.FLOAT16)]
    ),
)
def test_mass_is_in_the_residual_or_waits_or_was_applied(story: list[Happening], uplink: TopK) -> None:
    """At a rate that stays: see the next tests for one that falls."""
    outbox = Outbox(SIZE)
    learned, applied = np.zeros(SIZE), np.zeros(SIZE)
    for number, happening in enumerate(story):
        if isinstance(happening, Train):
            learned += difference(number)
            outbox.take(new_update(number + 1, happening.learning_rate), difference(number), uplink, LAYOUT)
        elif outbox.waiting:
            settled = outbox.settle(min(outbox.waiting), happening)
            applied += (1.0 if happening is None else happening) * values_of(settled)
    waiting = sum((values_of(update) for update in outbox.waiting.values()), np.zeros(SIZE))
    np.testing.assert_allclose(outbox.residual + waiting + applied, learned, atol=1e-4)


def test_the_residual_fades_with_the_rate_and_does_not_grow_with_it() -> None:
    outbox, nothing = Outbox(SIZE), np.zeros(SIZE, np.float32)
    outbox.take(new_update(1, 0.1), difference(1), UPLINK, LAYOUT)
    for sequence, rate, share in ((2, 0.1, 1.0), (3, 0.025, 0.25), (4, 0.1, 1.0), (5, 0.05, 0.5), (6, 0.0, 0.0)):
        before = outbox.residual
        taken = outbox.take(new_update(sequence, rate), nothing, UPLINK, LAYOUT)
        np.testing.assert_allclose(values_of(taken) + outbox.residual, before * np.float32(share), rtol=1e-6)
        assert outbox.learning_rate == rate
    assert not outbox.residual.any()


def test_what_returns_of_an_update_fades_with_the_rate_since_it_was_taken() -> None:
    outbox = Outbox(SIZE)
    for sequence, rate in ((1, 0.1), (2, 0.05), (3, 0.01)):
        outbox.take(new_update(sequence, rate), difference(sequence), UPLINK, LAYOUT)
    for sequence, share in ((1, 0.1), (2, 0.2), (3, 1.0)):
        before, mass = outbox.residual, values_of(outbox.waiting[sequence])
        outbox.settle(sequence, 0.25)
        np.testing.assert_allclose(outbox.residual, before + 0.75 * share * mass, rtol=1e-5, atol=1e-6)


def test_a_rejected_update_returns_whole() -> None:
    outbox = Outbox(SIZE)
    outbox.take(new_update(1), difference(1), UPLINK, LAYOUT)
    outbox.settle(1, 0.0)
    np.testing.assert_allclose(outbox.residual, difference(1), rtol=1e-6)
    assert not outbox.waiting


def test_a_dense_update_leaves_nothing_behind() -> None:
    outbox = Outbox(SIZE)
    outbox.take(new_update(1), difference(1), Dense(), LAYOUT)
    assert not outbox.residual.any()


def test_an_array_that_was_given_out_never_changes() -> None:
    outbox = Outbox(SIZE)
    outbox.take(new_update(1), difference(1), UPLINK, LAYOUT)
    snapshot = outbox.residual
    copy = snapshot.copy()
    outbox.settle(1, 0.25)
    outbox.take(new_update(2), difference(2), UPLINK, LAYOUT)
    np.testing.assert_array_equal(snapshot, copy)


class Disk:
    """A device's outbox and its database, crashed and started again at will."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = Store(path)
        self.outbox = Outbox(SIZE)

    def train(self, sequence: int, learning_rate: float, *, with_residual: bool) -> None:
        taken = self.outbox.take(new_update(sequence, learning_rate), difference(sequence), UPLINK, LAYOUT)
        self.store.put_update(taken, self.outbox.residual if with_residual else None)

    def settle(self, weight: float | None) -> None:
        self.store.settle(self.outbox.settle(min(self.outbox.waiting), weight), accepted=True)

    def restart(self) -> Outbox:
        self.store.close()
        self.store = Store(self.path)
        stored = self.store.load()
        outbox = Outbox(SIZE, stored.events, stored.residual, stored.residual_learning_rate)
        outbox.replay(stored.updates, after=stored.residual_event)
        return outbox


@settings(max_examples=30, deadline=None)
@given(happenings_at_changing_rates)
def test_a_restart_brings_back_the_very_same_outbox(
    tmp_path_factory: pytest.TempPathFactory, story: list[Happening]
) -> None:
    disk = Disk(tmp_path_factory.mktemp("disk") / "state.db")
    for number, happening in enumerate(story):
        if isinstance(happening, Train):
            disk.train(number + 1, happening.learning_rate, with_residual=True)
        elif disk.outbox.waiting:
            disk.settle(happening)
    again = disk.restart()
    assert again.waiting == disk.outbox.waiting
    np.testing.assert_array_equal(again.residual, disk.outbox.residual)
    assert (again.events, again.learning_rate) == (disk.outbox.events, disk.outbox.learning_rate)
    disk.store.close()


@settings(max_examples=30, deadline=None)
@given(happenings_at_changing_rates)
def test_where_the_residual_is_written_seldom_a_crash_counts_nothing_twice(
    tmp_path_factory: pytest.TempPathFactory, story: list[Happening]
) -> None:
    """Each entry of the residual after the crash is what it was when it was stored or last sent, plus what returned.

    Less what the rate has fallen by since, each time.
    """
    disk = Disk(tmp_path_factory.mktemp("disk") / "state.db")
    disk.train(100, 0.05, with_residual=True)
    expected, rate = disk.outbox.residual.copy(), 0.05
    for number, happening in enumerate(story):
        if isinstance(happening, Train):
            disk.train(101 + number, happening.learning_rate, with_residual=False)
            expected *= min(1.0, happening.learning_rate / rate) if rate else 1.0
            rate = happening.learning_rate
            sent = sparse.decode(disk.outbox.waiting[101 + number].payload, size=SIZE)
            expected[sent.indices] = 0.0
        elif disk.outbox.waiting:
            oldest = disk.outbox.waiting[min(disk.outbox.waiting)]
            disk.settle(happening)
            share = min(1.0, rate / oldest.learning_rate) if oldest.learning_rate else 1.0
            expected += (0.0 if happening is None else 1.0 - happening) * share * values_of(oldest)
    again = disk.restart()
    assert again.waiting == disk.outbox.waiting
    np.testing.assert_allclose(again.residual, expected, atol=1e-5)
    disk.store.close()


def test_a_whole_model_leaves_the_residual_alone_whatever_becomes_of_it() -> None:
    """Added to the difference of the next update it would be a second model on top of one."""
    outbox = Outbox(SIZE)
    outbox.take(new_update(1), difference(1), UPLINK, LAYOUT)
    before = outbox.residual.copy()
    model = difference(2)
    for sequence, weight in enumerate((0.0, 0.25, 1.0, None), start=2):
        taken = outbox.take(replace(new_update(sequence), whole=True), model, WholeModel(), LAYOUT)
        np.testing.assert_array_equal(values_of(taken), model)
        settled = outbox.settle(sequence, weight)
        assert (settled.settled_event, settled.settled_weight) == (outbox.events, weight)
        again = Outbox(SIZE, residual=before)
        again.replay([settled], after=0)
        np.testing.assert_array_equal(again.residual, before)
    np.testing.assert_array_equal(outbox.residual, before)


def test_an_update_of_a_model_with_statistics_travels_as_float16() -> None:
    """One scale for weights and statistics would round the smaller of them to nothing."""
    layout = Layout((Tensor("weight", (4,), 0), Tensor("statistic", (1,), 4, trainable=False)))
    outbox = Outbox(5)
    learned = np.array([1e-4, -2e-4, 3e-4, 4e-4, 900.0], np.float32)
    taken = outbox.take(new_update(1), learned, TopK(density=1.0, values=ValueEncoding.INT8), layout)
    received = sparse.decode(taken.payload, size=5).dense()
    np.testing.assert_allclose(received, learned, rtol=1e-3)
    np.testing.assert_allclose(received + outbox.residual, learned, rtol=1e-6)
