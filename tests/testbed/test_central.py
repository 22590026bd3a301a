"""The central model is trained on the real task, the same each time."""

from skerry.algorithms.optimizer import Sgd
from skerry.algorithms.schedule import Constant
from skerry.tasks import data
from skerry.tasks.bundle import resolve
from skerry.training.shuffle import Shuffle
from skerry.training.trainer import open_trainer
from testbed import central
from testbed.run_record import CentralRecord
from testbed.scenario import Central


def train(seed: int) -> CentralRecord:
    bundle = resolve("builtin:activity")
    return central.train(
        open_trainer(bundle),
        bundle.initial_parameters(),
        data.load("builtin:activity?split=train", bundle.manifest),
        data.load("builtin:activity?split=test", bundle.manifest),
        Central(epochs=3, evaluate_every_epochs=2),
        optimizer=Sgd(momentum=0.5),
        schedule=Constant(),
        learning_rate=0.05,
        batch_examples=32,
        noise_values=0,
        rng=Shuffle(seed),
    )


def test_it_learns_and_its_best_point_is_the_mark() -> None:
    record = train(1)
    assert record.accuracy is not None
    assert record.accuracy == max(point.accuracy or 0.0 for point in record.points)
    assert record.accuracy > 0.7
    steps_per_epoch = -(-record.examples // 32)
    assert [point.steps for point in record.points] == [2 * steps_per_epoch, 3 * steps_per_epoch]


def test_the_same_seed_gives_the_same_model_and_another_one_does_not() -> None:
    assert train(1).points == train(1).points
    assert train(1).points != train(2).points
