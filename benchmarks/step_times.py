"""A training step of a built-in task: the bundle in onnxruntime against the same model in plain torch, one thread.

    python -m benchmarks.step_times mnist-cnn --bundle lab-results/benchmarks/mnist-cnn.skerry

Both take the same step on the same batch of 32 real examples: loss, gradient, and plain gradient descent. Torch runs
the definition's own module in training mode with torch.autograd.grad; its rule is written by hand, as torch.optim would
cost it time. The two take turns in one process, so that what else the machine does meets both. A turn's figure is the
median of its steps; `ratio` is the median over the turns of processor time with onnxruntime over that with torch, and
`ratio_low`, `ratio_high` are the turns' quartiles. On a machine with nothing else to do wall time says the same.
"""

import os

os.environ |= {"ORT_DISABLE_TELEMETRY": "1", "OPENBLAS_NUM_THREADS": "1"}  # before numpy is imported

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from benchmarks.builtin_task import data_dir_by_default, device_source
from skerry.algorithms.optimizer import Sgd
from skerry.tasks.bundle import resolve
from skerry.tasks.data import load
from skerry.tasks.manifest import IGNORED, Label
from skerry.training.batches import Batch, Batches
from skerry.training.builtin.definitions import builtin_definition
from skerry.training.onnx_engine import OnnxTrainer
from skerry.training.shuffle import Shuffle
from skerry.vector import Float32

SEED = 3
EXAMPLES = 32
RATE = 1e-4  # small: the same batch again and again must not lead anywhere odd
TURN_S = 0.4  # that a side steps for before the other has its turn
TURNS_MIN = 5
WARM_UP = 2  # steps

Step = Callable[[], object]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Turn(NamedTuple):
    """Median seconds of one step, of wall and of processor time."""

    wall_s: float
    processor_s: float


def native_loss(label: Label) -> Loss:
    """Return the task's loss as torch has it: the fastest that somebody without Skerry would write."""
    match label.loss:
        case "mse":
            return functional.mse_loss
        case "bce_with_logits":
            return functional.binary_cross_entropy_with_logits
    classes = label.classes
    return lambda logits, y: functional.cross_entropy(
        logits.reshape(-1, classes), y.reshape(-1), ignore_index=IGNORED
    )  # fmt: skip


def onnx_step(trainer: OnnxTrainer, parameters: Float32, batch: Batch) -> Step:
    """Return a step as a device takes it."""
    head = trainer.layout.trainable_size
    optimizer = Sgd(momentum=0.0, weight_decay=0.0).start(head)

    def step() -> None:
        result = trainer.step(parameters, *batch)
        optimizer.step(parameters[:head], result.gradient, RATE)
        if result.buffers is not None:
            parameters[head:] = result.buffers

    return step


def torch_step(model: torch.nn.Module, loss: Loss, batch: Batch) -> Step:
    """Return a step in eager torch; dropout draws its own noise."""
    model.train()
    tensors = [parameter for parameter in model.parameters() if parameter.requires_grad]
    x, y = torch.from_numpy(batch.x), torch.from_numpy(batch.y)

    def step() -> None:
        gradients = torch.autograd.grad(loss(model(x), y), tensors)
        with torch.no_grad():
            for tensor, gradient in zip(tensors, gradients, strict=True):
                tensor.sub_(gradient, alpha=RATE)

    return step


def turn(step: Step, seconds: float) -> Turn:
    """Step for `seconds`, at least once."""
    walls: list[float] = []
    processor: list[float] = []
    end_s = time.perf_counter() + seconds
    while not walls or time.perf_counter() < end_s:
        wall_s, processor_s = time.perf_counter(), time.process_time()
        step()
        processor.append(time.process_time() - processor_s)
        walls.append(time.perf_counter() - wall_s)
    return Turn(median(walls), median(processor))


def alternate(ours: Step, theirs: Step, seconds: float, turn_s: float = TURN_S) -> list[tuple[Turn, Turn]]:
    """Let both have turns for `seconds`, at least TURNS_MIN each; who begins changes with every pair."""
    for step in (ours, theirs):
        for _ in range(WARM_UP):
            step()
    pairs: list[tuple[Turn, Turn]] = []
    end_s = time.perf_counter() + seconds
    while len(pairs) < TURNS_MIN or time.perf_counter() < end_s:
        if len(pairs) % 2:
            second = turn(theirs, turn_s)
            pairs.append((turn(ours, turn_s), second))
        else:
            pairs.append((turn(ours, turn_s), turn(theirs, turn_s)))
    return pairs


def summary(pairs: Sequence[tuple[Turn, Turn]]) -> dict[str, float]:
    """Return medians and the spread of the ratio, from the turns of both; times in ms."""
    ratios = [ours.processor_s / theirs.processor_s for ours, theirs in pairs]
    low, middle, high = quantiles(ratios, n=4, method="inclusive")
    return {
        "onnx_ms": 1e3 * median(ours.processor_s for ours, _ in pairs),
        "torch_ms": 1e3 * median(theirs.processor_s for _, theirs in pairs),
        "ratio": middle,
        "ratio_low": low,
        "ratio_high": high,
        "onnx_wall_ms": 1e3 * median(ours.wall_s for ours, _ in pairs),
        "torch_wall_ms": 1e3 * median(theirs.wall_s for _, theirs in pairs),
        "wall_ratio": median(ours.wall_s / theirs.wall_s for ours, theirs in pairs),
        "turns": len(pairs),
    }


def measure(name: str, bundle: str, data_dir: Path | None, seconds: float) -> dict[str, Any]:
    torch.set_num_threads(1)
    opened = resolve(bundle)
    manifest = opened.manifest
    rows = load(device_source(name), manifest, data_dir=data_dir)
    batch = next(Batches(rows, EXAMPLES, Shuffle(SEED), manifest.noise_values))
    model = builtin_definition(name, data_dir).model
    ours = onnx_step(OnnxTrainer(opened), opened.initial_parameters(), batch)
    theirs = torch_step(model, native_loss(manifest.label), batch)
    return {"examples": len(batch.y)} | summary(alternate(ours, theirs, seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", help="a built-in task: see skerry-task list")
    parser.add_argument("--bundle", required=True, help="its bundle: a path, or builtin:TASK")
    parser.add_argument("--data-dir", type=Path, default=data_dir_by_default(), help="of data sets (SKERRY_DATA)")
    parser.add_argument("--seconds", type=float, default=24.0, help="of both together (default 24)")
    options = parser.parse_args()
    print(json.dumps(measure(options.task, options.bundle, options.data_dir, options.seconds)))


if __name__ == "__main__":
    main()
