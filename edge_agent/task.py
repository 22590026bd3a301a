"""A bundle made ready to train on: engine loaded, the device's data read and checked against it."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edge_agent.config import AgentConfig, with_profile
from edge_agent.held_out import sample
from edge_agent.personal import OwnTensors
from skerry.errors import ConfigError
from skerry.tasks import data
from skerry.tasks.bundle import Bundle
from skerry.tasks.data import Dataset
from skerry.tasks.manifest import Manifest
from skerry.training.batches import Batches
from skerry.training.shuffle import Shuffle
from skerry.training.trainer import OpenTrainer, Trainer, open_trainer
from skerry.vector import Float32, Layout

if TYPE_CHECKING:
    from edge_agent.inference import Predictor

log = logging.getLogger(__name__)


class LoadRows(Protocol):
    """As `skerry.tasks.data.load`."""

    def __call__(self, source: str, manifest: Manifest, /, *, data_dir: Path | None = None) -> Dataset:
        """Read the training rows of a source."""


@dataclass(frozen=True, slots=True, eq=False)
class OpenTask:
    """All that local steps need but a model."""

    sha256: str
    layout: Layout
    trainer: Trainer
    batches: Batches
    examples: int
    initial: Float32  # for calibration
    learning_rate: float  # the task's default, for calibration
    held_out: Dataset | None  # some of the rows that are kept from training; None: there are none, or they are not used
    own: OwnTensors | None  # that this device keeps for itself; None: it has no own head
    own_batches: Batches | None  # of the same rows in an order of their own, for that head
    predictor: "Predictor | None"  # None: nobody asks for predictions
    alter: Callable[[Float32], Float32] | None = None  # a lab's device that lies: what it makes of a difference
    shortcoming: str = ""  # why the own head that is wanted is left off


def open_task(
    bundle: Bundle, config: AgentConfig, open_trainer: OpenTrainer = open_trainer, load: LoadRows = data.load
) -> OpenTask:
    """Load engine and data; `load` reads the rows to train on where no held-out ones are wanted.

    Raises:
        ConfigError: the engine is not installed, or the profile cannot be read.
        DataError: the data are missing or do not fit the bundle; names file, column and row where there is one.
    """
    in_force = with_profile(config)
    manifest = bundle.manifest
    dataset, held_out = _rows(manifest, config, load)
    trainer = open_trainer(bundle, in_force.engine, in_force.threads, in_force.providers)
    log.info("training on %s", trainer.runs_on)
    batch_examples = in_force.batch_examples or manifest.defaults.batch_examples
    seed = config.training.seed
    own, shortcoming = _own(trainer.layout, config.personal.layers, manifest.name)
    return OpenTask(
        sha256=bundle.sha256,
        layout=trainer.layout,
        trainer=trainer,
        batches=Batches(dataset, batch_examples, Shuffle(seed), manifest.noise_values),
        examples=len(dataset),
        initial=bundle.initial_parameters(),
        learning_rate=manifest.defaults.learning_rate,
        held_out=held_out,
        own=own,
        own_batches=None if own is None else Batches(dataset, batch_examples, Shuffle(seed), manifest.noise_values),
        predictor=_predictor(bundle) if config.inference.enabled else None,
        shortcoming=shortcoming,
    )


def _own(layout: Layout, layers: tuple[str, ...], task: str) -> tuple[OwnTensors | None, str]:
    """Return the own head's tensors, else why there are none: the next task comes from afar, the names from here."""
    if not layers:
        return None, ""
    try:
        return OwnTensors(layout, layers, task), ""
    except ConfigError as error:
        return None, f"no own head: {error}"


def _predictor(bundle: Bundle) -> "Predictor":
    from edge_agent.inference import Predictor

    return Predictor(bundle)


def _rows(manifest: Manifest, config: AgentConfig, load: LoadRows) -> tuple[Dataset, Dataset | None]:
    """Return the rows to train on, and a sample of the held-out ones if there are some and they are wanted."""
    source, folder, examples_max = config.data.source, config.data.dir, config.held_out.examples_max
    if examples_max == 0:
        return load(source, manifest, data_dir=folder), None
    rows, held_out = data.load_parts(source, manifest, data_dir=folder)
    return rows, None if held_out is None else sample(held_out, examples_max)
