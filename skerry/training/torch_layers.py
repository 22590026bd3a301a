"""ONNX's convolutions, pooling and normalisation (opset 20) in torch; read by `skerry.training.torch_operators`."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch.nn import functional

from skerry.training.unsupported_operator import require

Function = Callable[..., Any]


def _padding(operator: str, auto_pad: str, pads: Sequence[int]) -> list[int]:
    """Return how much is added at both ends of each axis; empty stands for none.

    Raises:
        UnsupportedOperator: that is left to be worked out, or differs between the ends.
    """
    require(auto_pad == "NOTSET", f"{operator} with auto_pad {auto_pad}")
    half = len(pads) // 2
    require(list(pads[:half]) == list(pads[half:]), f"{operator} with unequal padding {list(pads)}")
    return list(pads[:half])


def _conv(
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] = (),
    group: int = 1,
    kernel_shape: Sequence[int] = (),  # the weight's own
    pads: Sequence[int] = (),
    strides: Sequence[int] = (),
) -> Function:
    padding = _padding("Conv", auto_pad, pads)

    def run(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        none = [0] * (x.dim() - 2)
        ones = [1] * len(none)
        return torch.convolution(
            x, weight, bias, strides or ones, padding or none, dilations or ones, False, none, group
        )

    return run


def _conv_transpose(
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] = (),
    group: int = 1,
    kernel_shape: Sequence[int] = (),  # the weight's own
    output_padding: Sequence[int] = (),
    pads: Sequence[int] = (),
    strides: Sequence[int] = (),
) -> Function:
    padding = _padding("ConvTranspose", auto_pad, pads)

    def run(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        none = [0] * (x.dim() - 2)
        ones = [1] * len(none)
        return torch.convolution(
            x, weight, bias, strides or ones, padding or none, dilations or ones, True, output_padding or none, group
        )

    return run


def _max_pool(
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] = (),
    kernel_shape: Sequence[int],
    pads: Sequence[int] = (),
    storage_order: int = 0,
    strides: Sequence[int] = (),
) -> Function:
    axes = len(kernel_shape)
    padding = _padding("MaxPool", auto_pad, pads) or [0] * axes
    require(storage_order == 0, "MaxPool with storage_order 1")
    pool = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[axes - 1]
    stride, dilation = strides or [1] * axes, dilations or [1] * axes

    def run(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pooled, indices = pool(
            x, list(kernel_shape), stride, padding, dilation, ceil_mode=bool(ceil_mode), return_indices=True
        )
        # Torch counts within a channel, ONNX over the whole batch.
        starts = torch.arange(0, x.numel(), prod(x.shape[2:])).reshape(*x.shape[:2], *[1] * axes)
        return pooled, indices + starts

    return run


def _average_pool(
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] = (),
    kernel_shape: Sequence[int],
    pads: Sequence[int] = (),
    strides: Sequence[int] = (),
) -> Function:
    axes = len(kernel_shape)
    padding = _padding("AveragePool", auto_pad, pads) or [0] * axes
    require(all(step == 1 for step in dilations), f"AveragePool with dilations {list(dilations)}")
    pool = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[axes - 1]
    stride = strides or [1] * axes
    return lambda x: pool(x, list(kernel_shape), stride, padding, bool(ceil_mode), bool(count_include_pad))


def _batch_normalization(*, epsilon: float = 1e-5, momentum: float = 0.9, training_mode: int = 0) -> Function:
    require(not training_mode, "BatchNormalization with training_mode")

    def run(
        x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor
    ) -> torch.Tensor:
        # Not torch's own, which refuses statistics that are part of a vector with a gradient.
        factor = scale * torch.rsqrt(variance + epsilon)
        shape = (-1, *[1] * (x.dim() - 2))
        return x * factor.reshape(shape) + (bias - mean * factor).reshape(shape)

    return run


def _instance_normalization(*, epsilon: float = 1e-5) -> Function:
    return lambda x, scale, bias: functional.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def _layer_normalization(*, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Function:
    require(stash_type == 1, f"LayerNormalization with stash_type {stash_type}")

    def run(
        x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        shape = x.shape[axis:]
        bias = None if bias is None else bias.expand(shape)
        normal, mean, inverse = torch.native_layer_norm(x, shape, scale.expand(shape), bias, epsilon)
        return normal, mean, inverse

    return run


LAYERS: dict[str, Callable[..., Function]] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "InstanceNormalization": _instance_normalization,
    "LayerNormalization": _layer_normalization,
    "MaxPool": _max_pool,
}
