"""How long an optimizer's step takes on one thread, against torch's own step on the same vector.

    python -m benchmarks.optimizers [--json FILE]

The vector is one tensor. Torch has three implementations: "for each" tensor, which is its default on a processor,
"foreach" and "fused". All take turns, so that what else the machine does meets all of them; times are medians, ratios
are medians of the turns' ratios: to torch's default, and to its fastest here.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is imported

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch

from benchmarks import result
from skerry.algorithms.optimizer import Adam, Optimizer, Sgd

SEED = 5
SIZES = (100_000, 1_000_000)
TURNS = 12
TURN_S = 0.05  # that each side steps for in a turn
RATE = 1e-3
NORM = 1.0  # of clipping: the gradients here are longer, so that it has work to do
IMPLEMENTATIONS: dict[str, dict[str, bool]] = {
    "for each": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
Step = Callable[[], object]


def cases() -> Iterator[tuple[str, Optimizer, Callable[..., torch.optim.Optimizer], dict[str, Any]]]:
    """Yield name, our optimizer, torch's, and its settings."""
    yield "sgd", Sgd(0.0, 0.0), torch.optim.SGD, {}
    yield "sgd, momentum, decay", Sgd(0.9, 1e-4), torch.optim.SGD, {"momentum": 0.9, "weight_decay": 1e-4}
    nesterov = {"momentum": 0.9, "weight_decay": 1e-4, "nesterov": True}
    yield "sgd, nesterov, decay", Sgd(0.9, 1e-4, nesterov=True), torch.optim.SGD, nesterov
    yield "sgd, clipped", Sgd(0.0, 0.0, clip_norm=NORM), torch.optim.SGD, {}
    yield "adam", Adam(), torch.optim.Adam, {}
    yield "adam, decay", Adam(weight_decay=1e-2), torch.optim.Adam, {"weight_decay": 1e-2}
    yield "adamw", Adam(weight_decay=1e-2, decoupled=True), torch.optim.AdamW, {"weight_decay": 1e-2}
    yield "adam, clipped", Adam(clip_norm=NORM), torch.optim.Adam, {}


def our_step(rule: Optimizer, parameters: np.ndarray, gradient: np.ndarray) -> Step:
    own, state = parameters.copy(), rule.start(len(parameters))
    return lambda: state.step(own, gradient, RATE)


def torch_step(make: Callable[..., torch.optim.Optimizer], settings: dict[str, Any], parameters: np.ndarray,
               gradient: np.ndarray, clip_norm: float | None) -> Step:  # fmt: skip
    tensor = torch.nn.Parameter(torch.from_numpy(parameters.copy()))
    optimizer = make([tensor], lr=RATE, **settings)
    given = torch.from_numpy(gradient)
    tensor.grad = given.clone()

    def clipped() -> None:
        assert tensor.grad is not None
        tensor.grad.copy_(given)  # clipping is in place: a step begins with a gradient as backward leaves it
        torch.nn.utils.clip_grad_norm_([tensor], clip_norm or 0.0)
        optimizer.step()

    return optimizer.step if clip_norm is None else clipped


def step_us(step: Step) -> float:
    """Return the median of single steps within TURN_S, after one for warm-up."""
    step()
    times: list[float] = []
    end_s = perf_counter() + TURN_S
    while not times or perf_counter() < end_s:
        start_s = perf_counter()
        step()
        times.append(perf_counter() - start_s)
    return 1e6 * median(times)


def measure(size: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(SEED)
    parameters, gradient = (rng.standard_normal(size).astype(np.float32) for _ in range(2))
    for name, rule, make, settings in cases():
        own = our_step(rule, parameters, gradient)
        theirs = {
            kind: torch_step(make, settings | flags, parameters, gradient, rule.clip_norm)
            for kind, flags in IMPLEMENTATIONS.items()
        }
        turns = [(step_us(own), {kind: step_us(step) for kind, step in theirs.items()}) for _ in range(TURNS)]
        torch_us = {kind: median(turn[kind] for _, turn in turns) for kind in theirs}
        fastest = min(torch_us, key=lambda kind: torch_us[kind])
        yield {
            "size": size,
            "optimizer": name,
            "step_us": round(median(own_us for own_us, _ in turns), 1),
            **{f"{kind}_us": round(us, 1) for kind, us in torch_us.items()},
            "fastest": fastest,
            "to_default": round(median(own_us / turn["for each"] for own_us, turn in turns), 2),
            "to_fastest": round(median(own_us / turn[fastest] for own_us, turn in turns), 2),
        }


def main() -> None:
    """Measure, print, and write what `--json` names."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    rows = [row for size in SIZES for row in measure(size)]
    cells = [
        list(rows[0]),
        *([f"{value:,}" if isinstance(value, (int, float)) else value for value in row.values()] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    if options.json:
        result.write(options.json, "optimizers", {"torch": torch.__version__, "steps": rows}, seed=SEED)


if __name__ == "__main__":
    main()
