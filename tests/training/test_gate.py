"""Graphs that are not what torch computes never become a bundle."""

from itertools import count
from math import nan
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from skerry.tasks.manifest import Input, Label, PartName
from skerry.training.export_error import ExportError
from skerry.vector import Layout, Tensor

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from torch import nn  # noqa: E402 - behind importorskip

from skerry.training import gate as gate_module  # noqa: E402
from skerry.training.build import build, export_graphs  # noqa: E402
from skerry.training.functional_model import FunctionalModel  # noqa: E402
from skerry.training.gate import check_graphs  # noqa: E402
from tests.training.small_models import RunningMean, task  # noqa: E402

FEATURES, CLASSES = Input(shape=(4,)), Label(classes=3)


class ByBatch(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    def __init__(self, limit: int) -> None:
        super().__init__()
        self.linear, self.limit = nn.Linear(4, 3), limit

    def forward(self, x: Any) -> Any:
        return self.linear(x) if x.shape[0] < self.limit else self.linear(-x)


@pytest.fixture(scope="module")
def exported() -> tuple[FunctionalModel, dict[PartName, bytes]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = FunctionalModel(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), CLASSES)
    return model, export_graphs(model, torch.randn(7, 4), torch.randint(0, 3, (7,)))


def gate(model: FunctionalModel, graphs: dict[PartName, bytes]) -> None:
    check_graphs(model, graphs, FEATURES, 0)


def serialised(model: onnx.ModelProto) -> bytes:
    data: bytes = model.SerializeToString()
    return data


def scaled(graph: bytes, output: str, factor: float) -> bytes:
    """Return the graph with one output multiplied."""
    model = onnx.ModelProto.FromString(graph)
    for node in model.graph.node:
        node.output[:] = ["unscaled" if name == output else name for name in node.output]
        node.input[:] = ["unscaled" if name == output else name for name in node.input]
    model.graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float32), "factor"))
    model.graph.node.append(onnx.helper.make_node("Mul", ["unscaled", "factor"], [output]))
    return serialised(model)


def test_a_right_export_passes_the_gate(exported: tuple[FunctionalModel, dict[PartName, bytes]]) -> None:
    model, graphs = exported
    report = check_graphs(model, graphs, FEATURES, 0, batch_sizes=(1, 2, 64))
    assert max(report.gradient_error, report.loss_error, report.logits_error) < 2e-6
    gate(model, {**graphs, PartName.STEP: scaled(graphs[PartName.STEP], "gradient", 1.0)})


@pytest.mark.parametrize(
    ("part", "output"), [(PartName.STEP, "gradient"), (PartName.STEP, "loss"), (PartName.EVALUATE, "loss_sum")]
)
def test_a_scaled_output_does_not_pass_the_gate(
    exported: tuple[FunctionalModel, dict[PartName, bytes]], part: PartName, output: str
) -> None:
    model, graphs = exported
    with pytest.raises(ExportError, match=rf"{output}.* is off by .* the exported graph is wrong and was not kept"):
        gate(model, {**graphs, part: scaled(graphs[part], output, 1.001)})


def test_one_wrong_tensor_is_not_hidden_by_the_others(
    exported: tuple[FunctionalModel, dict[PartName, bytes]],
) -> None:
    model, graphs = exported
    step = onnx.ModelProto.FromString(graphs[PartName.STEP])
    (joined,) = [node for node in step.graph.node if node.output[0] == "gradient"]
    assert joined.op_type == "Concat"
    step.graph.initializer.append(numpy_helper.from_array(np.array(1.001, np.float32), "factor"))
    step.graph.node.insert(
        len(step.graph.node) - 1, onnx.helper.make_node("Mul", [joined.input[3], "factor"], ["scaled"])
    )
    joined.input[3] = "scaled"
    with pytest.raises(ExportError, match=r"gradient of 2\.bias is off"):
        gate(model, {**graphs, PartName.STEP: serialised(step)})


def test_a_tensor_s_error_is_measured_against_its_own_gradient_but_for_rounding() -> None:
    layout = Layout((Tensor("large", (1,), 0), Tensor("small", (1,), 1), Tensor("noise", (1,), 2)))
    wanted = np.array([1000.0, 2.0, 1e-9], np.float32)
    errors = gate_module._gradient_errors(layout, wanted * np.array([1.0, 1.01, 2.0], np.float32), wanted)
    assert errors["gradient of small"] == pytest.approx(0.01, rel=1e-3)
    assert errors["gradient of noise"] < 1e-8


def test_the_gate_s_inputs_leave_some_labels_out_and_move_a_model_both_ways() -> None:
    model = FunctionalModel(RunningMean(), Label(classes=3, shape=(2,)))
    inputs = gate_module._inputs(model, FEATURES, 0, 5, 0)
    assert 0 < (inputs["y"] == -100).sum() < inputs["y"].size
    assert not (gate_module._inputs(model, FEATURES, 0, 1, 0)["y"] == -100).any()  # not all of a small batch
    moved = inputs["parameters"] - model.vector()
    assert moved[:15].min() < 0.0 < moved[:15].max()
    assert moved[15:].min() >= 0.0  # the tail may be variances


