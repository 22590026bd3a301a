"""Initial parameters that are part of a bundle: the same whenever it is built."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SEED = 1


@contextmanager
def seeded() -> Iterator[None]:
    """Make what is drawn inside depend on nothing but SEED; the caller's own random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        yield
