"""Recurrent layers on top of one another, run one after the other.

Torch's own decomposition of a stack, which a trace takes, leaves out the dropout between the layers without an error
(torch 2.13); its fused kernels do not. Layer by layer, both are the same.
"""

from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu"}
ARGUMENTS = 9  # input, state, parameters, has_biases, num_layers, dropout, train, bidirectional, batch_first


class LayerByLayer(TorchFunctionMode):  # type: ignore[misc]  # torch is Any to mypy
    """While it is active, a stack of recurrent layers with dropout runs as single layers with dropout between them."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Split a stack; hand on everything else."""
        if getattr(function, "__name__", "") in RECURRENT and len(args) == ARGUMENTS and not kwargs:
            layers, dropout, training = args[4:7]
            if layers > 1 and dropout > 0.0 and training:
                return _stacked(function, *args)
        return function(*args, **(kwargs or {}))


def _stacked(
    function: Any,
    x: torch.Tensor,
    state: Any,
    parameters: Any,
    has_biases: bool,
    layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[torch.Tensor, ...]:
    states = state if isinstance(state, tuple | list) else (state,)  # an LSTM has two
    each, directions = len(parameters) // layers, 2 if bidirectional else 1
    ends: list[tuple[torch.Tensor, ...]] = []
    for layer in range(layers):
        own = [part[layer * directions : (layer + 1) * directions] for part in states]
        x, *end = function(
            x,
            tuple(own) if isinstance(state, tuple | list) else own[0],
            parameters[layer * each : (layer + 1) * each],
            has_biases,
            1,
            0.0,
            training,
            bidirectional,
            batch_first,
        )
        ends.append(tuple(end))
        if layer < layers - 1:
            x = functional.dropout(x, dropout, training=True)
    return (x, *(torch.cat(parts) for parts in zip(*ends, strict=True)))
