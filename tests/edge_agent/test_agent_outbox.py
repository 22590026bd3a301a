from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.outbox import Outbox, Update
from edge_agent.store import Store
from skerry.algorithms.uplink import Dense, TopK
from skerry.protocol import sparse
from skerry.protocol.messages import ModelVersion
from skerry.values import ValueEncoding
from skerry.vector import Float32, Layout, Tensor

SIZE = 40
LAYOUT = Layout((Tensor("w", (30,), 0), Tensor("b", (10,), 30)))
UPLINK = TopK(density=0.1, values=ValueEncoding.FLOAT32)
BASE = ModelVersion("r/00000001", 3)


def new_update(sequence: int) -> Update:
    return Update(sequence, BASE, steps=5, examples=7, loss=0.5, seconds_per_step=0.01, payload=b"", event=0)


def difference(seed: int) -> Float32:
    return np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32)


def values_of(update: Update) -> Float32:
    return sparse.decode(update.payload, size=SIZE).dense()


# What happens: a new difference, or an answer to the oldest update that waits, with a weight (None: held).
happenings = st.lists(st.one_of(st.just("train"), st.none(), st.floats(0.0, 1.0)), max_size=25)


@given(
    happenings,
    st.sampled_from(
        [UPLINK, TopK(density=0.05, values=ValueEncoding.INT8), TopK(density=0.3, values=ValueEncoding.FLOAT16)]
    ),
)
def test_mass_is_in_the_residual_or_waits_or_was_applied(story: list[str | float | None], uplink: TopK) -> None:
    outbox = Outbox(SIZE)
    learned, applied = np.zeros(SIZE), np.zeros(SIZE)
    for number, happening in enumerate(story):
        if happening == "train":
            learned += difference(number)
            outbox.take(new_update(number + 1), difference(number), uplink, LAYOUT)
        elif outbox.waiting:
            assert not isinstance(happening, str)
            settled = outbox.settle(min(outbox.waiting), happening)
            applied += (1.0 if happening is None else happening) * values_of(settled)
    waiting = sum((values_of(update) for update in outbox.waiting.values()), np.zeros(SIZE))
    np.testing.assert_allclose(outbox.residual + waiting + applied, learned, atol=1e-4)


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

    def train(self, sequence: int, *, with_residual: bool) -> None:
        taken = self.outbox.take(new_update(sequence), difference(sequence), UPLINK, LAYOUT)
        self.store.put_update(taken, self.outbox.residual if with_residual else None)

    def settle(self, weight: float | None) -> None:
        self.store.settle(self.outbox.settle(min(self.outbox.waiting), weight), accepted=True)

    def restart(self) -> Outbox:
        self.store.close()
        self.store = Store(self.path)
        stored = self.store.load()
        outbox = Outbox(SIZE, stored.events, stored.residual)
        outbox.replay(stored.updates, after=stored.residual_event)
        return outbox


@settings(max_examples=30, deadline=None)
@given(happenings)
def test_a_restart_brings_back_the_very_same_outbox(
    tmp_path_factory: pytest.TempPathFactory, story: list[str | float | None]
) -> None:
    disk = Disk(tmp_path_factory.mktemp("disk") / "state.db")
    for number, happening in enumerate(story):
        if happening == "train":
            disk.train(number + 1, with_residual=True)
        elif disk.outbox.waiting:
            assert not isinstance(happening, str)
            disk.settle(happening)
    again = disk.restart()
    assert again.waiting == disk.outbox.waiting
    np.testing.assert_array_equal(again.residual, disk.outbox.residual)
    assert again.events == disk.outbox.events
    disk.store.close()


@settings(max_examples=30, deadline=None)
@given(happenings)
def test_where_the_residual_is_written_seldom_a_crash_counts_nothing_twice(
    tmp_path_factory: pytest.TempPathFactory, story: list[str | float | None]
) -> None:
    """Each entry of the residual after the crash is what it was when it was stored or last sent, plus what returned."""
    disk = Disk(tmp_path_factory.mktemp("disk") / "state.db")
    disk.train(100, with_residual=True)
    expected = disk.outbox.residual.copy()
    for number, happening in enumerate(story):
        if happening == "train":
            disk.train(101 + number, with_residual=False)
            sent = sparse.decode(disk.outbox.waiting[101 + number].payload, size=SIZE)
            expected[sent.indices] = 0.0
        elif disk.outbox.waiting:
            assert not isinstance(happening, str)
            oldest = disk.outbox.waiting[min(disk.outbox.waiting)]
            disk.settle(happening)
            expected += (0.0 if happening is None else 1.0 - happening) * values_of(oldest)
    again = disk.restart()
    assert again.waiting == disk.outbox.waiting
    np.testing.assert_allclose(again.residual, expected, atol=1e-5)
    disk.store.close()
