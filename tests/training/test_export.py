"""What becomes a bundle, and what does not: no wrong graph, and no refusal that does not name the layer."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from math import nan
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from skerry.tasks.builtin.catalogue import SHIPPED
from skerry.tasks.bundle import Bundle
from skerry.tasks.manifest import Defaults, Input, Label, PartName
from skerry.training.definition import TaskDefinition, load_definition
from skerry.training.export_error import ExportError
from skerry.training.made_up import batch
from skerry.training.trainer import open_trainer
from skerry.vector import Layout, Tensor

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from torch import nn  # noqa: E402 - behind importorskip

from skerry.training import gate as gate_module  # noqa: E402
from skerry.training.build import build, export_graphs  # noqa: E402
from skerry.training.builtin.definitions import builtin_definition  # noqa: E402
from skerry.training.functional_model import FunctionalModel  # noqa: E402
from skerry.training.gate import check_graphs  # noqa: E402

FEATURES, CLASSES = Input(shape=(4,)), Label(classes=3)


def task(model: nn.Module, shape: tuple[int, ...] = (4,), classes: int = 3) -> TaskDefinition:
    return TaskDefinition(name="made", model=model, input=Input(shape=shape), label=Label(classes=classes))


def opened(definition: TaskDefinition, folder: Path) -> Bundle:
    path = folder / "made.skerry"
    path.write_bytes(build(definition).file)
    return Bundle.open(path)


class RunningMean(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    """Centres its outputs by a mean that it keeps up to date while it trains, and counts in an integer buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.register_buffer("mean", torch.full((3,), 0.5))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Any) -> Any:
        out = self.linear(x)
        centred = out - self.mean
        if self.training:
            with torch.no_grad():
                self.mean.mul_(0.75).add_(out.mean(0), alpha=0.25)
                self.batches.add_(1)
        return centred


