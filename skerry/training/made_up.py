"""Examples made up from a manifest: for timing a step, and for comparing graphs. Nothing can be learned from them."""

from math import prod, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from skerry.tasks.manifest import Input, Label, Manifest
from skerry.training.batches import Batch
from skerry.training.shuffle import Shuffle


def batch(manifest: Manifest, examples: int, seed: int) -> Batch:
    """Return a batch of `examples` with the noise that a step takes; the same for the same seed."""
    return made_up(manifest.input, manifest.label, manifest.noise_values, examples, seed)


def made_up(features: Input, label: Label, noise_values: int, examples: int, seed: int) -> Batch:
    """Return a batch: x of mean 0 and variance 1 or of any number allowed, y of any class or of values in [0, 1)."""
    rng = Shuffle(seed)
    x: npt.NDArray[Any] = rng.uniform(examples * features.values).reshape(examples, *features.shape)
    if features.values_below is None:
        x = (x - np.float32(0.5)) * np.float32(sqrt(12.0))
    else:
        x = (x * features.values_below).astype(np.int64)
    y: npt.NDArray[Any] = rng.uniform(examples * prod(label.shape)).reshape(examples, *label.shape)
    if label.classes is not None:
        y = (y * label.classes).astype(np.int64)
    noise = rng.uniform(examples * noise_values).reshape(examples, noise_values) if noise_values else None
    return Batch(x, y, noise)
