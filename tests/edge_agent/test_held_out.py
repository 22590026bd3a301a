"""Evaluation on held-out rows: bounded, comparable, and what is reported of it."""

from math import inf, nan

import numpy as np
import pytest

from edge_agent.held_out import SLICE_EXAMPLES, HeldOutScores, Score, sample, score, slices
from edge_agent.local_use import ShareOfTime
from skerry.protocol.messages import LOSS_SUM_MAX
from skerry.tasks.bundle import Bundle
from skerry.tasks.data import Dataset, load
from skerry.training.onnx_engine import OnnxTrainer
from skerry.training.trainer import Evaluation
from skerry.vector import Float32


def test_slices_add_up_to_the_whole(activity: Bundle) -> None:
    rows = load("builtin:activity?part=0&parts=6", activity.manifest, held_out=True)
    trainer, parameters = OnnxTrainer(activity), activity.initial_parameters()
    whole = trainer.evaluate(parameters, rows)
    total = Score()
    for part in slices(rows):
        assert 1 <= len(part) <= SLICE_EXAMPLES
        total += score(trainer, parameters, part)
    assert (total.examples, total.correct) == (whole.examples, whole.correct)
    assert total.loss_sum == pytest.approx(whole.loss * whole.examples, rel=1e-5)
    assert total.about()["accuracy"] == pytest.approx(whole.accuracy)


def test_a_sample_is_spread_evenly_and_always_the_same() -> None:
    dataset = Dataset(np.arange(1000.0), np.arange(1000))
    chosen = sample(dataset, 10)
    assert chosen.y.tolist() == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]
    assert sample(dataset, 10).y.tolist() == chosen.y.tolist()
    assert sample(dataset, 1000) is dataset


@pytest.mark.parametrize(("loss_sum", "reported"), [(3.5, 3.5), (nan, LOSS_SUM_MAX), (inf, LOSS_SUM_MAX), (-1e-9, 0.0)])
def test_what_a_diverged_model_loses_is_reported_within_bounds(loss_sum: float, reported: float) -> None:
    assert Score(1, 0, loss_sum).reported_loss_sum == reported


def test_without_an_own_head_there_is_no_figure_for_it() -> None:
    assert HeldOutScores().reported_personal_correct is None
    assert HeldOutScores(None, Score(4, 2), Score(4, 3)).reported_personal_correct == 3


def test_predictions_that_are_neither_right_nor_wrong_have_a_loss_alone(activity: Bundle) -> None:
    class Regression(OnnxTrainer):
        def evaluate(self, parameters: Float32, dataset: Dataset) -> Evaluation:
            return Evaluation(len(dataset), None, 0.75)

    trainer, rows = Regression(activity), Dataset(np.arange(8.0), np.arange(8))
    total = Score() + score(trainer, activity.initial_parameters(), rows)
    assert total == Score(8, None, 6.0)
    assert total.about() == {"loss": 0.75}
    scores = HeldOutScores(None, total, total)
    assert (scores.reported_correct, scores.reported_personal_correct) == (0, 0)


def test_work_keeps_to_its_share_of_the_time() -> None:
    share = ShareOfTime(0.25)
    now_s, worked_s = 100.0, 0.0
    for _ in range(1000):
        if share.is_due(now_s):
            share.worked(now_s, now_s + 0.3)
            worked_s += 0.3
            now_s += 0.3
        else:
            now_s += 0.01
    assert worked_s / (now_s - 100.0) == pytest.approx(0.25, rel=0.1)
