"""Which operators of torch a graph is made of, beyond the core ones: each in terms of operators that ONNX has."""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from math import ceil, prod
from typing import Any

import torch
from torch._decomp import core_aten_decompositions, decomposition_table
from torch.nn import functional

from skerry.training import convolution
from skerry.training.convolution import Convolution, Forms
from skerry.training.export_error import ExportError

aten = torch.ops.aten

Table = dict[torch._ops.OperatorBase, Callable[..., Any]]


def table(forms: Mapping[Convolution, Forms]) -> Table:
    """Return the decompositions; `forms` says how the gradients of convolutions are computed."""
    found: Table = dict(core_aten_decompositions())
    # Left whole, batch norm converts without an error into ONNX's form for inference, and its gradient is wrong.
    for operator in (
        aten.native_batch_norm.default,
        aten._native_batch_norm_legit.default,
        aten._native_batch_norm_legit.no_stats,
    ):
        found[operator] = decomposition_table[operator]
    found[aten.convolution_backward.default] = _convolution_backward(forms)
    return found | _TABLE


def _convolution_backward(forms: Mapping[Convolution, Forms]) -> Callable[..., Any]:
    def run(
        gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, _bias_sizes: Any, *rest: Any
    ) -> tuple[torch.Tensor | None, ...]:
        *settings, wanted = rest
        layer = convolution.described(x, weight, settings)
        form = forms.get(layer) or Forms(convolution.weight_forms(layer)[0], convolution.input_forms(layer)[0])
        return (
            convolution.input_gradient(layer, form.input, gradient, weight) if wanted[0] else None,
            convolution.weight_gradient(layer, form.weight, gradient, x) if wanted[1] else None,
            gradient.sum([0, *range(2, gradient.dim())]) if wanted[2] else None,
        )

    return run


def _threshold_backward(gradient: torch.Tensor, x: torch.Tensor, threshold: float) -> torch.Tensor:
    """Let the gradient through where a ReLU did: a product, several times as fast in onnxruntime as a choice."""
    return gradient * (x > threshold).to(gradient.dtype)


