"""What a lying device makes of what it learned, before it chooses what to send. It keeps the protocol in all else."""

import random
from collections.abc import Callable

import numpy as np

from skerry.vector import Float32
from testbed.comparison.scenario import Malicious

Alter = Callable[[Float32], Float32]


def lie(malicious: Malicious, draws: random.Random) -> Alter:
    """Return how a malicious device alters a difference, float32 of shape (n,)."""
    factor = np.float32(malicious.factor)
    match malicious.attack:
        case "sign_flip":
            return lambda difference: -factor * difference
        case "scaled":
            return lambda difference: factor * difference
        case "noise":
            generator = np.random.default_rng(draws.getrandbits(64))
            return lambda difference: _noise(factor * np.linalg.norm(difference), len(difference), generator)


def _noise(length: np.floating, size: int, generator: np.random.Generator) -> Float32:
    drawn = generator.standard_normal(size, np.float32)
    return drawn * np.float32(length / np.linalg.norm(drawn))
