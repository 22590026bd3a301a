import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from safetensors.numpy import load, save

from skerry.errors import DataError
from skerry.tasks.model_file import from_safetensors, to_safetensors
from skerry.vector import Layout, Tensor

LAYOUT = Layout((Tensor("weight", (2, 3), 0), Tensor("scale", (), 6), Tensor("mean", (2,), 7, trainable=False)))
VECTOR = np.arange(9, dtype=np.float32)


@given(st_numpy.arrays(np.float32, 9, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_a_vector_survives_bit_for_bit(vector: np.ndarray) -> None:
    assert from_safetensors(LAYOUT, to_safetensors(LAYOUT, vector)).tobytes() == vector.tobytes()


def test_others_find_the_tensors_by_name_and_shape() -> None:
    tensors = load(to_safetensors(LAYOUT, VECTOR, {"version": "7"}))
    np.testing.assert_array_equal(tensors["weight"], [[0, 1, 2], [3, 4, 5]])
    assert tensors["scale"].shape == ()
    np.testing.assert_array_equal(tensors["mean"], [7, 8])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mean": None}, "do not fit the layout: mean"),
        ({"more": np.zeros(1, np.float32)}, "do not fit the layout: more"),
        ({"mean": np.zeros(3, np.float32)}, r"'mean' is float32 \(3,\)"),
        ({"mean": np.zeros(2, np.float64)}, "'mean' is float64"),
        ({"mean": np.array([0.0, np.nan], np.float32)}, "not finite"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: dict[str, np.ndarray | None], reason: str) -> None:
    tensors = load(to_safetensors(LAYOUT, VECTOR)) | change
    data = save({name: values for name, values in tensors.items() if values is not None})
    with pytest.raises(DataError, match=reason):
        from_safetensors(LAYOUT, data)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(DataError):
        from_safetensors(LAYOUT, data)
