"""The gate that every export passes: the graphs, run by onnxruntime, against torch on the same inputs.

Exports can be wrong without an error: a gradient of inference-mode batch norm, a batch size frozen at the example's.
Both show here, because every graph runs at several batch sizes and every tensor's gradient is compared with autograd.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch

from skerry.tasks.manifest import Input, Label, PartName
from skerry.training.export_error import ExportError
from skerry.training.functional_model import FunctionalModel
from skerry.training.onnx_engine import check_signature, open_session
from skerry.vector import Float32, Layout

BATCH_SIZES = (1, 5)  # neither is the example's
SEEDS = (0, 1, 2)
ERROR_MAX = 1e-4  # median over seeds: a ReLU at zero may fall to either side once; right exports reach about 1e-6
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
    label: Label,
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    seeds: Sequence[int] = SEEDS,
) -> GateReport:
    """Compare all graphs with `model`.

    Raises:
        ExportError: a graph does not run at one of the batch sizes, or gives something else than torch.
    """
    has_buffers = model.layout.size > model.layout.trainable_size
    sessions = {part: open_session(graph, 1, f"gate: {part}") for part, graph in graphs.items()}
    for part, session in sessions.items():
        check_signature(session, part, has_noise=False, has_buffers=has_buffers, origin="gate")
    worst: dict[str, float] = {}
    for batch in batch_sizes:
        errors: dict[str, list[float]] = {}
        for seed in seeds:
            inputs = _inputs(model.vector(), features, label, batch, seed)
            for name, error in _errors(model, sessions, inputs).items():
                errors.setdefault(name, []).append(error)
        for name, found in errors.items():
            error = median(found)
            if not error <= ERROR_MAX:  # also where it is not a number
                raise ExportError(
                    f"{name} is off by {error:.1e} from torch's at a batch of {batch} (allowed: {ERROR_MAX:.0e}): "
                    "the exported graph is wrong and was not kept"
                )
            kind = name.partition(" ")[0]
            worst[kind] = max(worst.get(kind, 0.0), error)
    return GateReport(worst["gradient"], worst["loss"], worst["logits"])


def _inputs(initial: Float32, features: Input, label: Label, batch: int, seed: int) -> dict[str, Any]:
    """Draw a batch, and a model near the initial one: layers that start at zero would hide what lies before them."""
    rng = np.random.default_rng(seed)
    spread = np.float32(0.1 * max(float(initial.std()), 1e-2))
    return {
        "parameters": initial + spread * np.abs(rng.standard_normal(initial.shape, np.float32)),
        "x": rng.standard_normal((batch, *features.shape), np.float32),
        "y": rng.integers(0, label.classes, batch),
    }


def _errors(model: FunctionalModel, sessions: Mapping[PartName, Any], inputs: dict[str, Any]) -> dict[str, float]:
    """Return the relative error of every output, of the gradient tensor by tensor."""
    parameters, x, y = (torch.from_numpy(inputs[name]) for name in ("parameters", "x", "y"))
    expected: dict[PartName, tuple[torch.Tensor, ...]] = {
        PartName.STEP: model.step(parameters, x, y),
        PartName.EVALUATE: tuple(value.detach() for value in model.evaluate(parameters, x, y)),
        PartName.PREDICT: tuple(value.detach() for value in model.predict(parameters, x)),
    }
    errors: dict[str, float] = {}
    for part, session in sessions.items():
        names = [value.name for value in session.get_outputs()]
        found = _run(session, part, inputs)
        for name, given, wanted in zip(names, found, (value.numpy() for value in expected[part]), strict=True):
            if given.shape != wanted.shape:
                raise ExportError(f"{name} has shape {given.shape}, torch's has {wanted.shape}, at a batch of {len(x)}")
            if name == "gradient":
                errors |= _gradient_errors(model.layout, given, wanted)
            else:
                errors[name] = _relative(given, wanted)
    return errors


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
        f"gradient of {tensor.name}": slice(tensor.offset, tensor.offset + tensor.size)
        for tensor in layout.tensors
        if tensor.trainable
    }
    return {name: _relative(given[place], wanted[place], floor) for name, place in places.items()}


def _relative(given: Any, wanted: Any, floor: float = 1e-6) -> float:
    """Return |given - wanted| / max(|wanted|, floor); nan if `given` is not finite."""
    difference = np.linalg.norm(np.subtract(given, wanted, dtype=np.float64))
    return float(difference / max(float(np.linalg.norm(wanted)), floor, 1e-12))
