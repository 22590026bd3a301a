"""A bundle made ready to train on: engine loaded, the device's data read and checked against it."""

import logging
from dataclasses import dataclass

from edge_agent.config import AgentConfig, with_profile
from skerry.tasks import data
from skerry.tasks.bundle import Bundle
from skerry.training.batches import Batches
from skerry.training.shuffle import Shuffle
from skerry.training.trainer import Trainer, open_trainer
from skerry.vector import Float32, Layout

log = logging.getLogger(__name__)


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


def open_task(bundle: Bundle, config: AgentConfig) -> OpenTask:
    """Load engine and data.

    Raises:
        ConfigError: the engine is not installed, or the profile cannot be read.
        DataError: the data are missing or do not fit the bundle; names file, column and row where there is one.
    """
    in_force = with_profile(config)
    dataset = data.load(config.data.source, bundle.manifest, data_dir=config.data.dir)
    trainer = open_trainer(bundle, in_force.engine, in_force.threads, in_force.providers)
    log.info("training on %s", trainer.runs_on)
    batch_examples = in_force.batch_examples or bundle.manifest.defaults.batch_examples
    return OpenTask(
        sha256=bundle.sha256,
        layout=trainer.layout,
        trainer=trainer,
        batches=Batches(dataset, batch_examples, Shuffle(config.training.seed), bundle.manifest.noise_values),
        examples=len(dataset),
        initial=bundle.initial_parameters(),
        learning_rate=bundle.manifest.defaults.learning_rate,
    )
