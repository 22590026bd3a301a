"""The gate that every export passes: the graphs, run by onnxruntime, against torch on the same inputs.

Exports can be wrong without an error: a gradient of inference-mode batch norm, a batch size frozen at the example's.
Both show here, because every graph runs at several batch sizes and every tensor's gradient is compared with autograd.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from statistics import median
from typing import Any

import numpy as np
import torch

from skerry.tasks.manifest import IGNORED, Input, MalformedBundle, PartName
from skerry.training.author_line import author_line
from skerry.training.export_error import ExportError
from skerry.training.functional_model import FunctionalModel
from skerry.training.made_up import made_up
from skerry.training.onnx_engine import check_signature, open_session
from skerry.vector import Float32, Layout, Tensor

BATCH_SIZES = (1, 5)  # neither is the example's
SEEDS = (0, 1, 2)
ERROR_MAX = 3e-4  # median over seeds: deep down a ReLU at zero may fall to either side; others reach about 1e-6
IGNORED_EVERY = 7  # one label in so many, where an example has several
SMALL_NORM = 1e-3  # of the whole: a tensor's error is not measured against less, where rounding alone would count


@dataclass(frozen=True)
class GateReport:
    """How far the graphs are from torch: the worst median over seeds, relative."""

    gradient_error: float
    loss_error: float
    logits_error: float


def check_graphs(
    model: FunctionalModel,
    graphs: Mapping[PartName, bytes],
    features: Input,
    noise_values: int,
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    seeds: Sequence[int] = SEEDS,
) -> GateReport:
    """Compare the graphs, the step's among them, with `model`.

    Raises:
        ExportError: a graph does not load, does not run at one of the batch sizes, or gives something else than
            torch; or nothing can be said of a tensor's gradient, because it was zero on all inputs.
    """
    has_buffers = model.layout.size > model.layout.trainable_size
    try:
        sessions = {part: open_session(graph, 1, f"gate: {part}") for part, graph in graphs.items()}
        for part, session in sessions.items():
            check_signature(session, part, has_noise=noise_values > 0, has_buffers=has_buffers, origin="gate")
    except MalformedBundle as refusal:
        raise ExportError(str(refusal)) from refusal
    worst: dict[str, float] = {}
    compared: set[str] = set()
    for batch in batch_sizes:
        errors: dict[str, list[float]] = {}
        for seed in seeds:
            inputs = _inputs(model, features, noise_values, batch, seed)
            for name, error in _errors(model, sessions, inputs).items():
                errors.setdefault(name, []).append(error)
        for name, found in errors.items():
            error = median(found) if all(map(isfinite, found)) else nan
            if not error <= ERROR_MAX:  # also where it is not a number
                raise ExportError(
                    f"{name} is off by {error:.1e} from torch's at a batch of {batch} (allowed: {ERROR_MAX:.0e}): "
                    "the exported graph is wrong and was not kept"
                )
            kind = name.partition(" ")[0]
            worst[kind] = max(worst.get(kind, 0.0), error)
        compared.update(errors)
    silent = [t.name for t in model.layout.tensors if t.trainable and _gradient_of(t) not in compared]
    if silent:
        raise ExportError(
            f"the gradient of {', '.join(silent)} is zero on all examples, so that nothing can be compared: "
            "freeze what cannot be trained, and let no layer begin where its gradient vanishes"
        )
    return GateReport(worst["gradient"], worst["loss"], worst.get("logits", 0.0))


def _inputs(model: FunctionalModel, features: Input, noise_values: int, batch: int, seed: int) -> dict[str, Any]:
    """Draw a batch, and a model near the initial one: layers that start at zero would hide what lies before them.

    Trainable tensors move both ways: all upwards would saturate wide layers, and so hide gradients. The tail moves
    upwards, as it may be variances.
    """
    initial = model.vector()
    spread = np.float32(0.1 * max(float(initial.std()), 1e-2))
    moves = np.random.default_rng(seed).standard_normal(initial.shape, np.float32)
    tail = moves[model.layout.trainable_size :]
    np.abs(tail, out=tail)
    made = made_up(features, model.label, noise_values, batch, seed)
    y = made.y
    if model.label.shape and y.dtype == np.int64:
        y.reshape(-1)[IGNORED_EVERY - 1 :: IGNORED_EVERY] = IGNORED  # as the ends of short sequences are
    inputs = {
        "parameters": initial + spread * moves,
        "x": made.x,
        "y": y,
    }
    return inputs if made.noise is None else inputs | {"noise": made.noise}


def _errors(model: FunctionalModel, sessions: Mapping[PartName, Any], inputs: dict[str, Any]) -> dict[str, float]:
    """Return the relative error of every output, of the gradient and the buffers tensor by tensor.

    Of tensors whose gradient is zero, in the graph as in torch, nothing is said.
    """
    expected = _expected(model, inputs)
    examples = len(inputs["x"])
    errors: dict[str, float] = {}
    for part, session in sessions.items():
        names = [value.name for value in session.get_outputs()]
        found = _run(session, part, inputs)
        for name, given, wanted in zip(names, found, (value.numpy() for value in expected[part]), strict=True):
            if given.shape != wanted.shape:
                raise ExportError(
                    f"{name} has shape {given.shape}, torch's has {wanted.shape}, at a batch of {examples}"
                )
            if name == "gradient":
                errors |= _gradient_errors(model.layout, given, wanted)
            elif name == "buffers":
                errors |= _buffer_errors(model.layout, given, wanted)
            else:
                errors[name] = _relative(given, wanted)
    return errors


def _expected(model: FunctionalModel, inputs: dict[str, Any]) -> dict[PartName, tuple[torch.Tensor, ...]]:
    parameters, x, y = (torch.from_numpy(inputs[name]) for name in ("parameters", "x", "y"))
    noise = torch.from_numpy(inputs["noise"]) if "noise" in inputs else None
    try:
        return {
            PartName.STEP: model.step(parameters, x, y, noise),
            PartName.EVALUATE: tuple(value.detach() for value in model.evaluate(parameters, x, y)),
            PartName.PREDICT: tuple(value.detach() for value in model.predict(parameters, x)),
        }
    except Exception as error:  # the model's own code
        raise ExportError(f"the model does not run with a batch of {len(x)}: {error}{author_line(error)}") from error


def _run(session: Any, part: PartName, inputs: dict[str, Any]) -> list[Any]:
    try:
        outputs: list[Any] = session.run(None, {value.name: inputs[value.name] for value in session.get_inputs()})
    except Exception as error:  # onnxruntime's own errors have no common base but this
        batch = len(inputs["x"])
        raise ExportError(
            f"{part} does not run with a batch of {batch}, its batch size must be free: {error}"
        ) from error
    return outputs


def _gradient_errors(layout: Layout, given: Float32, wanted: Float32) -> dict[str, float]:
    floor = SMALL_NORM * float(np.linalg.norm(wanted))
    places = {
        _gradient_of(tensor): slice(tensor.offset, tensor.offset + tensor.size)
        for tensor in layout.tensors
        if tensor.trainable
    }
    return {
        name: _relative(given[place], wanted[place], floor)
        for name, place in places.items()
        if given[place].any() or wanted[place].any()
    }


def _gradient_of(tensor: Tensor) -> str:
    return f"gradient of {tensor.name}"


def _buffer_errors(layout: Layout, given: Float32, wanted: Float32) -> dict[str, float]:
    """Compare tensor by tensor: next to a large frozen one, a wrong statistic would not show."""
    start = layout.trainable_size
    places = {
        tensor.name: slice(tensor.offset - start, tensor.offset - start + tensor.size)
        for tensor in layout.tensors
        if not tensor.trainable
    }
    return {f"buffer {name}": _relative(given[place], wanted[place]) for name, place in places.items()}


def _relative(given: Any, wanted: Any, floor: float = 1e-6) -> float:
    """Return |given - wanted| / max(|wanted|, floor); nan if `given` is not finite."""
    difference = np.linalg.norm(np.subtract(given, wanted, dtype=np.float64))
    return float(difference / max(float(np.linalg.norm(wanted)), floor, 1e-12))
