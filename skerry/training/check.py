"""Does a bundle of foreign origin do what it says? Answered without torch, so also where it will run."""

from dataclasses import dataclass
from math import isfinite, nan
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from skerry.tasks.bundle import Bundle
from skerry.tasks.data import Dataset
from skerry.tasks.manifest import MalformedBundle
from skerry.training.batches import Batch
from skerry.training.made_up import batch
from skerry.training.onnx_engine import OnnxTrainer
from skerry.training.trainer import Trainer
from skerry.vector import Float32

BATCH_SIZES = (1, 8)
SEEDS = (0, 1, 2)
ERROR_MAX = 0.1  # finite differences in float32 are no sharper; the gate at export is


@dataclass(frozen=True)
class CheckReport:
    """What was found; a bundle that fails raises instead."""

    gradient_error: float  # worst tensor's, relative, median over seeds
    initial_loss: float  # on random examples; log(classes) if the model knows nothing yet


def check_bundle(bundle: Bundle) -> CheckReport:
    """Run all graphs at several batch sizes, and compare each tensor's gradient with finite differences of the loss.

    A loss that jumps, as behind a layer that rounds, has no such slope: its bundle is refused though its gradient may
    be torch's, which the gate at export has seen.

    Raises:
        MalformedBundle: a graph does not load or run, gives other shapes or values that are not finite, or its
            gradient is not that of its loss.
    """
    trainer = OnnxTrainer(bundle)
    losses, worst = [], 0.0
    for examples in BATCH_SIZES:
        errors: dict[str, list[float]] = {}
        for seed in SEEDS:
            made_up = batch(bundle.manifest, examples, seed)
            losses.append(_check_outputs(bundle, trainer, made_up))
            for name, error in _gradient_errors(trainer, _nearby(bundle.initial_parameters(), seed), made_up).items():
                errors.setdefault(name, []).append(error)
        silent = [t.name for t in trainer.layout.tensors if t.trainable and t.name not in errors]
        if silent:
            raise MalformedBundle(f"{bundle.path}: the gradient of {', '.join(silent)} is zero on all examples")
        for name, found in errors.items():
            error = median(found) if all(map(isfinite, found)) else nan
            if not error <= ERROR_MAX:  # also where it is not a number
                raise MalformedBundle(
                    f"{bundle.path}: the gradient of {name} is off by {error:.0%} from the slope of the loss, "
                    f"{ERROR_MAX:.0%} allowed: it is wrong, or the loss jumps, as where values are rounded or compared"
                )
            worst = max(worst, error)
    return CheckReport(worst, float(np.mean(losses)))


def _nearby(initial: Float32, seed: int) -> Float32:
    """Return a model near the initial one: a layer that starts at zero keeps gradients from those before it."""
    spread = np.float32(0.1 * max(float(initial.std()), 1e-2))
    noise = np.abs(np.random.default_rng(seed).standard_normal(initial.shape, np.float32))  # the tail may be variances
    return np.asarray(initial + spread * noise, np.float32)


def _check_outputs(bundle: Bundle, trainer: Trainer, made_up: Batch) -> float:
    """Check shapes and values of one batch; return its loss."""
    x, y, _ = made_up
    parameters, layout = bundle.initial_parameters(), trainer.layout
    try:
        result = trainer.step(parameters, *made_up)
        evaluation = trainer.evaluate(parameters, Dataset(x, y))
        logits = trainer.predict(parameters, x)
    except Exception as error:  # onnxruntime's own errors have no common base but this
        raise MalformedBundle(f"{bundle.path}: does not run with a batch of {len(x)}: {error}") from error
    outputs: dict[str, tuple[npt.NDArray[Any], tuple[int, ...]]] = {
        "gradient": (result.gradient, (layout.trainable_size,)),
        "logits": (logits, (len(x), *bundle.manifest.label.logits_shape)),
    }
    if result.buffers is not None:
        outputs["buffers"] = (result.buffers, (layout.size - layout.trainable_size,))
    for name, (values, shape) in outputs.items():
        if values.shape != shape or values.dtype != np.float32:
            raise MalformedBundle(
                f"{bundle.path}: {name} is {values.dtype} of shape {values.shape}, must be float32 of shape {shape}"
            )
        if not np.isfinite(values).all():
            raise MalformedBundle(f"{bundle.path}: {name} is not finite on ordinary input")
    right = evaluation.correct is None or 0 <= evaluation.correct <= y.size
    if evaluation.examples != y.size or not right or not np.isfinite(evaluation.loss):
        raise MalformedBundle(f"{bundle.path}: the evaluation of {len(x)} examples gives {evaluation}")
    return result.loss


def _gradient_errors(trainer: Trainer, parameters: Float32, made_up: Batch) -> dict[str, float]:
    """Return per tensor how far its gradient's length is from the slope of the loss along it, relative.

    Tensors whose gradient is zero are left out.
    """
    gradient = trainer.step(parameters, *made_up).gradient
    floor = 0.05 * float(np.linalg.norm(gradient))  # what is flatter shows no sharp slope in float32
    errors = {}
    for tensor in trainer.layout.tensors:
        if not tensor.trainable:
            continue
        span = slice(tensor.offset, tensor.offset + tensor.size)
        length = float(np.linalg.norm(gradient[span]))
        if length == 0.0:
            continue
        reach = 1e-2
        direction = np.zeros_like(parameters)
        direction[span] = gradient[span] * np.float32(reach / length)
        ahead, behind = (trainer.step(parameters + sign * direction, *made_up).loss for sign in (1, -1))
        errors[tensor.name] = abs((ahead - behind) / (2 * reach) - length) / max(length, floor)
    return errors
