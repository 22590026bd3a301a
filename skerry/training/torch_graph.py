"""An ONNX graph run by torch, operator by operator, so that autograd can differentiate it, any number of times.

With it the torch engine needs nothing but the bundle: no code of the task's author, and nothing that is pickled.
Only what the wanted outputs depend on is run: for the loss of a step graph that is its forward half.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch.nn import functional

from skerry.errors import DataError

Attributes = dict[str, Any]
Operator = Callable[[Attributes, Sequence[Any]], Any]  # attributes, inputs (None where left out) -> output(s)

_TYPES: dict[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.BOOL: torch.bool,
}


class UnsupportedOperator(DataError):  # noqa: N818 - says what it is
    """A graph with an operator that this interpreter does not know; the onnx engine runs it."""


@dataclass(frozen=True)
class _Node:
    operator: Operator
    attributes: Attributes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class TorchGraph:
    """Some outputs of one ONNX graph, as a function of its inputs."""

    def __init__(self, graph: bytes, outputs: Sequence[str]) -> None:
        """Read `graph`, keeping what `outputs` depend on.

        Raises:
            UnsupportedOperator: among it is an operator with no counterpart here.
        """
        model = onnx.ModelProto.FromString(graph)
        self._outputs = tuple(outputs)
        self._constants = {
            tensor.name: torch.from_numpy(np.array(numpy_helper.to_array(tensor))) for tensor in model.graph.initializer
        }
        needed = set(outputs)
        nodes: list[_Node] = []
        for node in reversed(model.graph.node):
            if needed.isdisjoint(node.output):
                continue
            if node.domain or node.op_type not in OPERATORS:
                raise UnsupportedOperator(
                    f"the torch engine does not know {node.domain}{node.op_type}: use the onnx engine"
                )
            needed.update(node.input)
            attributes = {attribute.name: _attribute(attribute) for attribute in node.attribute}
            nodes.append(_Node(OPERATORS[node.op_type], attributes, tuple(node.input), tuple(node.output)))
        self._nodes = tuple(reversed(nodes))

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Return the outputs, in the order asked for."""
        values: dict[str, Any] = {**self._constants, **inputs}
        for node in self._nodes:
            result = node.operator(node.attributes, [values[name] if name else None for name in node.inputs])
            # Outputs at the end of an operator's list may be left out.
            values.update(zip(node.outputs, result if isinstance(result, tuple) else (result,), strict=False))
        return tuple(values[name] for name in self._outputs)


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return torch.from_numpy(np.array(numpy_helper.to_array(value)))
    return value.decode() if isinstance(value, bytes) else value


def _gemm(attributes: Attributes, inputs: Sequence[Any]) -> torch.Tensor:
    a, b, *bias = inputs
    a = a.t() if attributes.get("transA", 0) else a
    b = b.t() if attributes.get("transB", 0) else b
    product = attributes.get("alpha", 1.0) * (a @ b)
    return product + attributes.get("beta", 1.0) * bias[0] if bias and bias[0] is not None else product


def _reshape(attributes: Attributes, inputs: Sequence[Any]) -> torch.Tensor:
    tensor, shape = inputs[0], inputs[1].tolist()
    if not attributes.get("allowzero", 0):
        shape = [tensor.shape[place] if size == 0 else size for place, size in enumerate(shape)]
    return tensor.reshape(shape)


def _split(attributes: Attributes, inputs: Sequence[Any]) -> tuple[torch.Tensor, ...]:
    axis = attributes.get("axis", 0)
    if len(inputs) > 1:
        return tuple(torch.split(inputs[0], inputs[1].tolist(), axis))
    return tuple(torch.chunk(inputs[0], attributes["num_outputs"], axis))


def _reduction(reduce: Callable[..., torch.Tensor]) -> Operator:
    def run(attributes: Attributes, inputs: Sequence[Any]) -> torch.Tensor:
        tensor = inputs[0]
        axes = inputs[1].tolist() if len(inputs) > 1 and inputs[1] is not None else []
        if not axes:
            if attributes.get("noop_with_empty_axes", 0):
                return torch.as_tensor(tensor)
            axes = list(range(tensor.dim()))
        return reduce(tensor, axes, keepdim=bool(attributes.get("keepdims", 1))) if axes else tensor

    return run


def _squeeze(_attributes: Attributes, inputs: Sequence[Any]) -> torch.Tensor:
    axes = (
        tuple(inputs[1].tolist())
        if len(inputs) > 1
        else tuple(i for i, size in enumerate(inputs[0].shape) if size == 1)
    )
    return torch.squeeze(inputs[0], axes)


def _unsqueeze(_attributes: Attributes, inputs: Sequence[Any]) -> torch.Tensor:
    tensor, axes = inputs[0], inputs[1].tolist()
    for axis in sorted(axis % (tensor.dim() + len(axes)) for axis in axes):
        tensor = tensor.unsqueeze(axis)
    return torch.as_tensor(tensor)


