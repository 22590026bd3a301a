"""One training of a built-in task from its bundle's parameters: on a device's path, or in plain torch.

    python -m benchmarks.training_run skerry mnist-cnn --bundle FILE --steps 1000 --seed 1
    python -m benchmarks.training_run torch mnist-cnn --bundle FILE --steps 1000 --seed 1

Both take the default recipe's optimizer at the task's learning rate over the same batches in the same order. Torch is
imported for its own side alone, so that each process has the memory that its way of training takes.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.builtin_task import data_dir_by_default
from benchmarks.process_memory import memory_of
from skerry.algorithms.merge import CarryOver
from skerry.algorithms.optimizer import Sgd
from skerry.algorithms.uplink import TopK
from skerry.tasks.builtin.catalogue import task_of
from skerry.tasks.bundle import Bundle, resolve
from skerry.tasks.data import Dataset, load
from skerry.training.batches import Batches
from skerry.training.local_run import LocalRun
from skerry.training.onnx_engine import OnnxTrainer
from skerry.training.shuffle import Shuffle
from skerry.training.trainer import slices

OPTIMIZER = Sgd()

Step = Callable[[], float]  # returns the loss
Accuracy = Callable[[Dataset], float | None]  # None where the task has none


def ours(bundle: Bundle, batches: Batches, _name: str, _data_dir: Path | None) -> tuple[Step, Accuracy]:
    """Return a step and an evaluation as a device takes them."""
    trainer = OnnxTrainer(bundle)
    initial = bundle.initial_parameters()
    run = LocalRun(
        trainer,
        batches,
        optimizer=OPTIMIZER,
        uplink=TopK(),
        merge=CarryOver(),
        start=initial,
        residual=np.zeros_like(initial),
        learning_rate=bundle.manifest.defaults.learning_rate,
    )
    return run.step, lambda held_out: trainer.evaluate(run.parameters, held_out).accuracy


def theirs(bundle: Bundle, batches: Batches, name: str, data_dir: Path | None) -> tuple[Step, Accuracy]:
    """Return a step and an evaluation as one would write them in torch."""
    import torch

    from benchmarks.step_times import native_loss
    from skerry.training.builtin.definitions import builtin_definition

    torch.set_num_threads(1)
    model = builtin_definition(name, data_dir).model
    vector, state = torch.from_numpy(bundle.initial_parameters()), dict(model.state_dict(keep_vars=True))
    with torch.no_grad():
        for tensor in bundle.manifest.layout.tensors:
            values = vector[tensor.offset : tensor.offset + tensor.size]
            state[tensor.name].copy_(values.reshape(tensor.shape))
    loss = native_loss(bundle.manifest.label)
    optimizer = torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=bundle.manifest.defaults.learning_rate,
        momentum=OPTIMIZER.momentum,
        weight_decay=OPTIMIZER.weight_decay,
    )
    model.train()

    def step() -> float:
        batch = next(batches)
        optimizer.zero_grad()
        value = loss(model(torch.from_numpy(batch.x)), torch.from_numpy(batch.y))
        value.backward()
        optimizer.step()
        return float(value.detach())

    def accuracy(held_out: Dataset) -> float:
        model.eval()
        right = scored = 0
        with torch.no_grad():
            for x, y in slices(held_out):
                right += int((model(torch.from_numpy(x)).argmax(-1).numpy() == y).sum())
                scored += y.size
        return right / scored

    return step, accuracy


SIDES = {"skerry": ours, "torch": theirs}


def measure(side: str, name: str, spec: str, seed: int, steps: int, data_dir: Path | None) -> dict[str, Any]:
    bundle = resolve(spec)
    manifest = bundle.manifest
    source = f"builtin:{task_of(name).data_set}"
    rows = load(source, manifest, data_dir=data_dir)
    batches = Batches(rows, manifest.defaults.batch_examples, Shuffle(seed), manifest.noise_values)
    step, accuracy = SIDES[side](bundle, batches, name, data_dir)
    losses, walls, processor = [], [], []
    for _ in range(steps):
        wall_s, processor_s = time.perf_counter(), time.process_time()
        losses.append(step())
        processor.append(time.process_time() - processor_s)
        walls.append(time.perf_counter() - wall_s)
    memory = memory_of("self")
    return {
        "seed": seed,
        "steps": steps,
        "batch_examples": batches.batch_examples,
        "learning_rate": manifest.defaults.learning_rate,
        "first_loss": losses[0],
        "last_loss": float(np.mean(losses[-50:])),
        "step_ms": 1e3 * median(walls),
        "step_cpu_ms": 1e3 * median(processor),
        **memory,
        "data_mb": (rows.x.nbytes + rows.y.nbytes) / 1e6,
        "accuracy": accuracy(load(source, manifest, held_out=True, data_dir=data_dir)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=SIDES, help="which way to train")
    parser.add_argument("task", help="a built-in task: see skerry-task list")
    parser.add_argument("--bundle", required=True, help="its bundle: a path, or builtin:TASK")
    parser.add_argument("--data-dir", type=Path, default=data_dir_by_default(), help="of data sets (SKERRY_DATA)")
    parser.add_argument("--steps", type=int, default=1000, help="(default 1000)")
    parser.add_argument("--seed", type=int, default=1, help="of the order of examples (default 1)")
    options = parser.parse_args()
    figures = measure(options.side, options.task, options.bundle, options.seed, options.steps, options.data_dir)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