def test_a_gradient_that_is_zero_on_all_inputs_is_no_equal_gradient() -> None:
    """Behind a dead ReLU a right graph and a wrong one look alike."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    with pytest.raises(ExportError, match=r"the gradient of 0\.weight, 0\.bias, 2\.weight is zero on all examples"):
        build(task(model))


def test_a_wrong_buffer_does_not_hide_beside_a_large_frozen_tensor() -> None:
    module = nn.Sequential(RunningMean(), nn.Linear(3, 3))
    with torch.no_grad():
        module[1].weight.fill_(1000.0).requires_grad_(False)
    model = FunctionalModel(module, CLASSES)
    graphs = export_graphs(model, torch.randn(7, 4), torch.randint(0, 3, (7,)))
    gate(model, graphs)
    step = onnx.ModelProto.FromString(graphs[PartName.STEP])
    (joined,) = [node for node in step.graph.node if node.output[0] == "buffers"]
    step.graph.initializer.append(numpy_helper.from_array(np.array(1.01, np.float32), "factor"))
    place = list(step.graph.node).index(joined)
    step.graph.node.insert(place, onnx.helper.make_node("Mul", [joined.input[1], "factor"], ["scaled"]))
    joined.input[1] = "scaled"
    with pytest.raises(ExportError, match=r"buffer 0\.mean is off by"):
        gate(model, {**graphs, PartName.STEP: serialised(step)})


def test_a_graph_that_gives_no_number_once_does_not_pass_the_gate(
    exported: tuple[FunctionalModel, dict[PartName, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The median of three seeds would not tell."""
    model, graphs = exported
    relative = gate_module._relative
    calls = count()
    monkeypatch.setattr(gate_module, "_relative", lambda *given: nan if next(calls) == 0 else relative(*given))
    with pytest.raises(ExportError, match="is off by nan"):
        gate(model, graphs)


def test_a_graph_that_does_not_load_or_takes_other_inputs_does_not_pass_the_gate(
    exported: tuple[FunctionalModel, dict[PartName, bytes]],
) -> None:
    model, graphs = exported
    with pytest.raises(ExportError, match="onnxruntime refuses the graph"):
        gate(model, {**graphs, PartName.STEP: b"no graph"})
    with pytest.raises(ExportError, match="must take"):
        gate(model, {**graphs, PartName.STEP: graphs[PartName.EVALUATE]})


def test_a_graph_with_its_batch_frozen_does_not_pass_the_gate(
    exported: tuple[FunctionalModel, dict[PartName, bytes]],
) -> None:
    """The classic failure of an export: the graph is right, but only for batches of the example's size."""
    model, graphs = exported
    step = onnx.ModelProto.FromString(graphs[PartName.STEP])
    for node in step.graph.node:
        node.input[:] = ["x.frozen" if name == "x" else name for name in node.input]
    step.graph.initializer.append(numpy_helper.from_array(np.array([7, 4]), "shape"))
    step.graph.node.insert(0, onnx.helper.make_node("Reshape", ["x", "shape"], ["x.frozen"]))
    with pytest.raises(ExportError, match=r"step\.onnx does not run with a batch of 1, its batch size must be free"):
        gate(model, {**graphs, PartName.STEP: serialised(step)})


def test_a_mean_over_the_example_s_batch_does_not_pass_the_gate(
    exported: tuple[FunctionalModel, dict[PartName, bytes]],
) -> None:
    """It runs at every size, and is wrong at every size but one."""
    model, graphs = exported
    step = onnx.ModelProto.FromString(scaled(graphs[PartName.STEP], "gradient", 1 / 7))
    multiply = step.graph.node.pop()
    make_node, last = onnx.helper.make_node, multiply.input[0]
    step.graph.node.extend(
        [
            make_node("Shape", ["y"], ["examples"]),
            make_node("Cast", ["examples"], ["examples.float"], to=onnx.TensorProto.FLOAT),
            make_node("Mul", ["examples.float", "factor"], ["too.much"]),
            make_node("Mul", [last, "too.much"], ["gradient"]),
        ]
    )
    check_graphs(model, {**graphs, PartName.STEP: serialised(step)}, FEATURES, 0, batch_sizes=(7,))
    with pytest.raises(ExportError, match=r"gradient of 0\.weight is off .* at a batch of 1 "):
        gate(model, {**graphs, PartName.STEP: serialised(step)})


@pytest.mark.parametrize("limit", [3, 20, 1000])
def test_a_model_that_asks_how_large_the_batch_is_does_not_pass_the_gate(limit: int) -> None:
    """Its limit may lie beyond every batch that the gate tries."""
    with pytest.raises(ExportError, match=r"at a batch of 1 .* wrong and was not kept"):
        build(task(ByBatch(limit)))


def test_an_export_that_is_wrong_never_becomes_a_bundle(
    exported: tuple[FunctionalModel, dict[PartName, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From end to end: an exporter that went wrong without an error."""
    model, graphs = exported
    wrong = {**graphs, PartName.STEP: scaled(graphs[PartName.STEP], "gradient", 1.01)}
    monkeypatch.setattr("skerry.training.build.export_graphs", lambda *_: graphs)
    assert build(task(model.model)).file
    monkeypatch.setattr("skerry.training.build.export_graphs", lambda *_: wrong)
    with pytest.raises(ExportError, match="the exported graph is wrong and was not kept"):
        build(task(model.model))
