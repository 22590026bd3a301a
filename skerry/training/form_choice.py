"""Finds by measuring in which form the gradients of each convolution run fastest, see `skerry.training.convolution`."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import onnx
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from skerry.training import convolution
from skerry.training.convolution import Convolution, Forms
from skerry.training.functional_model import FunctionalModel
from skerry.training.graph_export import EXAMPLE_BATCH, export
from skerry.training.onnx_engine import open_session

EXAMPLES = 32  # in the batch that is measured
ROUNDS = 7
SECONDS_MAX = 4.0  # for one kind of layer

aten = torch.ops.aten


def measured_forms(
    model: FunctionalModel, x: torch.Tensor, y: torch.Tensor, say: Callable[[str], None] = lambda _text: None
) -> dict[Convolution, Forms]:
    """Return the fastest forms for each kind of convolution that a step of `model` on `x` and `y` differentiates.

    `say` is told the kind that is being measured.
    """
    noted = _Convolutions()
    noise = torch.rand(len(x), model.noise_values(x, y))
    with noted:
        model.step(torch.from_numpy(model.vector()), x, y, noise)
    forms = {}
    for number, layer in enumerate(noted.layers, start=1):
        say(f"measuring convolution {number} of {len(noted.layers)}: {layer.weight} on {layer.input}")
        forms[layer] = fastest(layer)
    return forms


def fastest(layer: Convolution) -> Forms:
    """Return the forms that take least time with a batch of EXAMPLES, on one thread of this machine."""
    weight_forms, input_forms = convolution.weight_forms(layer), convolution.input_forms(layer)
    if len(weight_forms) == len(input_forms) == 1:
        return Forms(weight_forms[0], input_forms[0])
    channels = layer.weight[1] * layer.groups if layer.transposed else layer.weight[0]
    gradient, x = torch.randn(EXAMPLE_BATCH, channels, *layer.output), torch.randn(EXAMPLE_BATCH, *layer.input)
    weight = torch.randn(layer.weight).reshape(-1)

    def all_forms(weight: torch.Tensor, gradient: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        kernel = weight.reshape(layer.weight)
        return (
            *(convolution.weight_gradient(layer, form, gradient, x) for form in weight_forms),
            *(convolution.input_gradient(layer, form, gradient, kernel) for form in input_forms),
        )

    outputs = [*(f"weight.{form}" for form in weight_forms), *(f"input.{form}" for form in input_forms)]
    graph = onnx.ModelProto.FromString(export(all_forms, (weight, gradient, x), ("weight", "gradient", "x"), outputs))
    seconds = _seconds(graph, outputs)
    return Forms(
        min(weight_forms, key=lambda form: seconds[f"weight.{form}"]),
        min(input_forms, key=lambda form: seconds[f"input.{form}"]),
    )


class _Convolutions(TorchDispatchMode):  # type: ignore[misc]  # torch is Any to mypy
    """Notes which convolutions are differentiated."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: dict[Convolution, None] = {}  # an ordered set

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is aten.convolution_backward.default:
            _gradient, x, weight, _bias, *settings, _wanted = args
            self.layers[convolution.described(x, weight, settings)] = None
        return function(*args, **(kwargs or {}))


def _seconds(graph: onnx.ModelProto, outputs: list[str]) -> dict[str, float]:
    """Return the median seconds that each output takes on its own; all are measured in turn."""
    sessions = {output: open_session(_alone(graph, output), 1, output) for output in outputs}
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {output: [] for output in outputs}
    started_s = time.perf_counter()
    for number in range(1 + ROUNDS):
        for output, session in sessions.items():
            inputs = {
                value.name: rng.standard_normal([size if isinstance(size, int) else EXAMPLES for size in value.shape])
                for value in session.get_inputs()
            }
            inputs = {name: value.astype(np.float32) for name, value in inputs.items()}
            before_s = time.thread_time()  # what else the machine does counts less than in time that passed
            session.run(None, inputs)
            found[output].append(time.thread_time() - before_s)
        if number > 0 and time.perf_counter() - started_s > SECONDS_MAX:
            break
    return {output: median(seconds[1:]) for output, seconds in found.items()}  # the first warms up


def _alone(graph: onnx.ModelProto, output: str) -> bytes:
    """Return the graph cut down to what `output` needs."""
    needed, nodes = {output}, []
    for node in reversed(graph.graph.node):
        if not needed.isdisjoint(node.output):
            needed.update(node.input)
            nodes.append(node)
    cut = onnx.ModelProto()
    cut.CopyFrom(graph)
    for kept, values in (
        (cut.graph.input, graph.graph.input),
        (cut.graph.initializer, graph.graph.initializer),
        (cut.graph.output, [value for value in graph.graph.output if value.name == output]),
    ):
        del kept[:]
        kept.extend(value for value in values if value.name in needed)
    del cut.graph.node[:]
    cut.graph.node.extend(reversed(nodes))
    return bytes(cut.SerializeToString())
