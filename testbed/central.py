"""The same model trained in one place, on all devices' rows at once: what federated training is measured against.

Same engine, rows, initial parameters, optimizer, schedule, batch and learning rate as on the devices; the federation is
missing.
"""

import time

from skerry.algorithms.optimizer import Optimizer
from skerry.algorithms.schedule import Schedule
from skerry.tasks.data import Dataset
from skerry.training.batches import Batches
from skerry.training.shuffle import Shuffle
from skerry.training.trainer import Trainer
from skerry.vector import Float32
from testbed.run_record import CentralPoint, CentralRecord
from testbed.scenario import Central


def train(
    trainer: Trainer,
    initial: Float32,
    training: Dataset,
    held_out: Dataset,
    plan: Central,
    *,
    optimizer: Optimizer,
    schedule: Schedule,
    learning_rate: float,
    batch_examples: int,
    noise_values: int,
    rng: Shuffle,
) -> CentralRecord:
    """Train for `plan.epochs` and return how well the model does on `held_out` as it goes.

    The accuracy of the record is that of the best point: the hardest mark that a federated model can be held to.
    """
    started_s = time.perf_counter()
    parameters = initial.copy()
    head = trainer.layout.trainable_size
    state = optimizer.start(head)
    batches = iter(Batches(training, batch_examples, rng, noise_values))
    steps_per_epoch = -(-len(training) // batch_examples)
    points: list[CentralPoint] = []
    for epoch in range(1, plan.epochs + 1):
        for step in range((epoch - 1) * steps_per_epoch, epoch * steps_per_epoch):
            result = trainer.step(parameters, *next(batches))
            state.step(parameters[:head], result.gradient, learning_rate * schedule.factor(step))
            if result.buffers is not None:
                parameters[head:] = result.buffers
        if epoch % plan.evaluate_every_epochs == 0 or epoch == plan.epochs:
            evaluation = trainer.evaluate(parameters, held_out)
            points.append(
                CentralPoint(steps=epoch * steps_per_epoch, accuracy=evaluation.accuracy, loss=evaluation.loss)
            )
    return CentralRecord(
        accuracy=max((point.accuracy for point in points if point.accuracy is not None), default=None),
        examples=len(training),
        epochs=float(plan.epochs),
        batch_examples=batch_examples,
        learning_rate=learning_rate,
        elapsed_s=time.perf_counter() - started_s,
        points=tuple(points),
    )