def _expand(_attributes: Attributes, inputs: Sequence[Any]) -> torch.Tensor:
    tensor, shape = inputs
    return torch.broadcast_to(tensor, torch.broadcast_shapes(tensor.shape, shape.tolist()))


def _shape(attributes: Attributes, inputs: Sequence[Any]) -> torch.Tensor:
    sizes = list(inputs[0].shape)
    return torch.tensor(sizes[attributes.get("start", 0) : attributes.get("end", len(sizes))], dtype=torch.int64)


def _constant_of_shape(attributes: Attributes, inputs: Sequence[Any]) -> torch.Tensor:
    value = attributes.get("value", torch.zeros(1))
    return torch.full(inputs[0].tolist(), value.item(), dtype=value.dtype)


def _argmax(attributes: Attributes, inputs: Sequence[Any]) -> torch.Tensor:
    return torch.argmax(inputs[0], attributes.get("axis", 0), keepdim=bool(attributes.get("keepdims", 1)))


def _layer_normalization(attributes: Attributes, inputs: Sequence[Any]) -> tuple[torch.Tensor, ...]:
    tensor, scale, *bias = inputs
    axes = list(range(attributes.get("axis", -1) % tensor.dim(), tensor.dim()))
    mean = tensor.mean(axes, keepdim=True)
    variance = (tensor - mean).square().mean(axes, keepdim=True)
    inverse = torch.rsqrt(variance + attributes.get("epsilon", 1e-5))
    normal = (tensor - mean) * inverse * scale
    return (normal + bias[0] if bias and bias[0] is not None else normal), mean, inverse


def _where(_attributes: Attributes, inputs: Sequence[Any]) -> torch.Tensor:
    return torch.where(*inputs)


def _div(_attributes: Attributes, inputs: Sequence[Any]) -> torch.Tensor:
    return torch.div(*inputs, rounding_mode=None if inputs[0].is_floating_point() else "trunc")


def _gelu(attributes: Attributes, inputs: Sequence[Any]) -> torch.Tensor:
    return functional.gelu(inputs[0], approximate=attributes.get("approximate", "none"))


def _plain(function: Callable[..., torch.Tensor]) -> Operator:
    """An operator without attributes."""
    return lambda _attributes, inputs: function(*inputs)


OPERATORS: dict[str, Operator] = {
    "Abs": _plain(torch.abs),
    "Add": _plain(torch.add),
    "And": _plain(torch.logical_and),
    "ArgMax": _argmax,
    "Cast": lambda attributes, inputs: inputs[0].to(_TYPES[attributes["to"]]),
    "Clip": _plain(torch.clamp),
    "Concat": lambda attributes, inputs: torch.cat(list(inputs), attributes["axis"]),
    "Constant": lambda attributes, _inputs: attributes["value"],
    "ConstantOfShape": _constant_of_shape,
    "Div": _div,
    "Elu": lambda attributes, inputs: functional.elu(inputs[0], attributes.get("alpha", 1.0)),
    "Equal": _plain(torch.eq),
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Expand": _expand,
    "GatherElements": lambda attributes, inputs: torch.gather(inputs[0], attributes.get("axis", 0), inputs[1]),
    "Gelu": _gelu,
    "Gemm": _gemm,
    "Greater": _plain(torch.gt),
    "GreaterOrEqual": _plain(torch.ge),
    "HardSigmoid": lambda a, inputs: torch.clamp(a.get("alpha", 0.2) * inputs[0] + a.get("beta", 0.5), 0.0, 1.0),
    "HardSwish": _plain(functional.hardswish),
    "Identity": _plain(lambda tensor: tensor),
    "LeakyRelu": lambda attributes, inputs: functional.leaky_relu(inputs[0], attributes.get("alpha", 0.01)),
    "LayerNormalization": _layer_normalization,
    "Less": _plain(torch.lt),
    "LessOrEqual": _plain(torch.le),
    "Log": _plain(torch.log),
    "LogSoftmax": lambda attributes, inputs: torch.log_softmax(inputs[0], attributes.get("axis", -1)),
    "MatMul": _plain(torch.matmul),
    "Max": _plain(torch.maximum),
    "Min": _plain(torch.minimum),
    "Mul": _plain(torch.mul),
    "Neg": _plain(torch.neg),
    "Not": _plain(torch.logical_not),
    "Or": _plain(torch.logical_or),
    "Pow": _plain(torch.pow),
    "Reciprocal": _plain(torch.reciprocal),
    "ReduceMean": _reduction(torch.mean),
    "ReduceSum": _reduction(torch.sum),
    "Relu": _plain(torch.relu),
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": _plain(torch.sigmoid),
    "Softmax": lambda attributes, inputs: torch.softmax(inputs[0], attributes.get("axis", -1)),
    "Softplus": _plain(functional.softplus),
    "Split": _split,
    "Sqrt": _plain(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _plain(torch.sub),
    "Tanh": _plain(torch.tanh),
    "Transpose": lambda attributes, inputs: inputs[0].permute(attributes["perm"]),
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
