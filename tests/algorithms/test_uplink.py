"""Which entries of an update travel."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from skerry.algorithms.flare import push_towards
from skerry.algorithms.top_k import entries_kept, largest
from skerry.algorithms.uplink import Dense, Flare, TopK
from skerry.values import ValueEncoding
from skerry.vector import Float32, Layout, Tensor

MakeLayout = Callable[[list[int], list[int]], Layout]

finite = st.floats(-100.0, 100.0, width=32)


@given(st_np.arrays(np.float32, st.integers(0, 60), elements=st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0])), st.data())
def test_largest_magnitudes_win_and_of_equal_ones_the_lowest_index(values: Float32, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(values)))
    ranked = sorted(range(len(values)), key=lambda index: (-abs(float(values[index])), index))
    chosen = largest(values, count)
    assert chosen.dtype == np.int64
    assert chosen.tolist() == sorted(ranked[:count])


@pytest.mark.parametrize(
    ("size", "density", "kept"),
    [(0, 1.0, 0), (1, 1e-9, 1), (1000, 1e-9, 1), (1000, 0.01, 10), (1000, 0.0149, 15), (3, 1.0, 3)],
)
def test_entries_kept(size: int, density: float, kept: int) -> None:
    assert entries_kept(size, density) == kept


def test_every_tensor_sends_something_and_the_tail_goes_whole(make_layout: MakeLayout) -> None:
    layout = make_layout([100, 0, 1, 50], [3])
    total = np.concatenate([np.full(100, 9.0), [0.0], np.linspace(1, 2, 50), np.zeros(3)]).astype(np.float32)
    chosen = TopK(density=0.02).compress(total, layout)
    assert chosen.indices.tolist() == [0, 1, 100, 150, 151, 152, 153]
    assert chosen.size == 154
    assert chosen.values.tolist() == total[chosen.indices].tolist()


def test_globally_tensors_compete(make_layout: MakeLayout) -> None:
    layout = make_layout([100, 50], [2])
    total = np.concatenate([np.arange(100), np.zeros(50), [500.0, 500.0]]).astype(np.float32)
    chosen = TopK(density=0.02, scope="global").compress(total, layout)
    assert chosen.indices.tolist() == [97, 98, 99, 150, 151]


@pytest.mark.parametrize("uplink", [TopK(), TopK(scope="global"), Flare(), Dense()])
def test_empty_model_sends_nothing(uplink: TopK | Flare | Dense, make_layout: MakeLayout) -> None:
    assert len(uplink.compress(np.empty(0, np.float32), make_layout([], []))) == 0


def test_dense_sends_everything(make_layout: MakeLayout) -> None:
    total = np.arange(5, dtype=np.float32)
    sent = Dense().compress(total, make_layout([3], [2]))
    assert sent.indices.tolist() == [0, 1, 2, 3, 4]
    assert sent.values.tolist() == total.tolist()


def test_flare_pushes_the_large_half_of_the_residual_of_each_tensor(make_layout: MakeLayout) -> None:
    base = np.full(9, 7.0, np.float32)
    residual = np.array([1, -4, 2, 3, 0.01, -0.04, 0.02, 0.03, 50], np.float32)
    parameters = base.copy()
    push_towards(parameters, base, residual, make_layout([4, 4], [1]), 0.5)
    assert (parameters - base).tolist() == [0, -0.5, 0, 0.5, 0, -0.5, 0, 0.5, 0]


@given(st_np.arrays(np.float32, st.integers(1, 30), elements=st.integers(-9, 9).map(float)))
def test_flare_mask_is_what_lies_above_the_median(residual: Float32) -> None:
    parameters, base = np.zeros_like(residual), np.zeros_like(residual)
    push_towards(parameters, base, residual, Layout((Tensor("a", (len(residual),), 0),)), 1.0)
    mask = np.abs(residual) > np.median(np.abs(residual))
    assert parameters.tolist() == (np.sign(residual) * mask).tolist()


def test_flare_pull_fades_and_stops(make_layout: MakeLayout) -> None:
    layout = make_layout([3], [])
    base, residual = np.zeros(3, np.float32), np.array([0, 0, 10], np.float32)
    flare = Flare(strength=8.0, decay=2.0, push_steps=2)

    def moved(step: int, uploads: int, start: float = 0.0) -> float:
        parameters = np.array([0, 0, start], np.float32)
        flare.push(step, parameters, base, residual, layout, 0.1, uploads)
        return float(parameters[2]) - start

    assert moved(0, uploads=0) == pytest.approx(0.4)
    assert moved(1, uploads=1) == pytest.approx(0.2)
    assert moved(2, uploads=0) == 0.0
    assert moved(1, uploads=0, start=12.0) == pytest.approx(-0.4), "beyond the target it pulls back"
    assert moved(1, uploads=0, start=10.0) == 0.0, "on the target it rests"


@given(st_np.arrays(np.float32, 12, elements=finite), st_np.arrays(np.float32, 12, elements=finite), st.integers(0, 3))
def test_flare_without_strength_is_top_k_bit_for_bit(total: Float32, residual: Float32, step: int) -> None:
    layout = Layout((Tensor("a", (7,), 0), Tensor("b", (5,), 7)))
    flare, top_k = Flare(strength=0.0, density=0.3), TopK(density=0.3)
    parameters = total.copy()
    flare.push(step, parameters, total, residual, layout, 0.1, 0)
    assert parameters.tobytes() == total.tobytes()
    left, right = flare.compress(total, layout), top_k.compress(total, layout)
    assert left.indices.tobytes() == right.indices.tobytes()
    assert left.values.tobytes() == right.values.tobytes()
    assert (flare.values, top_k.values) == (ValueEncoding.FLOAT16, ValueEncoding.INT8)
