"""An ONNX graph run by torch, operator by operator, so that autograd can differentiate it, any number of times.

With it the torch engine needs nothing but the bundle: no code of the task's author, and nothing that is pickled.
Only what the wanted outputs depend on is run: for the loss of a step graph that is its forward half.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from skerry.training.torch_operators import OPERATORS, Function
from skerry.training.torch_pooling import pool_again
from skerry.training.unsupported_operator import UnsupportedOperator, require


@dataclass(frozen=True, slots=True)
class _Node:
    function: Function
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class TorchGraph:
    """Some outputs of one ONNX graph, as a function of its inputs."""

    def __init__(self, graph: bytes, outputs: Sequence[str]) -> None:
        """Read `graph`, keeping what `outputs` depend on; what depends on no input is worked out once, here.

        Raises:
            UnsupportedOperator: among it is an operator, or a form of one, with no counterpart here.
        """
        model = onnx.ModelProto.FromString(graph)
        pool_again(model.graph)
        self._outputs = tuple(outputs)
        needed = set(outputs)
        nodes: list[onnx.NodeProto] = []
        for node in reversed(model.graph.node):
            if not needed.isdisjoint(node.output):
                needed.update(node.input)
                nodes.append(node)
        self._constants: dict[str, Any] = {
            tensor.name: _tensor(tensor) for tensor in model.graph.initializer if tensor.name in needed
        }
        self._constants[""] = None  # an input that is left out
        self._nodes: list[_Node] = []
        for node in reversed(nodes):
            read = _Node(_function(node), tuple(node.input), tuple(node.output))
            if all(name in self._constants for name in read.inputs):
                _run(read, self._constants)
            else:
                self._nodes.append(read)

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Return the outputs, in the order asked for."""
        values = self._constants | dict(inputs)
        for node in self._nodes:
            _run(node, values)
        return tuple(values[name] for name in self._outputs)


def _run(node: _Node, values: dict[str, Any]) -> None:
    result = node.function(*[values[name] for name in node.inputs])
    results = result if isinstance(result, tuple) else (result,)
    # An operator's outputs may be left out: the last ones, or any by an empty name.
    values.update({name: value for name, value in zip(node.outputs, results, strict=False) if name})


def _function(node: onnx.NodeProto) -> Function:
    require(not node.domain and node.op_type in OPERATORS, f"{node.domain}{node.op_type}")
    attributes = {attribute.name: _attribute(attribute) for attribute in node.attribute}
    build = OPERATORS[node.op_type]
    try:
        signature(build).bind(**attributes)
    except TypeError as error:
        raise UnsupportedOperator(
            f"the torch engine does not know this form of {node.op_type}: {error}: use the onnx engine"
        ) from error
    return build(**attributes)


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return _tensor(value)
    return value.decode() if isinstance(value, bytes) else value


def _tensor(tensor: onnx.TensorProto) -> torch.Tensor:
    return torch.from_numpy(np.array(numpy_helper.to_array(tensor)))
