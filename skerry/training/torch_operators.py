"""ONNX's operators (opset 20) in torch, differentiable: what `skerry.training.torch_graph` runs a graph with.

An entry of the table takes a node's attributes by their names and returns a function of its inputs, None where one is
left out. So an attribute that an entry does not take, or a value that it does not know, is refused when a graph is
read.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import onnx
import torch
from torch.nn import functional

from skerry.training.torch_layers import LAYERS
from skerry.training.unsupported_operator import require

Function = Callable[..., Any]  # inputs -> output, or a tuple of outputs

_TYPES: dict[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.BOOL: torch.bool,
}


def _plain(function: Function) -> Callable[[], Function]:
    """An operator without attributes."""
    return lambda: function


def _of_any_number(function: Function) -> Callable[[], Function]:
    """An operator without attributes on one or more inputs."""
    return lambda: lambda *inputs: reduce(function, inputs)


def _cast(*, to: int) -> Function:
    require(to in _TYPES, f"Cast to type {to}")
    return lambda tensor: tensor.to(_TYPES[to])


def _gemm(*, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0) -> Function:  # noqa: N803
    def run(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        a, b = a.t() if transA else a, b.t() if transB else b
        return alpha * (a @ b) if bias is None else torch.addmm(bias, a, b, beta=beta, alpha=alpha)

    return run


# --- shapes ---


def _reshape(*, allowzero: int = 0) -> Function:
    def run(tensor: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
        sizes = shape.tolist()
        if not allowzero:
            sizes = [tensor.shape[place] if size == 0 else size for place, size in enumerate(sizes)]
        return tensor.reshape(sizes)

    return run


def _split(*, axis: int = 0, num_outputs: int | None = None) -> Function:
    def run(tensor: torch.Tensor, sizes: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        return tuple(torch.chunk(tensor, num_outputs, axis) if sizes is None else tensor.split(sizes.tolist(), axis))

    return run


def _transpose(*, perm: Sequence[int] = ()) -> Function:
    return lambda tensor: tensor.permute(perm or list(reversed(range(tensor.dim()))))


def _squeeze(tensor: torch.Tensor, axes: torch.Tensor | None = None) -> torch.Tensor:
    return tensor.squeeze() if axes is None else tensor.squeeze(axes.tolist())


def _unsqueeze(tensor: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
    numbers = axes.tolist()
    for axis in sorted(axis % (tensor.dim() + len(numbers)) for axis in numbers):
        tensor = tensor.unsqueeze(axis)
    return tensor


def _expand(tensor: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
    return tensor.expand(torch.broadcast_shapes(tensor.shape, shape.tolist()))


def _shape(*, start: int = 0, end: int | None = None) -> Function:
    return lambda tensor: torch.tensor(tensor.shape[start:end], dtype=torch.int64)


def _constant_of_shape(*, value: torch.Tensor | None = None) -> Function:
    value = torch.zeros(1) if value is None else value
    return lambda shape: torch.full(shape.tolist(), value.item(), dtype=value.dtype)


def _range(start: torch.Tensor, limit: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _slice(
    tensor: torch.Tensor,
    starts: torch.Tensor,
    ends: torch.Tensor,
    axes: torch.Tensor | None = None,
    steps: torch.Tensor | None = None,
) -> torch.Tensor:
    numbers = range(len(starts)) if axes is None else axes.tolist()
    strides = [1] * len(starts) if steps is None else steps.tolist()
    for axis, start, end, step in zip(numbers, starts.tolist(), ends.tolist(), strides, strict=True):
        places = range(tensor.shape[axis])[start:end:step]
        if places == range(tensor.shape[axis]):
            continue  # of nothing cut off there need not be a gradient
        if step > 0:
            tensor = torch.ops.aten.slice(tensor, axis, places.start, max(places.start, places.stop), step)
        else:
            tensor = tensor.index_select(axis, torch.tensor(places, dtype=torch.int64))
    return tensor


def _pad(*, mode: str = "constant") -> Function:
    require(mode in ("constant", *_PADDED_PLACES), f"Pad with mode {mode}")

    def run(
        tensor: torch.Tensor, pads: torch.Tensor, value: torch.Tensor | None = None, axes: torch.Tensor | None = None
    ) -> torch.Tensor:
        numbers = range(tensor.dim()) if axes is None else [axis % tensor.dim() for axis in axes.tolist()]
        before, after = pads.reshape(2, -1).tolist()
        around = {axis: pair for axis, *pair in zip(numbers, before, after, strict=True)}
        if mode == "constant":
            flat = [size for axis in reversed(range(tensor.dim())) for size in around.get(axis, (0, 0))]
            return functional.pad(tensor, flat, value=0 if value is None else value.item())
        for axis, (start, end) in around.items():
            if start or end:
                size = tensor.shape[axis]
                tensor = tensor.index_select(axis, _PADDED_PLACES[mode](torch.arange(-start, size + end), size))
        return tensor

    return run


def _reflected(places: torch.Tensor, size: int) -> torch.Tensor:
    around = places % max(2 * (size - 1), 1)
    return torch.minimum(around, 2 * (size - 1) - around)


_PADDED_PLACES: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {  # which entries of an axis padding repeats
    "edge": lambda places, size: places.clamp(0, size - 1),
    "reflect": _reflected,
    "wrap": lambda places, size: places % size,
}


# --- reductions ---


def _reduction(function: Function) -> Callable[..., Function]:
    def build(*, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Function:
        def run(tensor: torch.Tensor, axes: torch.Tensor | None = None) -> torch.Tensor:
            numbers = [] if axes is None else axes.tolist()
            if not numbers:
                if noop_with_empty_axes or tensor.dim() == 0:
                    return tensor
                numbers = list(range(tensor.dim()))
            reduced: torch.Tensor = function(tensor, dim=numbers, keepdim=bool(keepdims))
            return reduced

        return run

    return build


def _norm(order: int) -> Function:
    return lambda tensor, dim, keepdim: torch.linalg.vector_norm(tensor, order, dim, keepdim)


def _argmax(*, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Function:
    require(not select_last_index, "ArgMax with select_last_index")
    return lambda tensor: tensor.argmax(axis, keepdim=bool(keepdims))


def _cumulative_sum(*, exclusive: int = 0, reverse: int = 0) -> Function:
    def run(tensor: torch.Tensor, axis_input: torch.Tensor) -> torch.Tensor:
        axis = int(axis_input.item())
        summed = (tensor.flip(axis) if reverse else tensor).cumsum(axis, dtype=tensor.dtype)
        if exclusive:
            before = torch.zeros_like(summed.narrow(axis, 0, 1))
            summed = torch.cat([before, summed.narrow(axis, 0, summed.shape[axis] - 1)], axis)
        return summed.flip(axis) if reverse else summed

    return run


# --- places: gathering, scattering ---


def _counted(indices: torch.Tensor, size: int) -> torch.Tensor:
    """Return `indices` with negative ones, which count from the end, as places."""
    return torch.where(indices < 0, indices + size, indices)


def _gather(*, axis: int = 0) -> Function:
    def run(tensor: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        at = axis % tensor.dim()
        places = _counted(indices, tensor.shape[at])
        if at == 0 and tensor.dim() == 2:  # as in an embedding, whose gradient torch adds up in a kernel of its own
            return functional.embedding(places, tensor)
        shape = (*tensor.shape[:at], *indices.shape, *tensor.shape[at + 1 :])
        return tensor.index_select(at, places.reshape(-1)).reshape(shape)

    return run


def _gather_elements(*, axis: int = 0) -> Function:
    return lambda tensor, indices: tensor.gather(axis, _counted(indices, tensor.shape[axis]))


def _gather_nd(*, batch_dims: int = 0) -> Function:
    require(batch_dims == 0, "GatherND with batch_dims")
    return lambda tensor, indices: tensor[indices.unbind(-1)]


def _scatter_elements(*, axis: int = 0, reduction: str = "none") -> Function:
    require(reduction in ("none", "add"), f"ScatterElements with reduction {reduction}")
    put = torch.scatter if reduction == "none" else torch.scatter_add
    return lambda tensor, indices, updates: put(tensor, axis, _counted(indices, tensor.shape[axis]), updates)


def _scatter_nd(*, reduction: str = "none") -> Function:
    require(reduction in ("none", "add"), f"ScatterND with reduction {reduction}")
    return lambda tensor, indices, updates: tensor.index_put(indices.unbind(-1), updates, reduction == "add")


def _trilu(*, upper: int = 1) -> Function:
    keep = torch.triu if upper else torch.tril
    return lambda tensor, diagonal=None: keep(tensor, 0 if diagonal is None else int(diagonal.item()))


def _div(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc")


OPERATORS: dict[str, Callable[..., Function]] = {
    "Abs": _plain(torch.abs),
    "Add": _plain(torch.add),
    "And": _plain(torch.logical_and),
    "ArgMax": _argmax,
    "Cast": _cast,
    "Ceil": _plain(torch.ceil),
    "Clip": _plain(torch.clamp),
    "Concat": lambda *, axis: lambda *inputs: torch.cat(inputs, axis),
    "Constant": lambda *, value: lambda: value,
    "ConstantOfShape": _constant_of_shape,
    "Cos": _plain(torch.cos),
    "CumSum": _cumulative_sum,
    "Div": _plain(_div),
    "Elu": lambda *, alpha=1.0: lambda tensor: functional.elu(tensor, alpha),
    "Equal": _plain(torch.eq),
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Expand": _plain(_expand),
    "Floor": _plain(torch.floor),
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Gelu": lambda *, approximate="none": lambda tensor: functional.gelu(tensor, approximate=approximate),
    "Gemm": _gemm,
    "Greater": _plain(torch.gt),
    "GreaterOrEqual": _plain(torch.ge),
    "HardSigmoid": lambda *, alpha=0.2, beta=0.5: lambda tensor: torch.clamp(alpha * tensor + beta, 0.0, 1.0),
    "HardSwish": _plain(functional.hardswish),
    "Identity": _plain(lambda tensor: tensor),
    "LeakyRelu": lambda *, alpha=0.01: lambda tensor: functional.leaky_relu(tensor, alpha),
    "Less": _plain(torch.lt),
    "LessOrEqual": _plain(torch.le),
    "Log": _plain(torch.log),
    "LogSoftmax": lambda *, axis=-1: lambda tensor: torch.log_softmax(tensor, axis),
    "MatMul": _plain(torch.matmul),
    "Max": _of_any_number(torch.maximum),
    "Min": _of_any_number(torch.minimum),
    "Mul": _plain(torch.mul),
    "Neg": _plain(torch.neg),
    "Not": _plain(torch.logical_not),
    "Or": _plain(torch.logical_or),
    "Pad": _pad,
    "Pow": _plain(torch.pow),
    "Range": _plain(_range),
    "Reciprocal": _plain(torch.reciprocal),
    "ReduceL1": _reduction(_norm(1)),
    "ReduceL2": _reduction(_norm(2)),
    "ReduceMax": _reduction(torch.amax),
    "ReduceMean": _reduction(torch.mean),
    "ReduceMin": _reduction(torch.amin),
    "ReduceSum": _reduction(torch.sum),
    "Relu": _plain(torch.relu),
    "Reshape": _reshape,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Shape": _shape,
    "Sigmoid": _plain(torch.sigmoid),
    "Sign": _plain(torch.sign),
    "Sin": _plain(torch.sin),
    "Size": _plain(lambda tensor: torch.tensor(tensor.numel())),
    "Slice": _plain(_slice),
    "Softmax": lambda *, axis=-1: lambda tensor: torch.softmax(tensor, axis),
    "Softplus": _plain(functional.softplus),
    "Split": _split,
    "Sqrt": _plain(torch.sqrt),
    "Squeeze": _plain(_squeeze),
    "Sub": _plain(torch.sub),
    "Tanh": _plain(torch.tanh),
    "Tile": _plain(lambda tensor, repeats: tensor.repeat(repeats.tolist())),
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _plain(_unsqueeze),
    "Where": _plain(torch.where),
    **LAYERS,
}
