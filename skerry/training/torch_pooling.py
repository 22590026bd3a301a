"""Turns max pooling of two by two that is written as comparisons back into one operator.

The exporter writes it so because onnxruntime is faster then (`skerry.training.decompositions`). Torch is not; and only
of its own operator does the first of equal maxima get the whole gradient, as in the bundle's step: of two equal values
that are compared, autograd gives each a half.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import onnx
from onnx import helper, numpy_helper

STARTS = ((0, 0), (0, 1), (1, 0), (1, 1))  # of the corners of a window, in the order in which they are compared


class _Cut(NamedTuple):
    """Every second entry along one axis of `source`."""

    source: str
    axis: int
    start: int
    end: int


def pool_again(graph: onnx.GraphProto) -> None:
    """Write a MaxPool in place of every Max that compares the corners of windows of two by two."""
    producers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if list(tensor.dims) == [1]}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        pooled = _pooled(node, producers, constants)
        if pooled is None:
            nodes.append(node)
            continue
        source, ends = pooled
        start, end, axes, windows = (f"{node.output[0]}.{name}" for name in ("start", "end", "axes", "windows"))
        for name, values in ((start, (0, 0)), (end, ends), (axes, (2, 3))):
            graph.initializer.append(helper.make_tensor(name, onnx.TensorProto.INT64, [2], values))
        nodes.append(helper.make_node("Slice", [source, start, end, axes], [windows]))
        nodes.append(helper.make_node("MaxPool", [windows], [node.output[0]], kernel_shape=[2, 2], strides=[2, 2]))
    del graph.node[:]
    graph.node.extend(nodes)


def _pooled(
    node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto], constants: Mapping[str, Any]
) -> tuple[str, tuple[int, int]] | None:
    """Return what `node` pools and where its rows and columns end, or None where it does not pool."""
    names = [name for pair in _compared(node) for name in _compared(producers.get(pair))]
    if len(names) != len(STARTS):
        return None
    windows = set()
    for name, starts in zip(names, STARTS, strict=True):
        column = _cut(name, producers, constants)
        row = _cut(column.source, producers, constants) if column else None
        if not row or not column or (row.axis, column.axis) != (2, 3) or (row.start, column.start) != starts:
            return None
        windows.add((row.source, (row.end, column.end)))
    return windows.pop() if len(windows) == 1 else None


def _compared(node: onnx.NodeProto | None) -> list[str]:
    return list(node.input) if node is not None and node.op_type == "Max" and len(node.input) == 2 else []


def _cut(name: str, producers: Mapping[str, onnx.NodeProto], constants: Mapping[str, Any]) -> _Cut | None:
    node = producers.get(name)
    if (
        node is None
        or node.op_type != "Slice"
        or len(node.input) != 5
        or not all(given in constants for given in node.input[1:])
    ):
        return None
    start, end, axis, step = (int(constants[given][0]) for given in node.input[1:])
    return _Cut(node.input[0], axis, start, end) if step == 2 else None
