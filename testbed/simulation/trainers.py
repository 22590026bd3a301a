"""Engines, shared by all services of a simulated world: a trainer keeps nothing between two calls."""

from collections.abc import Sequence

from skerry.tasks.bundle import Bundle
from skerry.training import trainer
from skerry.training.trainer import EngineName, Trainer


class Trainers:
    """Opens each bundle once for each engine."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, EngineName, int, tuple[str, ...]], Trainer] = {}

    def __call__(self, bundle: Bundle, engine: EngineName, threads: int, providers: Sequence[str], /) -> Trainer:
        """See `skerry.training.trainer.OpenTrainer`."""
        key = bundle.sha256, engine, threads, tuple(providers)
        if key not in self._open:
            self._open[key] = trainer.open_trainer(bundle, engine, threads, providers)
        return self._open[key]
