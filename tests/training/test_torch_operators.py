"""Every operator of the torch engine against onnxruntime, on random inputs: graphs of one node."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper

from skerry.training.onnx_engine import open_session

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from skerry.training.torch_graph import TorchGraph  # noqa: E402 - behind importorskip
from skerry.training.torch_operators import OPERATORS  # noqa: E402
from skerry.training.unsupported_operator import UnsupportedOperator  # noqa: E402

FLOAT, BOOL, INT = onnx.TensorProto.FLOAT, onnx.TensorProto.BOOL, onnx.TensorProto.INT64
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Case:
    operator: str
    inputs: tuple[Array | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1


def floats(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def positive(*shape: int) -> Array:
    return np.abs(floats(*shape)) + np.float32(0.1)


def ints(*values: Any) -> Array:
    return np.array(values, np.int64)


def bools(*shape: int, seed: int = 0) -> Array:
    return floats(*shape, seed=seed) > 0


A, B, ROW, IMAGES = floats(3, 4), floats(3, 4, seed=1), floats(4, seed=2), floats(2, 4, 7, 6)
TIES = np.maximum(np.round(IMAGES), 0.0).astype(np.float32)
WHOLE = ints([[7, -7, 3], [-3, 2, 0]])[0]
SCALAR = np.array(2.0, np.float32)

UNARY = "Abs Ceil Cos Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity LeakyRelu LogSoftmax Neg Relu Sigmoid Sign "
UNARY += "Sin Softmax Softplus Tanh Transpose Shape Size"

CASES = [
    *(Case(name, (A,)) for name in UNARY.split()),
    *(Case(name, (positive(3, 4),)) for name in ("Log", "Reciprocal", "Sqrt")),
    *(Case(name, (A, ROW)) for name in ("Add", "Div", "Max", "Min", "Mul", "Sub")),
    *(Case(name, (np.round(A), np.round(B))) for name in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")),
    *(Case(name, (bools(3, 4), bools(3, 4, seed=1))) for name in ("And", "Or")),
    Case("Not", (bools(3, 4),)),
    Case("Pow", (positive(3, 4), SCALAR)),
    Case("Max", (A, B, ROW)),
    Case("Min", (A,)),
    Case("Div", (WHOLE, ints(2, -2, 4))),
    Case("Where", (bools(3, 4), A, SCALAR)),
    Case("Clip", (A, np.array(-0.5, np.float32))),
    Case("Clip", (A, None, np.array(0.5, np.float32))),
    *(Case("Cast", (A * 3,), {"to": to}) for to in (FLOAT, INT, BOOL, onnx.TensorProto.INT32, onnx.TensorProto.DOUBLE)),
    Case("Elu", (A,), {"alpha": 1.7}),
    Case("LeakyRelu", (A,), {"alpha": 0.3}),
    Case("HardSigmoid", (A,), {"alpha": 0.3, "beta": 0.4}),
    Case("Gelu", (A,), {"approximate": "tanh"}),
    Case("Softmax", (A,), {"axis": 0}),
    Case("LogSoftmax", (A,), {"axis": 0}),
    Case("MatMul", (floats(2, 3, 4), floats(4, 5))),
    Case("Gemm", (A, floats(4, 2))),
    Case("Gemm", (A, floats(2, 4), floats(2)), {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    Case("Gemm", (A, floats(3, 2), floats(4, 1)), {"transA": 1}),
    # shapes
    Case("Reshape", (A, ints(2, -1))),
    Case("Reshape", (A, ints(0, 2, 2))),
    Case("Reshape", (floats(0, 4), ints(4, 0)), {"allowzero": 1}),
    Case("Transpose", (IMAGES,), {"perm": [0, 2, 3, 1]}),
    Case("Concat", (A, B), {"axis": -1}),
    Case("Split", (A, ints(1, 3)), {"axis": 1}, 2),
    Case("Split", (floats(5, 2),), {"num_outputs": 2}, 2),
    Case("Squeeze", (floats(1, 3, 1), ints(0))),
    Case("Squeeze", (floats(1, 3, 1),)),
    Case("Unsqueeze", (A, ints(-1, 1))),
    Case("Expand", (ROW, ints(2, 1, 4))),
    Case("Expand", (A, ints(1))),
    Case("Tile", (A, ints(2, 3))),
    Case("Shape", (IMAGES,), {"start": 1, "end": -1}),
    Case("ConstantOfShape", (ints(2, 3),)),
    Case("ConstantOfShape", (ints(2, 3),), {"value": helper.make_tensor("", INT, [1], [7])}),
    Case("Constant", (), {"value": helper.make_tensor("", FLOAT, [2], [1.0, 2.0])}),
    Case("Range", (ints(2)[0], ints(11)[0], ints(3)[0])),
    Case("Slice", (IMAGES, ints(1), ints(5), ints(2), ints(2))),
    Case("Slice", (IMAGES, ints(-3, 0), ints(9999, -1), ints(-1, 1))),
    Case("Slice", (A, ints(1, 0), ints(3, 2))),
    Case("Slice", (IMAGES, ints(-1), ints(np.iinfo(np.int64).min), ints(3), ints(-2))),
    Case("Slice", (A, ints(3), ints(1), ints(1), ints(1))),  # of nothing
    Case("Pad", (A, ints(1, 0, 2, 3))),
    Case("Pad", (A, ints(1, 2), SCALAR, ints(-1))),
    Case("Pad", (A, ints(-1, 1, 0, -1))),
    *(Case("Pad", (IMAGES, ints(0, 0, 2, 3, 0, 1, 0, 5)), {"mode": mode}) for mode in ("edge", "reflect", "wrap")),
    Case("Trilu", (A,)),
    Case("Trilu", (A, ints(-1)[0]), {"upper": 0}),
    # reductions
    *(Case(f"Reduce{name}", (IMAGES, ints(1, -1))) for name in ("L1", "L2", "Max", "Mean", "Min", "Sum")),
    *(Case(f"Reduce{name}", (IMAGES,), {"keepdims": 0}) for name in ("L1", "L2", "Max", "Mean", "Min", "Sum")),
    Case("ReduceSum", (A, ints()), {"noop_with_empty_axes": 1}),
    Case("ReduceSum", (SCALAR,), {"keepdims": 0}),
    Case("ArgMax", (np.round(A),), {"axis": -1, "keepdims": 0}),
    Case("ArgMax", (np.round(A),)),
    *(Case("CumSum", (A, ints(1)[0]), {"exclusive": e, "reverse": r}) for e in (0, 1) for r in (0, 1)),
    # places
    Case("Gather", (A, ints([[0, -1], [2, 1]]).reshape(2, 2))),
    Case("Gather", (A, ints(1)[0]), {"axis": 1}),
    Case("Gather", (IMAGES, ints(3, 0, -2)), {"axis": 2}),
    Case("GatherElements", (A, ints([0, -1], [2, 1])), {"axis": 1}),
    Case("GatherND", (IMAGES, ints([0, 3], [-1, 1]))),
    Case("ScatterElements", (A, ints([0, -1], [2, 1]), floats(2, 2)), {"axis": 1}),
    Case("ScatterElements", (A, ints([0, 0], [2, 0]), floats(2, 2)), {"reduction": "add"}),
    Case("ScatterND", (A, ints([2], [-3]), floats(2, 4))),
    Case("ScatterND", (A, ints([2, 1], [2, 1]), floats(2)), {"reduction": "add"}),
    # layers
    Case("Conv", (IMAGES, floats(6, 4, 3, 2), floats(6)), {"strides": [2, 1], "pads": [1, 2, 1, 2]}),
    Case("Conv", (IMAGES, floats(6, 2, 3, 3)), {"group": 2, "dilations": [2, 1], "kernel_shape": [3, 3]}),
    Case("Conv", (floats(2, 3, 9), floats(2, 3, 4)), {"auto_pad": "NOTSET"}),
    Case("Conv", (floats(2, 1, 4, 4, 4), floats(2, 1, 3, 3, 3))),
    Case("ConvTranspose", (IMAGES, floats(4, 3, 3, 2), floats(3)), {"strides": [2, 3], "output_padding": [1, 0]}),
    Case("ConvTranspose", (IMAGES, floats(4, 3, 3, 3)), {"group": 2, "dilations": [2, 1], "pads": [1, 1, 1, 1]}),
    Case("ConvTranspose", (floats(2, 3, 9), floats(3, 2, 4))),
    Case("MaxPool", (TIES,), {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 0]}, 2),
    Case("MaxPool", (TIES,), {"kernel_shape": [2, 2], "dilations": [2, 1]}, 2),
    Case("MaxPool", (IMAGES,), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, 2),
    Case("MaxPool", (floats(2, 3, 9),), {"kernel_shape": [3]}, 2),
    Case("MaxPool", (floats(2, 3, 4, 4, 4),), {"kernel_shape": [2, 2, 2]}),
    Case("AveragePool", (IMAGES,), {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Case("AveragePool", (IMAGES,), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    Case("AveragePool", (IMAGES,), {"kernel_shape": [2, 4], "strides": [2, 3], "ceil_mode": 1}),
    Case("AveragePool", (floats(2, 3, 9),), {"kernel_shape": [3]}),
    Case("AveragePool", (floats(2, 3, 4, 4, 4),), {"kernel_shape": [2, 2, 2]}),
    Case("BatchNormalization", (IMAGES, ROW, ROW, floats(4), positive(4)), {"epsilon": 0.01}),
    Case("InstanceNormalization", (IMAGES, ROW, floats(4)), {"epsilon": 0.01}),
    Case("LayerNormalization", (IMAGES, floats(7, 6), floats(7, 6)), {"axis": 2, "epsilon": 0.01}, 3),
    Case("LayerNormalization", (A, ROW)),
]


def graph_of(case: Case) -> bytes:
    names = ["" if given is None else f"in{number}" for number, given in enumerate(case.inputs)]
    node = helper.make_node(case.operator, names, [f"out{number}" for number in range(case.outputs)], **case.attributes)
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(given.dtype), given.shape)
        for name, given in zip(names, case.inputs, strict=True)
        if given is not None
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    graph = helper.make_graph([node], "one", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    data: bytes = onnx.shape_inference.infer_shapes(model).SerializeToString()
    return data


def given_to(case: Case) -> dict[str, Array]:
    return {f"in{number}": np.asarray(given) for number, given in enumerate(case.inputs) if given is not None}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.operator)
def test_an_operator_gives_what_onnxruntime_gives(case: Case) -> None:
    graph, inputs = graph_of(case), given_to(case)
    expected = open_session(graph, 1, "test").run(None, inputs)
    found = TorchGraph(graph, [f"out{number}" for number in range(case.outputs)])(
        {name: torch.from_numpy(array) for name, array in inputs.items()}
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.numpy().dtype == theirs.dtype
        assert ours.numpy().shape == theirs.shape
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=2e-6)


def test_every_operator_has_a_case() -> None:
    assert {case.operator for case in CASES} == set(OPERATORS)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (Case("Conv", (IMAGES, floats(4, 4, 3, 3)), {"auto_pad": "SAME_UPPER"}), "Conv with auto_pad SAME_UPPER"),
        (Case("Conv", (IMAGES, floats(4, 4, 3, 3)), {"pads": [0, 0, 1, 1]}), "Conv with unequal padding"),
        (Case("ConvTranspose", (IMAGES, floats(4, 4, 3, 3)), {"output_shape": [9, 9]}), "form of ConvTranspose"),
        (Case("MaxPool", (IMAGES,), {"kernel_shape": [2, 2], "storage_order": 1}), "MaxPool with storage_order 1"),
        (Case("AveragePool", (IMAGES,), {"kernel_shape": [2, 2], "dilations": [2, 2]}), "AveragePool with dilations"),
        (Case("ArgMax", (A,), {"select_last_index": 1}), "ArgMax with select_last_index"),
        (Case("GatherND", (IMAGES, ints([0], [0])), {"batch_dims": 1}), "GatherND with batch_dims"),
        (Case("ScatterND", (A, ints([0]), floats(1, 4)), {"reduction": "mul"}), "ScatterND with reduction mul"),
        (Case("ScatterElements", (A, ints([0]), floats(1, 1)), {"reduction": "max"}), "with reduction max"),
        (Case("Cast", (A,), {"to": onnx.TensorProto.FLOAT16}), "Cast to type 10"),
        (Case("BatchNormalization", (IMAGES, ROW, ROW, ROW, ROW), {"training_mode": 1}, 3), "with training_mode"),
    ],
    ids=lambda value: value.operator if isinstance(value, Case) else "",
)
def test_a_form_that_it_does_not_know_is_refused_and_not_guessed(case: Case, said: str) -> None:
    with pytest.raises(UnsupportedOperator, match=f"does not know .*{said}.*: use the onnx engine"):
        TorchGraph(graph_of(case), ["out0"])
