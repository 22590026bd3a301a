"""What becomes a bundle, and what does not: no wrong graph, and no refusal that does not name the layer."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from skerry.tasks.builtin.catalogue import SHIPPED
from skerry.tasks.bundle import Bundle
from skerry.tasks.manifest import Defaults, Input, Label
from skerry.training.definition import TaskDefinition, load_definition
from skerry.training.export_error import ExportError
from skerry.training.made_up import batch
from skerry.training.trainer import open_trainer
from skerry.training.unsupported_operator import UnsupportedOperator

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from torch import nn  # noqa: E402 - behind importorskip
from torch.nn import functional  # noqa: E402

from skerry.training.build import build  # noqa: E402
from skerry.training.builtin.definitions import builtin_definition  # noqa: E402
from skerry.training.functional_model import FunctionalModel  # noqa: E402
from tests.training.small_models import RunningMean, task  # noqa: E402

FEATURES, CLASSES = Input(shape=(4,)), Label(classes=3)


def opened(definition: TaskDefinition, folder: Path) -> Bundle:
    path = folder / "made.skerry"
    path.write_bytes(build(definition).file)
    return Bundle.open(path)


class Unused(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        return self.used(x)


class LogGamma(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    def forward(self, x: Any) -> Any:
        return torch.lgamma(x)


class Shaky(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        return functional.rrelu(self.linear(x), training=True)


class Spectrum(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    """Learns from the spectrum of each example."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 + 2 * 4, 3)

    def forward(self, x: Any) -> Any:
        both = torch.view_as_real(torch.fft.fft(x)).flatten(1)
        return self.linear(torch.cat([torch.fft.rfft(x).abs(), both], 1))


class Magnitudes(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        return torch.fft.rfft(self.linear(x)).abs()


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


def test_spectra_of_the_inputs_are_exported(tmp_path: Path) -> None:
    bundle = opened(task(Spectrum()), tmp_path)
    assert open_trainer(bundle, "onnx").predict(bundle.initial_parameters(), np.ones((2, 4), np.float32)).shape == (
        2,
        3,
    )
    with pytest.raises(UnsupportedOperator, match="DFT: use the onnx engine"):
        open_trainer(bundle, "torch")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.RReLU(), nn.Linear(4, 3)), r"layer '1' \(RReLU\) .*: draws random"),
        (
            lambda: nn.Sequential(nn.Linear(4, 4), LogGamma(), nn.Linear(4, 3)),
            r"layer '1' \(LogGamma\) .*: no ONNX form: aten\.lgamma: .* \(test_export\.py, line \d+: return torch\.lga",
        ),
        (Magnitudes, r"no ONNX form: aten\.where of complex numbers: write it in terms of others"),
        (Shaky, r"layer 'model' \(Shaky\) .*: draws random .* \(test_export\.py, line \d+: return functional\.rrelu"),
        (
            lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, momentum=None)),
            r"layer '1' \(BatchNorm1d\) cannot be exported: momentum=None averages over all batches so far",
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
        "complex numbers",
        "random function",
        "average of all batches",
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
