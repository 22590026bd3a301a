"""How well the region's models do on held-out data: measured off the event loop, now and then, when they changed."""

import asyncio
import hashlib
import logging
from functools import partial
from math import isfinite
from typing import Literal, Protocol

from coordinator.config import Evaluation as EvaluationConfig
from coordinator.engine import ModelSnapshot
from coordinator.events import Evaluated, Event
from coordinator.metrics import Metrics
from coordinator.threads import RunInThread
from skerry.tasks import data
from skerry.tasks.bundle import Bundle
from skerry.tasks.data import Dataset
from skerry.training.trainer import Evaluation, Trainer

log = logging.getLogger(__name__)

Kind = Literal["regional", "federated"]
KINDS: tuple[Kind, ...] = ("regional", "federated")
LOSS_MAX = 1e9  # said where the loss is larger, infinite or no number: the model has diverged


class Region(Protocol):
    """What an evaluation needs of the engine."""

    def submit(self, event: Event) -> None:
        """Hand over what happened."""

    def model(self, kind: Kind = "regional") -> ModelSnapshot:
        """Copy a model as it is now."""


class Evaluator:
    """Evaluates the regional and the federated model every `every_s` seconds."""

    def __init__(
        self,
        region: Region,
        trainer: Trainer,
        held_out: Dataset,
        metrics: Metrics,
        run_in_thread: RunInThread,
        every_s: float,
    ) -> None:
        self._region = region
        self._trainer = trainer
        self._held_out = held_out
        self._metrics = metrics
        self._run_in_thread = run_in_thread
        self.every_s = every_s  # may be changed at any time
        self._evaluated: dict[Kind, bytes] = {}  # digest of the model that was evaluated last
        self.latest: dict[Kind, Evaluated] = {}

    async def run(self) -> None:
        """Evaluate until cancelled."""
        while True:
            await self.once()
            await asyncio.sleep(self.every_s)

    async def once(self) -> None:
        """Evaluate what has changed since the last time."""
        for kind in KINDS:
            snapshot = self._region.model(kind)
            result = await self._run_in_thread(partial(self._evaluate, kind, snapshot))
            if result is None:
                continue
            version = snapshot.version.number
            loss = min(result.loss, LOSS_MAX) if isfinite(result.loss) else LOSS_MAX
            evaluated = Evaluated(version, snapshot.age, kind, result.examples, result.correct, loss)
            self.latest[kind] = evaluated
            if result.accuracy is not None:
                self._metrics.accuracy[kind] = result.accuracy
            self._metrics.loss[kind] = loss
            self._region.submit(evaluated)
            reached = "no accuracy" if result.accuracy is None else f"accuracy {result.accuracy:.4f}"
            log.info("%s model, version %d: %s, loss %.4g", kind, version, reached, loss)

    def _evaluate(self, kind: Kind, snapshot: ModelSnapshot) -> Evaluation | None:
        """Evaluate a model, unless it is the one that was evaluated last. In a thread."""
        digest = hashlib.sha256(snapshot.values.tobytes()).digest()
        if self._evaluated.get(kind) == digest:
            return None
        self._evaluated[kind] = digest
        return self._trainer.evaluate(snapshot.values, self._held_out)


def open_evaluator(
    config: EvaluationConfig,
    bundle: Bundle,
    trainer: Trainer,
    region: Region,
    metrics: Metrics,
    run_in_thread: RunInThread,
) -> Evaluator:
    """Load the held-out data. Blocks: meant for the start.

    Raises:
        DataError: the source cannot be used.
    """
    held_out = data.load(config.source, bundle.manifest, held_out=True, data_dir=config.dir)
    return Evaluator(region, trainer, held_out, metrics, run_in_thread, config.every_s)
