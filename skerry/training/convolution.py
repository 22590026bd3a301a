"""The gradients of convolutions in operators that ONNX has, in several forms; which is fastest depends on the shapes.

Which one a layer gets is found by `skerry.training.form_choice`. All forms compute the same sums in another order.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any, Literal, NamedTuple

import torch
from torch.nn import functional

from skerry.training.export_error import ExportError

aten = torch.ops.aten

WeightForm = Literal["convolution", "products", "batched", "products_last", "batched_last", "grouped"]
InputForm = Literal["transposed", "rotated"]


class Convolution(NamedTuple):
    """One layer's sizes, those of a batch left out."""

    input: tuple[int, ...]  # (channels, *places)
    weight: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int

    @property
    def output(self) -> tuple[int, ...]:
        """Places of the output."""
        sizes: Iterable[tuple[int, ...]] = zip(
            self.input[1:], self.weight[2:], self.stride, self.padding, self.dilation, self.output_padding, strict=True
        )
        if self.transposed:
            return tuple((n - 1) * s - 2 * p + d * (k - 1) + o + 1 for n, k, s, p, d, o in sizes)
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d, _ in sizes)

    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return the convolution without a bias."""
        return aten.convolution(
            x, weight, None, self.stride, self.padding, self.dilation, self.transposed, self.output_padding, self.groups
        )


class Forms(NamedTuple):
    """How the two gradients of one layer are computed."""

    weight: WeightForm
    input: InputForm


def described(x: torch.Tensor, weight: torch.Tensor, rest: Sequence[Any]) -> Convolution:
    """Return the layer that `aten.convolution`'s arguments behind the bias describe.

    Raises:
        ExportError: the places of the input are not known beforehand.
    """
    dimensions: int = x.dim() - 2
    stride, padding, dilation, transposed, output_padding, groups = rest
    if any(not isinstance(size, int) for size in x.shape[1:]):
        raise ExportError(f"convolves an input of shape {tuple(x.shape)}: only the batch may vary in size")

    def each(values: Sequence[int]) -> tuple[int, ...]:
        return tuple(values) * (dimensions // len(values))

    return Convolution(
        tuple(x.shape[1:]),
        tuple(weight.shape),
        each(stride),
        each(padding),
        each(dilation),
        transposed,
        each(output_padding) if transposed else (0,) * dimensions,
        groups,
    )


def weight_forms(layer: Convolution) -> tuple[WeightForm, ...]:
    """Return the forms of the weight's gradient that fit, the one to take without measuring first."""
    if layer.groups > 1:
        return ("grouped",)
    return ("products_last", "batched_last", "products", "batched", "convolution")


def input_forms(layer: Convolution) -> tuple[InputForm, ...]:
    """Return the forms of the input's gradient that fit, the one to take without measuring first."""
    whole_steps = set(layer.stride) == {1} and not layer.transposed and layer.groups == 1
    reach = zip(layer.weight[2:], layer.padding, layer.dilation, strict=True)
    if whole_steps and all(d * (k - 1) >= p for k, p, d in reach):
        return ("rotated", "transposed")
    return ("transposed",)


