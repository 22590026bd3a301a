"""A whole region in one process, without agents: what becomes of a model whose learning rate falls to nothing.

Every part is the product's own but for the clock and the network: devices take turns at random, and an answer comes at
once. docs/decisions/0005-the-residual-fades-with-the-learning-rate.md has the figures of more such runs.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from edge_agent.outbox import Outbox, Update
from skerry.algorithms.arrival import Arrival, Spyker
from skerry.algorithms.decay import BudgetLogistic, Decay, NoDecay
from skerry.algorithms.merge import NextCycle
from skerry.algorithms.optimizer import Adam
from skerry.algorithms.schedule import Constant, Cosine, Schedule
from skerry.algorithms.uplink import TopK
from skerry.protocol import sparse
from skerry.protocol.messages import ModelVersion
from skerry.tasks.bundle import Bundle
from skerry.tasks.data import load
from skerry.training.batches import Batches
from skerry.training.local_run import LocalRun
from skerry.training.onnx_engine import OnnxTrainer
from skerry.training.shuffle import Shuffle
from skerry.vector import Float32

DEVICES = 6
STEPS = 20  # of a cycle
UPLINK, ADAM = TopK(density=0.01), Adam()


@dataclass
class Member:
    """One device, between two cycles."""

    outbox: Outbox
    batches: Batches
    base: Float32
    base_age: int = 0
    updates: int = 0


class Region:
    """A coordinator and its devices, whose cycles overlap."""

    def __init__(self, decay: Decay, schedule: Schedule) -> None:
        self.bundle = Bundle.builtin("activity")
        self.trainer = OnnxTrainer(self.bundle)
        self.held_out = load("builtin:activity", self.bundle.manifest, held_out=True)
        self.decay, self.schedule, self.arrival = decay, schedule, Spyker()
        self.model, self.age = self.bundle.initial_parameters(), 0
        self.members = [self._member(number) for number in range(DEVICES)]

    def _member(self, number: int) -> Member:
        rows = load(f"builtin:activity?part={number}&parts={DEVICES}", self.bundle.manifest)
        batches = Batches(rows, self.bundle.manifest.defaults.batch_examples, Shuffle(number))
        return Member(Outbox(len(self.model)), batches, self.model.copy())

    def train(self, cycles: int) -> float:
        """Let every device take so many cycles, in any order, and return the accuracy then."""
        rng = random.Random(self.age)
        for _ in range(cycles):
            for member in rng.sample(self.members, DEVICES):
                self._cycle(member)
        accuracy = self.trainer.evaluate(self.model, self.held_out).accuracy
        assert accuracy is not None
        return accuracy

    def _cycle(self, member: Member) -> None:
        run = LocalRun(
            self.trainer,
            member.batches,
            optimizer=ADAM,
            uplink=UPLINK,
            merge=NextCycle(),
            start=member.base,
            residual=member.outbox.residual,
            learning_rate=self.decay.learning_rate(member.updates, [each.updates for each in self.members]),
            schedule=self.schedule,
            first_step=member.updates * STEPS,
        )
        for _ in range(STEPS):
            run.step()
        member.updates += 1
        sequence = member.updates
        update = Update(sequence, ModelVersion("r/1", 1), STEPS, 1, 0.5, 0.1, run.highest_rate, b"", event=0)
        taken = member.outbox.take(update, run.difference(), UPLINK, self.trainer.layout)
        weights = self.arrival.decide([Arrival("pi", sequence, self.age - member.base_age, 1, 0.5, STEPS)])
        assert weights is not None
        (weight,) = weights
        sparse.decode(taken.payload, size=len(self.model)).add_to(self.model, weight)
        member.outbox.settle(sequence, weight)
        self.age += 1
        member.base, member.base_age = self.model.copy(), self.age


def cosine() -> Region:
    return Region(NoDecay(initial=1e-3), Cosine(fall_steps=50 * STEPS))


def decay_to_nothing() -> Region:
    return Region(BudgetLogistic(initial=1e-3, planned_updates=50 * DEVICES, steepness=0.5), Constant())


@pytest.mark.parametrize("region", [cosine, decay_to_nothing])
def test_a_rate_that_falls_to_nothing_leaves_the_model_as_good_as_it_was(region: Callable[[], Region]) -> None:
    """Else what the devices still hold goes on being sent, at full size, and no step corrects what it does."""
    world = region()
    before = world.train(cycles=40)
    after = world.train(cycles=30)
    assert before > 0.7
    assert after > before - 0.03
