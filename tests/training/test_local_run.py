"""One cycle of local steps, worked out by hand on a trainer whose gradient is the batch's number."""

from collections.abc import Callable, Iterator
from itertools import count
from math import isnan
from typing import Any

import numpy as np
import pytest

from skerry.algorithms.merge import CarryOver, NextCycle
from skerry.algorithms.optimizer import Sgd
from skerry.algorithms.schedule import Constant, Step
from skerry.algorithms.uplink import Dense, Flare, TopK, WholeModel
from skerry.training.batches import Batch
from skerry.training.local_run import LocalRun
from skerry.training.trainer import Trainer

START = np.array([1.0, 2.0, 3.0, 10.0], np.float32)


def numbers() -> Iterator[Batch]:
    """Yield batches numbered from 1."""
    return (Batch(np.array([number], np.float32), np.array([0])) for number in count(1))


@pytest.fixture
def begin(slope: Trainer) -> Callable[..., LocalRun]:
    def begin(**changes: Any) -> LocalRun:
        settings: dict[str, Any] = {
            "optimizer": Sgd(momentum=0.0, weight_decay=0.0),
            "uplink": TopK(),
            "merge": CarryOver(),
            "start": START.copy(),
            "residual": np.zeros(4, np.float32),
            "learning_rate": 0.5,
        }
        return LocalRun(slope, numbers(), **(settings | changes))

    return begin


def test_each_step_follows_the_gradient_and_keeps_the_buffers(begin: Callable[..., LocalRun]) -> None:
    run = begin()
    assert run.step() == 6.0
    assert run.step() == 2 * (6.0 - 1.5)
    np.testing.assert_array_equal(run.parameters, [-0.5, 0.5, 1.5, 12.0])
    assert (run.steps, run.mean_loss) == (2, 7.5)


def test_what_is_sent_is_the_difference_or_the_model(begin: Callable[..., LocalRun]) -> None:
    run = begin()
    run.step()
    np.testing.assert_array_equal(run.learned(), run.difference())
    run = begin(uplink=WholeModel())
    run.step()
    learned = run.learned()
    np.testing.assert_array_equal(learned, run.parameters)
    run.step()
    np.testing.assert_array_equal(learned, [0.5, 1.5, 2.5, 11.0])  # a copy: what is sent does not change any more


def test_the_difference_covers_the_whole_vector(begin: Callable[..., LocalRun]) -> None:
    run = begin()
    np.testing.assert_array_equal(run.difference(), np.zeros(4))
    run.step()
    np.testing.assert_array_equal(run.difference(), [-0.5, -0.5, -0.5, 1.0])


def test_momentum_builds_up_within_a_run_and_restarts_with_the_next(begin: Callable[..., LocalRun]) -> None:
    optimizer = Sgd(momentum=0.5, weight_decay=0.0)
    run = begin(optimizer=optimizer)
    run.step(), run.step()
    assert run.difference()[0] == np.float32(-0.5 * (1 + 2.5))
    again = begin(optimizer=optimizer)
    again.step()
    assert again.difference()[0] == -0.5


def test_the_vectors_that_were_passed_in_stay_as_they_are(begin: Callable[..., LocalRun]) -> None:
    start, residual, newer = START.copy(), np.ones(4, np.float32), START + 1
    run = begin(start=start, residual=residual, uplink=Flare())
    run.step()
    run.merge(newer)
    run.step()
    np.testing.assert_array_equal(start, START)
    np.testing.assert_array_equal(residual, np.ones(4))
    np.testing.assert_array_equal(newer, START + 1)


def test_a_newer_model_becomes_the_base_and_what_was_learnt_is_carried_over(begin: Callable[..., LocalRun]) -> None:
    run = begin()
    run.step()
    learnt, newer = run.difference(), START + np.float32(8)
    assert run.merge(newer)
    np.testing.assert_array_equal(run.difference(), learnt)
    np.testing.assert_array_equal(run.parameters, newer + learnt)
    run.step()
    assert run.steps == 2
    np.testing.assert_array_equal(run.difference()[:3], learnt[:3] - 1)


def test_a_rule_that_does_not_merge_leaves_the_run_alone(begin: Callable[..., LocalRun]) -> None:
    run = begin(merge=NextCycle())
    run.step()
    before = run.difference()
    assert not run.merge(START + 8)
    np.testing.assert_array_equal(run.difference(), before)


def test_the_uplink_draws_the_first_step_towards_what_was_not_sent(begin: Callable[..., LocalRun]) -> None:
    """One push of learning rate times strength on the entries whose residual is above the median, and no more."""
    residual = np.array([0.0, 0.1, -3.0, 0.0], np.float32)
    plain, pushed = begin(residual=residual), begin(residual=residual, uplink=Flare(strength=0.5, decay=1.0))
    plain.step(), pushed.step()
    np.testing.assert_allclose(pushed.difference() - plain.difference(), [0.0, 0.0, -0.25, 0.0], atol=1e-6)
    plain.step(), pushed.step()
    np.testing.assert_allclose(pushed.difference() - plain.difference(), [0.0, 0.0, -0.25, 0.0], atol=1e-6)


def test_the_pull_fades_with_the_uploads(begin: Callable[..., LocalRun]) -> None:
    residual = np.array([0.0, 0.1, 4.0, 0.0], np.float32)
    pulls = []
    for uploads in (0, 3):
        run = begin(residual=residual, uplink=Flare(strength=0.5, decay=2.0), uploads=uploads)
        run.step()
        pulls.append(float(run.difference()[2] + 0.5))
    assert pulls == pytest.approx([0.125, 0.125 / 8])


def test_the_schedule_goes_on_from_the_steps_taken_before(begin: Callable[..., LocalRun]) -> None:
    run = begin(schedule=Step(every_steps=5, gamma=0.5), first_step=4)
    rates = [run.highest_rate]
    for _ in range(2):
        run.step()
        rates.append(run.highest_rate)
    assert run.difference()[0] == -0.5 * 1 - 0.25 * 2
    assert rates == [0.0, 0.5, 0.5]


def test_a_rate_that_is_set_between_two_steps_counts_from_the_next(begin: Callable[..., LocalRun]) -> None:
    run = begin(schedule=Constant(warmup_steps=1))
    run.step()
    run.learning_rate = 0.125
    run.step()
    assert run.difference()[0] == -0.25 * 1 - 0.125 * 2


def test_the_pull_is_as_long_as_the_rate_of_its_step(begin: Callable[..., LocalRun]) -> None:
    residual = np.array([0.0, 0.1, -3.0, 0.0], np.float32)
    halved = {"schedule": Step(every_steps=1, gamma=0.5), "first_step": 1}
    plain = begin(residual=residual, **halved)
    pushed = begin(residual=residual, uplink=Flare(strength=0.5, decay=1.0, push_steps=2), **halved)
    for rate, pulled in ((0.5, 0.125), (8.0, 0.125 + 1.0)):
        plain.learning_rate = pushed.learning_rate = rate
        plain.step(), pushed.step()
        pull = pushed.difference() - plain.difference()
        np.testing.assert_allclose(pull, [0.0, 0.0, -pulled, 0.0], atol=1e-5)


def test_a_run_that_has_not_begun_has_no_loss(begin: Callable[..., LocalRun]) -> None:
    run = begin(uplink=Dense())
    assert run.steps == 0
    assert isnan(run.mean_loss)