def input_gradient(layer: Convolution, form: InputForm, gradient: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the gradient of the layer's input, shape (examples, *layer.input).

    `gradient` is that of the output.
    """
    if layer.transposed:  # its adjoint is the plain convolution
        found = aten.convolution(
            gradient,
            weight,
            None,
            layer.stride,
            layer.padding,
            layer.dilation,
            False,
            layer.output_padding,
            layer.groups,
        )
        return _cropped(found, layer.input[1:])
    sizes = list(zip(layer.weight[2:], layer.padding, layer.dilation, strict=True))
    if form == "rotated":
        turned = weight.flip(tuple(range(2, weight.dim()))).transpose(0, 1)
        padding = [d * (k - 1) - p for k, p, d in sizes]
        return aten.convolution(
            gradient, turned, None, layer.stride, padding, layer.dilation, False, layer.output_padding, 1
        )
    left = [
        (n + 2 * p - d * (k - 1) - 1) % s for n, (k, p, d), s in zip(layer.input[1:], sizes, layer.stride, strict=True)
    ]
    return aten.convolution(
        gradient, weight, None, layer.stride, layer.padding, layer.dilation, True, left, layer.groups
    )


def weight_gradient(layer: Convolution, form: WeightForm, gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return the gradient of the layer's weight, shape layer.weight; `gradient` is that of the output."""
    if layer.transposed:  # input and output change places
        places = layer.output
        mirrored = Convolution(
            (layer.weight[1] * layer.groups, *places),
            layer.weight,
            layer.stride,
            layer.padding,
            layer.dilation,
            False,
            (0,) * len(places),
            layer.groups,
        )
        return _WEIGHT_FORMS[form](mirrored, x, gradient)
    return _WEIGHT_FORMS[form](layer, gradient, x)


def _by_convolution(layer: Convolution, gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Convolve the input with the gradient; channels and examples change places, stride and dilation as well."""
    found = aten.convolution(
        x.transpose(0, 1),
        gradient.transpose(0, 1),
        None,
        layer.dilation,
        layer.padding,
        layer.stride,
        False,
        layer.output_padding,
        1,
    )
    return _cropped(found, layer.weight[2:]).transpose(0, 1)


def _by_products(layer: Convolution, gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """One matrix product for each place of the kernel."""
    rows = gradient.transpose(0, 1).reshape(layer.weight[0], -1)
    columns = [window.reshape(layer.input[0], -1).t() for window in _windows(layer, x.transpose(0, 1))]
    return torch.stack([torch.mm(rows, column) for column in columns], 2).reshape(layer.weight)


def _by_batched_product(layer: Convolution, gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """One matrix product for each example, summed."""
    columns = torch.stack(_windows(layer, x), 2).reshape(x.shape[0], prod(layer.weight[1:]), -1)
    rows = gradient.reshape(x.shape[0], layer.weight[0], -1)
    return torch.matmul(rows, columns.transpose(1, 2)).sum(0).reshape(layer.weight)


def _by_products_last(layer: Convolution, gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """One matrix product for each place of the kernel, on examples with their channels last: whole rows are copied."""
    rows = gradient.transpose(0, 1).reshape(layer.weight[0], -1)
    windows = _windows(layer, x.movedim(1, -1), channels_last=True)
    return torch.stack([torch.mm(rows, seen.reshape(-1, layer.input[0])) for seen in windows], 2).reshape(layer.weight)


def _by_batched_last(layer: Convolution, gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The same, with one matrix product for each example, summed."""
    examples = x.shape[0]
    rows = gradient.reshape(examples, layer.weight[0], -1)
    windows = _windows(layer, x.movedim(1, -1), channels_last=True)
    columns = [seen.reshape(examples, -1, layer.input[0]) for seen in windows]
    return torch.stack([torch.matmul(rows, column).sum(0) for column in columns], 2).reshape(layer.weight)


def _by_groups(layer: Convolution, gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """One matrix product for each group."""
    groups, (outputs, inputs) = layer.groups, layer.weight[:2]
    windows = [window.reshape(groups, inputs, -1) for window in _windows(layer, x.transpose(0, 1))]
    columns = torch.stack(windows, 2).reshape(groups, prod(layer.weight[1:]), -1)
    rows = gradient.transpose(0, 1).reshape(groups, outputs // groups, -1)
    return torch.matmul(rows, columns.transpose(1, 2)).reshape(layer.weight)


_WEIGHT_FORMS: Mapping[WeightForm, Callable[[Convolution, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "convolution": _by_convolution,
    "products": _by_products,
    "batched": _by_batched_product,
    "products_last": _by_products_last,
    "batched_last": _by_batched_last,
    "grouped": _by_groups,
}


def _windows(layer: Convolution, x: torch.Tensor, *, channels_last: bool = False) -> list[torch.Tensor]:
    """Return what each place of the kernel sees, (_, _, *output places), in the kernel's order.

    Where the channels are last, so they are in what is returned. Cut along the last axis first: that copies value by
    value, and is shared; the other cuts then copy whole rows.
    """
    padding = [size for places in reversed(layer.padding) for size in (places, places)]
    behind_last = [0, 0] if channels_last else []
    seen: dict[tuple[int, ...], torch.Tensor] = {(): functional.pad(x, behind_last + padding) if any(padding) else x}
    axes = list(zip(layer.weight[2:], layer.dilation, layer.stride, layer.output, strict=True))
    lead = (slice(None),) * (1 if channels_last else 2)
    for axis in reversed(range(len(axes))):
        size, dilation, stride, outputs = axes[axis]
        reach = (outputs - 1) * stride + 1
        seen = {
            (at, *behind): tensor[(*lead, *(slice(None),) * axis, slice(at * dilation, at * dilation + reach, stride))]
            for at in range(size)
            for behind, tensor in seen.items()
        }
    return [seen[place] for place in product(*map(range, layer.weight[2:]))]


def _cropped(tensor: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
    """Return the first `places` of each dimension behind the first two."""
    return tensor[(slice(None), slice(None), *(slice(0, size) for size in places))]