def _variance_and_mean(
    x: torch.Tensor, axes: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    axes = list(axes) if axes else list(range(x.dim()))
    mean = x.mean(axes, keepdim=True)
    variance = (x - mean).square().mean(axes, keepdim=keepdim)
    less = 1 if correction is None else correction
    if less:
        count = prod(x.shape[axis] for axis in axes)
        variance = variance * (count / (count - less))
    return variance, mean if keepdim else x.mean(axes)


def _max_pool(
    x: torch.Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Any:
    """Return maxima and places, of pairs of pairs by comparing: twice as fast in onnxruntime as its own operator."""
    if x.dim() != 4 or not _pools_pairs(kernel, stride, padding, dilation, ceil_mode):
        return NotImplemented  # converts as it is
    above, below = (torch.maximum(*pair) for pair in _pairs(x))
    pooled = torch.maximum(above, below)
    return pooled, torch.zeros(pooled.shape, dtype=torch.int64)  # its gradient compares again


def _pools_pairs(
    kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], ceil_mode: bool
) -> bool:
    two, none, one = {2}, {0}, {1}
    return (
        set(kernel) == set(stride or kernel) == two and set(padding) == none and set(dilation) == one and not ceil_mode
    )


def _pairs(x: torch.Tensor) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Return what stands in each corner of the windows of two by two; an odd row or column at the end is in none."""
    height, width = (size // 2 * 2 for size in x.shape[2:])
    above, below = x[:, :, 0:height:2], x[:, :, 1:height:2]
    return (above[..., 0:width:2], above[..., 1:width:2]), (below[..., 0:width:2], below[..., 1:width:2])


def _pairs_backward(gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Send each gradient to the first of its window's maxima, in the order of rows: the winner of two comparisons."""
    above, below = _pairs(x)
    rows = []
    to_above = gradient * (torch.maximum(*above) >= torch.maximum(*below)).to(gradient.dtype)
    for (left, right), share in ((above, to_above), (below, gradient - to_above)):
        to_left = share * (left >= right).to(gradient.dtype)
        rows.append(torch.stack([to_left, share - to_left], -1).flatten(-2))
    found = torch.stack(rows, 3).flatten(2, 3)
    missing = [have - size for have, size in zip(x.shape[2:], found.shape[2:], strict=True)]
    return functional.pad(found, [0, missing[1], 0, missing[0]]) if any(missing) else found


def _max_pool_backward(
    gradient: torch.Tensor,
    x: torch.Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: torch.Tensor,
) -> torch.Tensor:
    """Send each gradient to where its maximum came from; `indices` count over the whole batch, as ONNX's do."""
    if x.dim() == 4 and _pools_pairs(kernel, stride, padding, dilation, ceil_mode):
        return _pairs_backward(gradient, x)
    flat = torch.zeros((x.numel(),), dtype=gradient.dtype)
    return aten.scatter_add(flat, 0, indices.reshape(-1), gradient.reshape(-1)).reshape(x.shape)


def _average_pool(
    x: torch.Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> torch.Tensor:
    """Scale the plain mean where a divisor is given, which ONNX has no way to say."""
    if divisor_override is None:
        return NotImplemented  # converts as it is
    if ceil_mode:
        raise ExportError("average pooling with a divisor of its own and ceil_mode has no ONNX form: leave out one")
    axes = x.dim() - 2
    pooled = (aten.avg_pool2d if axes == 2 else aten.avg_pool3d)(x, kernel, stride, padding)
    return pooled * (prod(_each(kernel, axes)) / divisor_override)


def _average_pool_backward(
    gradient: torch.Tensor,
    x: torch.Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> torch.Tensor:
    """Spread each gradient evenly over its window: a transposed convolution with ones."""
    places = x.shape[2:]
    kernel, stride, padding = (_each(values, len(places)) for values in (kernel, stride or kernel, padding))
    shares = torch.ones(())
    for axis, size in enumerate(places):
        counts = _window_sizes(
            size, gradient.shape[2 + axis], kernel[axis], stride[axis], padding[axis], count_include_pad
        )
        shares = shares.unsqueeze(-1) * torch.tensor(counts, dtype=gradient.dtype)
    divided = gradient / (shares if divisor_override is None else divisor_override)
    channels = x.shape[1]
    ones = torch.ones((channels, 1, *kernel), dtype=gradient.dtype)
    none = [0] * len(places)
    spread = aten.convolution(divided, ones, None, stride, none, [1] * len(places), True, none, channels)
    # What lies in the padding falls away; what no window reached gets nothing.
    missing = [max(0, p + n - have) for p, n, have in zip(padding, places, spread.shape[2:], strict=True)]
    if any(missing):
        spread = functional.pad(spread, [size for end in reversed(missing) for size in (0, end)])
    return spread[(slice(None), slice(None), *(slice(p, p + n) for p, n in zip(padding, places, strict=True)))]


def _window_sizes(size: int, outputs: int, kernel: int, stride: int, padding: int, padding_counts: bool) -> list[int]:
    """Return how many places each window averages over, along one axis, as torch counts them."""
    sizes = []
    for number in range(outputs):
        start = number * stride - padding
        end = min(start + kernel, size + padding)
        sizes.append(end - start if padding_counts else min(end, size) - max(start, 0))
    return sizes


def _adaptive_average(x: torch.Tensor, outputs: Sequence[int]) -> torch.Tensor:
    """Average over torch's windows of uneven size: a matrix product along each axis."""
    for axis, count in enumerate(outputs, start=x.dim() - len(outputs)):
        x = _along(x, axis, _averaging(x.shape[axis], count))
    return x


def _adaptive_average_backward(gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    for axis in range(2, x.dim()):
        gradient = _along(gradient, axis, _averaging(x.shape[axis], gradient.shape[axis]).t())
    return gradient


def _averaging(size: int, outputs: int) -> torch.Tensor:
    """Return the matrix (outputs, size) that averages over each window."""
    rows = [
        [1.0 / (end - start) if start <= place < end else 0.0 for place in range(size)]
        for start, end in _adaptive_windows(size, outputs)
    ]
    return torch.tensor(rows)


def _adaptive_windows(size: int, outputs: int) -> list[tuple[int, int]]:
    return [(number * size // outputs, ceil((number + 1) * size / outputs)) for number in range(outputs)]


def _along(x: torch.Tensor, axis: int, matrix: torch.Tensor) -> torch.Tensor:
    """Return `matrix` applied to one axis."""
    return torch.matmul(x.transpose(axis, -1), matrix.t()).transpose(axis, -1)


def _adaptive_max(x: torch.Tensor, outputs: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the maximum of each window, and its number among the places of one channel."""
    places = x.shape[-len(outputs) :]
    numbers = torch.arange(places.numel()).reshape(places)
    values, indices = [], []
    for window in product(*(_adaptive_windows(n, count) for n, count in zip(places, outputs, strict=True))):
        span = tuple(slice(start, end) for start, end in window)
        seen = x[(..., *span)].flatten(-len(outputs))
        at = seen.argmax(-1, keepdim=True)
        values.append(seen.gather(-1, at))
        indices.append(numbers[span].flatten()[at])
    shape = (*x.shape[: -len(outputs)], *outputs)
    return torch.cat(values, -1).reshape(shape), torch.cat(indices, -1).reshape(shape)


def _adaptive_max_backward(gradient: torch.Tensor, x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    lead = x.shape[:2]
    flat = torch.zeros((*lead, x.shape[2:].numel()), dtype=gradient.dtype)
    return aten.scatter_add(flat, 2, indices.reshape(*lead, -1), gradient.reshape(*lead, -1)).reshape(x.shape)


def _embedding_backward(
    gradient: torch.Tensor, indices: torch.Tensor, rows: int, padding_index: int, scale_by_frequency: bool
) -> torch.Tensor:
    """Add each position's gradient to the row that it looked up."""
    if scale_by_frequency:
        raise ExportError("an embedding that scales gradients by frequency has no ONNX form: set it to False")
    flat, wanted = gradient.reshape(-1, gradient.shape[-1]), indices.reshape(-1)
    if padding_index >= 0:
        flat = flat * (wanted != padding_index).unsqueeze(1)
    return aten.index_put(torch.zeros((rows, gradient.shape[-1]), dtype=gradient.dtype), [wanted], flat, True)


def _each(values: Sequence[int], axes: int) -> tuple[int, ...]:
    return tuple(values) * (axes // len(values))


def _empty(size: Sequence[int], _order: Sequence[int], *, dtype: torch.dtype | None = None, **_: Any) -> torch.Tensor:
    """Return a tensor that something else is about to fill."""
    return torch.zeros(size, dtype=dtype)


_TABLE: Table = {
    aten.empty_permuted.default: _empty,
    aten.var_mean.correction: _variance_and_mean,
    aten.threshold_backward.default: _threshold_backward,
    aten.max_pool2d_with_indices.default: _max_pool,
    aten.max_pool2d_with_indices_backward.default: _max_pool_backward,
    aten.max_pool3d_with_indices_backward.default: _max_pool_backward,
    aten.avg_pool2d.default: _average_pool,
    aten.avg_pool3d.default: _average_pool,
    aten.avg_pool2d_backward.default: _average_pool_backward,
    aten.avg_pool3d_backward.default: _average_pool_backward,
    aten._adaptive_avg_pool2d.default: _adaptive_average,
    aten._adaptive_avg_pool3d.default: _adaptive_average,
    aten._adaptive_avg_pool2d_backward.default: _adaptive_average_backward,
    aten._adaptive_avg_pool3d_backward.default: _adaptive_average_backward,
    aten.adaptive_max_pool2d.default: _adaptive_max,
    aten.adaptive_max_pool3d.default: _adaptive_max,
    aten.adaptive_max_pool2d_backward.default: _adaptive_max_backward,
    aten.adaptive_max_pool3d_backward.default: _adaptive_max_backward,
    aten.embedding_dense_backward.default: _embedding_backward,
}
