"""The device's own head: which tensors it has, and that tuning touches nothing else."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edge_agent.config import AgentConfig
from edge_agent.personal import OwnTensors, Tuning
from edge_agent.task import OpenTask, open_task
from skerry.errors import ConfigError
from skerry.tasks.bundle import Bundle
from skerry.vector import Layout, Tensor

LAYOUT = Layout(
    (
        Tensor("0.weight", (2, 3), 0),
        Tensor("2.weight", (2,), 6),
        Tensor("2.bias", (), 8),
        Tensor("2.mean", (2,), 9, False),
    )
)


def test_tensors_are_chosen_by_name_or_glob() -> None:
    own = OwnTensors(LAYOUT, ["2.*"], "tiny")
    assert own.names == ("2.weight", "2.bias")  # no buffer: those are not trained
    assert own.entries.tolist() == [6, 7, 8]
    assert OwnTensors(LAYOUT, ["2.bias", "0.weight", "0.*"], "tiny").entries.tolist() == [0, 1, 2, 3, 4, 5, 8]
    combined = own.with_head(np.zeros(11, np.float32), np.array([1, 2, 3], np.float32))
    assert combined.tolist() == [0, 0, 0, 0, 0, 0, 1, 2, 3, 0, 0]


@pytest.mark.parametrize("pattern", ["9.*", "2.mean", "weight"])
def test_a_name_that_is_not_there_is_told_with_those_that_are(pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"names no tensor of task 'tiny'; there are: 0\.weight, 2\.weight, 2\.bias"):
        OwnTensors(LAYOUT, ["2.*", pattern], "tiny")


@pytest.fixture
def task(activity: Bundle, agent_config: Callable[..., AgentConfig]) -> OpenTask:
    return open_task(activity, agent_config("http://127.0.0.1:9", personal={"layers": ["4.*"]}))


def test_tuning_changes_the_own_tensors_alone_and_lowers_the_loss(task: OpenTask) -> None:
    assert task.own is not None
    assert task.held_out is not None
    assert task.own_batches is not None
    tuning = Tuning(task.trainer, task.own_batches, task.own, task.initial.copy(), 0.1)
    for _ in range(60):
        tuning.step()
    changed = np.flatnonzero(tuning.parameters != task.initial)
    assert set(changed) <= set(task.own.entries.tolist())
    assert len(changed) > len(task.own.entries) // 2
    before, after = (task.trainer.evaluate(model, task.held_out) for model in (task.initial, tuning.parameters))
    assert after.loss < before.loss
    np.testing.assert_array_equal(tuning.head, tuning.parameters[task.own.entries])
    assert tuning.is_finite


def test_a_head_that_diverged_is_seen(task: OpenTask) -> None:
    assert task.own is not None
    assert task.own_batches is not None
    tuning = Tuning(task.trainer, task.own_batches, task.own, task.initial.copy(), 1e39)
    with np.errstate(all="ignore"):
        for _ in range(3):
            tuning.step()
    assert not tuning.is_finite


def test_the_own_batches_leave_the_order_of_the_training_data_alone(
    activity: Bundle, agent_config: Callable[..., AgentConfig]
) -> None:
    def batches(task: OpenTask, count: int) -> list[Any]:
        return [next(task.batches).y for _ in range(count)]

    plain = open_task(activity, agent_config("http://127.0.0.1:9"))
    own = open_task(activity, agent_config("http://127.0.0.1:9", personal={"layers": ["4.*"]}))
    assert own.own_batches is not None
    for _ in range(7):
        next(own.own_batches)
    np.testing.assert_array_equal(batches(plain, 20), batches(own, 20))