class Unused(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        return self.used(x)


class LogGamma(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    def forward(self, x: Any) -> Any:
        return torch.lgamma(x)


class Planes(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    """Pools examples without channels, which torch takes for the channels of one image."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.linear = nn.MaxPool2d(3, 2, 1), nn.Linear(2, 3)

    def forward(self, x: Any) -> Any:
        return self.linear(self.pool(x[:, None].expand(-1, 4, -1)).flatten(1)[:, :2])


class OfWeights(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    """Drops out weights, which have no batch dimension though their number can be divided by the example's."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(7, 4))

    def forward(self, x: Any) -> Any:
        return nn.functional.linear(x, nn.functional.dropout(self.weight, 0.5, self.training))[:, :3]


class OfTwo(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    """Has a layer that takes two inputs, before one that cannot be exported."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.strange = nn.Bilinear(4, 4, 3), LogGamma()

    def forward(self, x: Any) -> Any:
        return self.strange(self.both(x, x))


class NoBatchOfOne(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        if self.training and len(x) == 1:
            raise ValueError("two, please")
        return self.linear(x)


class Named(nn.Module):  # type: ignore[misc]
    def __init__(self, features: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 3)

    def forward(self, x: Any) -> Any:
        return {"logits": self.linear(x)}


class Branching(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        return self.linear(x) if x.sum() > 0 else self.linear(-x)


class ByBatch(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    def __init__(self, limit: int) -> None:
        super().__init__()
        self.linear, self.limit = nn.Linear(4, 3), limit

    def forward(self, x: Any) -> Any:
        return self.linear(x) if x.shape[0] < self.limit else self.linear(-x)


ACTIVATIONS = (nn.Tanh, nn.GELU, nn.ELU, nn.Softplus, nn.PReLU)


def test_the_usual_layers_become_a_bundle_that_both_engines_run(tmp_path: Path) -> None:
    layers = [layer for activation in ACTIVATIONS for layer in (nn.Linear(6, 6), activation())]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.LayerNorm(6), *layers, nn.Linear(6, 3))
    bundle = opened(task(model, shape=(2, 4)), tmp_path)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((9, 2, 4), np.float32), rng.integers(0, 3, 9)
    parameters = bundle.initial_parameters()
    ours, theirs = (open_trainer(bundle, engine).step(parameters, x, y) for engine in ("onnx", "torch"))
    np.testing.assert_allclose(ours.gradient, theirs.gradient, atol=1e-5)
    loss = nn.functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(y))
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))])
    np.testing.assert_allclose(ours.gradient, gradient.numpy(), atol=1e-6)


def test_float_buffers_are_the_tail_of_the_vector_and_follow_training(tmp_path: Path) -> None:
    model = RunningMean()
    bundle = opened(task(model), tmp_path)
    layout = bundle.manifest.layout
    assert [(tensor.name, tensor.trainable) for tensor in layout.tensors] == [
        ("linear.weight", True),
        ("linear.bias", True),
        ("mean", False),
    ]
    assert int(model.batches) == 0  # the author's model is as it was
    parameters = bundle.initial_parameters()
    assert parameters[15:].tolist() == [0.5, 0.5, 0.5]
    x, y = np.random.default_rng(0).standard_normal((5, 4), np.float32), np.array([0, 1, 2, 0, 1])
    with torch.no_grad():
        expected = 0.75 * 0.5 + 0.25 * model.linear(torch.from_numpy(x)).mean(0).numpy()
    for engine in ("onnx", "torch"):
        result = open_trainer(bundle, engine).step(parameters, x, y)
        assert result.buffers is not None
        np.testing.assert_allclose(result.buffers, expected, rtol=1e-5)
        assert result.gradient.shape == (15,)


def test_a_frozen_parameter_is_not_trained() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    model[0].weight.requires_grad_(False)
    layout = FunctionalModel(model, CLASSES).layout
    assert [tensor.name for tensor in layout.tensors if not tensor.trainable] == ["0.weight"]
    assert layout.tensors[-1].name == "0.weight"


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.RReLU(), nn.Linear(4, 3)), r"layer '1' \(RReLU\) .*: draws random"),
        (
            lambda: nn.Sequential(nn.Linear(4, 4), LogGamma(), nn.Linear(4, 3)),
            r"layer '1' \(LogGamma\) cannot be exported: no ONNX form: .*aten\.lgamma",
        ),
        (
            lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)),
            r"layer '1' \(BatchNorm1d\) .*does not train on a batch of 1: Expected more than 1 value",
        ),
        (
            lambda: nn.Sequential(
                nn.Unflatten(1, (1, 4)), nn.BatchNorm1d(1), nn.Flatten(), LogGamma(), nn.Linear(4, 3)
            ),
            r"layer '3' \(LogGamma\)",  # and not the one before it, which writes into its buffers
        ),
        (Planes, r"layer 'pool' \(MaxPool2d\) cannot be exported: no valid ONNX: InferenceError"),
        (OfTwo, r"layer 'strange' \(LogGamma\) cannot be exported: no ONNX form"),
        (
            OfWeights,
            r"layer 'model' \(OfWeights\) .*: drops out entries of a tensor of shape \(7, 4\), which has no batch",
        ),
        (
            Branching,
            r"model Branching cannot be exported: cannot be traced: it chooses by .* torch\.where .*"
            r"\(test_export\.py, line \d+: return self\.linear\(x\) if x\.sum\(\) > 0 else",
        ),
        (
            NoBatchOfOne,
            r"layer 'model' \(NoBatchOfOne\) .* on a batch of 1: two, please \(test_export\.py, line \d+: raise Val",
        ),
        (Unused, r"the loss does not depend on idle\.weight, idle\.bias: remove it from the model or freeze it"),
        (lambda: nn.Linear(4, 2), r"logits of shape \(7, 2\) for 7 examples, must be \(7, 3\)"),
        (Named, r"the model gives a dict, must be logits: one tensor of shape \(7, 3\)"),
        (lambda: nn.Linear(5, 3), r"does not take x of shape \(7, 4\): [^()]*\(7x4 and 5x3\)$"),
        (lambda: Named(5), r"does not take x of shape \(7, 4\): .* \(test_export\.py, line \d+: return \{.logits"),
        (lambda: nn.Linear(4, 3).double(), "weight is torch.float64"),
        (nn.Identity, "no trainable parameter"),
    ],
    ids=[
        "random",
        "no ONNX form",
        "batch norm",
        "second",
        "pool",
        "two inputs",
        "weights",
        "branch",
        "batch of one",
        "unused",
        "classes",
        "dict",
        "shape",
        "shape inside",
        "double",
        "nothing",
    ],
)
def test_what_cannot_be_exported_is_refused_with_layer_and_reason(model: Callable[[], nn.Module], reason: str) -> None:
    with pytest.raises(ExportError, match=reason):
        build(task(model()))


def test_an_operator_without_onnx_form_is_named_with_the_layer_that_is_parametrized_by_it() -> None:
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    with pytest.raises(
        ExportError,
        match=r"layer '1' \(ParametrizedLinear\) cannot be exported: no ONNX form: aten\._weight_norm_inter\w*: write",
    ):
        build(task(nn.Sequential(nn.Linear(4, 4), normed)))


@pytest.mark.parametrize(
    ("last", "warned"), [(nn.Softmax(-1), True), (nn.Identity(), False), (nn.LogSoftmax(-1), False)]
)
def test_a_softmax_before_cross_entropy_is_warned_of(last: nn.Module, warned: bool) -> None:
    said: list[str] = []
    build(task(nn.Sequential(nn.Linear(4, 3), last)), measure=False, say=said.append)
    assert any(line.startswith("warning: the model gives probabilities") for line in said) == warned


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "no name"}, "the task's definition: name: must be of letters, digits"),
        ({"defaults": Defaults(batch_examples=0)}, r"the task's definition: defaults\.batch_examples: "),
        ({"input": Input(shape=(4,), missing_as=np.float32(0.0))}, "the task's definition: .*float32"),  # type: ignore[arg-type]
    ],
)
def test_a_definition_that_no_device_would_accept_makes_no_bundle(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ExportError, match=reason):
        build(replace(task(nn.Linear(4, 3)), **change))


# --- the gate ---


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


# --- definitions ---


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("activity", "must be MODULE:FUNCTION"),
        ("no_such_module:definition", "ModuleNotFoundError"),
        ("skerry.training.builtin.activity:gone", "AttributeError"),
        (
            "skerry.training.builtin.activity:training_normalisation",
            "returned Normalisation, must return a TaskDefinition",
        ),
    ],
)
def test_a_definition_that_is_none_is_refused(spec: str, reason: str) -> None:
    with pytest.raises(ExportError, match=reason):
        load_definition(spec)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_bundle_is_what_its_definition_makes(name: str, tmp_path: Path) -> None:
    """The committed file, made anew: same manifest, same parameters, graphs that compute the same."""
    shipped = Bundle.builtin(name)
    path = tmp_path / "made.skerry"
    path.write_bytes(build(builtin_definition(name, None), measure=False).file)
    made = Bundle.open(path)
    # The graphs are not the same bytes: the forms of the shipped ones were measured.
    assert msgspec.structs.replace(made.manifest, parts=shipped.manifest.parts) == shipped.manifest
    np.testing.assert_allclose(made.initial_parameters(), shipped.initial_parameters(), atol=1e-6)
    rng = np.random.default_rng(0)
    parameters = shipped.initial_parameters() + rng.normal(0, 0.1, shipped.manifest.layout.size).astype(np.float32)
    ours, theirs = (
        open_trainer(bundle).step(parameters, *batch(shipped.manifest, 11, 0)) for bundle in (shipped, made)
    )
    np.testing.assert_allclose(ours.gradient, theirs.gradient, atol=1e-5)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
