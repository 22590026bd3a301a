"""The built-in task, and a world without torch in which a step can be worked out by hand."""

import logging
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from skerry.tasks.bundle import Bundle
from skerry.tasks.data import Dataset, load
from skerry.training.onnx_engine import OnnxTrainer
from skerry.training.trainer import Evaluation, StepResult
from skerry.vector import Float32, Layout, Tensor


class Slope:
    """A trainer whose loss is the sum of parameters times the batch's number, and whose buffer counts batches."""

    runs_on = "a formula"
    layout = Layout((Tensor("w", (3,), 0), Tensor("count", (1,), 3, trainable=False)))

    def step(
        self, parameters: Float32, x: npt.NDArray[Any], y: npt.NDArray[Any], noise: Float32 | None = None
    ) -> StepResult:
        number = np.float32(x[0])
        return StepResult(float(number * parameters[:3].sum()), np.full(3, number, np.float32), parameters[3:] + 1)

    def evaluate(self, parameters: Float32, dataset: Dataset) -> Evaluation:
        return Evaluation(len(dataset), 0, float(parameters[:3].sum()))

    def predict(self, parameters: Float32, x: npt.NDArray[Any]) -> Float32:
        return np.zeros((len(x), 2), np.float32)


@pytest.fixture(scope="session", autouse=True)
def nothing_traced() -> None:
    """Keep pytest's log capture off torch's trace, which would note each step of an export and make it a fifth slower.

    Capture listens to each logger that does not hand on what it gets; this one is idle as long as nobody listens.
    """
    logging.getLogger("torch.__trace").propagate = True


@pytest.fixture
def slope() -> Slope:
    return Slope()


@pytest.fixture(scope="session")
def activity() -> Bundle:
    return Bundle.builtin("activity")


@pytest.fixture(scope="session")
def trainer(activity: Bundle) -> OnnxTrainer:
    return OnnxTrainer(activity)


@pytest.fixture(scope="session")
def training_rows(activity: Bundle) -> Dataset:
    return load("builtin:activity", activity.manifest)


@pytest.fixture(scope="session")
def held_out_rows(activity: Bundle) -> Dataset:
    return load("builtin:activity", activity.manifest, held_out=True)
