from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from skerry.algorithms.optimizer import Sgd
from skerry.errors import DataError
from skerry.tasks.bundle import Bundle
from skerry.tasks.data import Dataset
from skerry.tasks.manifest import Input, Label
from skerry.training.batches import Batches
from skerry.training.definition import TaskDefinition
from skerry.training.onnx_engine import OnnxTrainer
from skerry.training.shuffle import Shuffle
from skerry.training.trainer import Trainer, open_trainer
from skerry.vector import Float32

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from torch import nn  # noqa: E402 - behind importorskip


@pytest.fixture(scope="module")
def torch_trainer(activity: Bundle) -> Trainer:
    return open_trainer(activity, "torch")


def thirty_steps(trainer: Trainer, start: Float32, rows: Dataset) -> tuple[Float32, list[float]]:
    parameters, losses = start.copy(), []
    state = Sgd(momentum=0.9, weight_decay=1e-4).start(trainer.layout.trainable_size)
    batches = Batches(rows, 32, Shuffle(7))
    for _ in range(30):
        result = trainer.step(parameters, *next(batches))
        state.step(parameters, result.gradient, 0.05)
        losses.append(result.loss)
    return parameters, losses


def test_both_engines_give_the_same_training(
    activity: Bundle, trainer: OnnxTrainer, torch_trainer: Trainer, training_rows: Dataset
) -> None:
    """Autograd on the forward graph against the exported gradient: within rounding, after 30 steps."""
    start = activity.initial_parameters()
    (onnx_model, onnx_losses), (torch_model, torch_losses) = (
        thirty_steps(engine, start, training_rows) for engine in (trainer, torch_trainer)
    )
    drift = np.linalg.norm(onnx_model - torch_model) / np.linalg.norm(onnx_model - start)
    assert drift < 1e-4
    np.testing.assert_allclose(onnx_losses, torch_losses, rtol=1e-4)
    assert onnx_losses[-1] < 0.8 * onnx_losses[0]


def test_both_engines_evaluate_and_predict_alike(
    activity: Bundle, trainer: OnnxTrainer, torch_trainer: Trainer, held_out_rows: Dataset
) -> None:
    parameters = activity.initial_parameters()
    ours, theirs = (engine.evaluate(parameters, held_out_rows) for engine in (trainer, torch_trainer))
    assert (ours.examples, ours.correct) == (theirs.examples, theirs.correct)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
    np.testing.assert_allclose(
        trainer.predict(parameters, held_out_rows.x), torch_trainer.predict(parameters, held_out_rows.x), atol=1e-5
    )


def test_the_loss_can_be_differentiated_twice(activity: Bundle, training_rows: Dataset) -> None:
    """What inverts an update differentiates through a step: it needs the gradient's own gradient."""
    from skerry.training.torch_graph import TorchGraph

    loss = TorchGraph(activity.part("step.onnx"), ["loss"])
    x, y = (torch.from_numpy(array) for array in training_rows.rows(slice(0, 4)))
    x.requires_grad_()
    parameters = torch.tensor(activity.initial_parameters(), requires_grad=True)
    (gradient,) = torch.autograd.grad(
        loss({"parameters": parameters, "x": x, "y": y})[0], parameters, create_graph=True
    )
    (of_x,) = torch.autograd.grad(gradient.square().sum(), x)
    assert float(of_x.abs().max()) > 0


class StopsGradients(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        out = self.linear(x)
        return out * out.detach()


class Padded(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.logits = nn.Embedding(90, 4, padding_idx=1), nn.Linear(4, 3)
        nn.init.normal_(self.embedding.weight)

    def forward(self, x: Any) -> Any:
        return self.logits(self.embedding(x).sum(1))


@pytest.mark.parametrize(
    ("model", "features", "tensor"),
    [
        (StopsGradients, Input(shape=(4,)), "linear.weight"),
        (Padded, Input(shape=(8,), dtype="int64", values_below=90), "embedding.weight"),
    ],
)
def test_a_model_that_stops_gradients_is_left_to_the_other_engine(
    model: Callable[[], Any], features: Input, tensor: str, tmp_path: Path
) -> None:
    """The forward graph does not show it: autograd would go on without an error."""
    from skerry.training.build import build

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = build(TaskDefinition(name="made", model=model(), input=features, label=Label(classes=3)))
    path = tmp_path / "made.skerry"
    path.write_bytes(made.file)
    bundle = Bundle.open(path)
    assert open_trainer(bundle, "onnx").runs_on == "onnx: CPUExecutionProvider"
    with pytest.raises(DataError, match=f"gradient of {tensor} is not the bundle's: .*: use the onnx engine"):
        open_trainer(bundle, "torch")


def test_an_operator_that_it_does_not_know_is_named() -> None:
    from skerry.training.torch_graph import TorchGraph
    from skerry.training.unsupported_operator import UnsupportedOperator

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "loss")]
    made = helper.make_graph([helper.make_node("Bernoulli", ["x"], ["loss"])], "g", value[:1], value[1:])
    graph = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString()
    with pytest.raises(UnsupportedOperator, match="does not know Bernoulli: use the onnx engine"):
        TorchGraph(graph, ["loss"])
    assert onnx.ModelProto.FromString(graph).graph.node[0].op_type == "Bernoulli"
    assert TorchGraph(graph, [])({}) == ()
