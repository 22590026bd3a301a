"""Every kind of layer and loss that a task may have: its step, exported, gives torch's own gradients in both engines.

The gate is what compares: two batch sizes, three seeds, tensor by tensor. A test holds several layers of a kind.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnxscript.optimizer import optimize

from skerry.tasks.manifest import Input, Label, PartName
from skerry.training.batches import Batch
from skerry.training.export_error import ExportError
from skerry.training.made_up import made_up

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from torch import nn  # noqa: E402 - behind importorskip

from skerry.training import convolution, decompositions, form_choice, graph_export  # noqa: E402
from skerry.training.build import build  # noqa: E402
from skerry.training.convolution import Convolution, Forms  # noqa: E402
from skerry.training.definition import TaskDefinition  # noqa: E402
from skerry.training.form_choice import fastest, measured_forms  # noqa: E402
from skerry.training.functional_model import FunctionalModel  # noqa: E402
from skerry.training.gate import GateReport, check_graphs  # noqa: E402
from skerry.training.noise import Noise  # noqa: E402
from skerry.training.onnx_engine import signature  # noqa: E402
from skerry.training.recurrence import LayerByLayer  # noqa: E402
from skerry.training.torch_graph import TorchGraph  # noqa: E402

IMAGE, FIVE = Input(shape=(3, 8, 8)), Label(classes=5)
TOKENS, NEXT = Input(shape=(6,), dtype="int64", values_below=11), Label(classes=11, shape=(6,))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def step_graph(
    model: FunctionalModel, features: Input, forms: Mapping[Convolution, Forms] | None = None
) -> tuple[bytes, int]:
    made = made_up(features, model.label, 0, graph_export.EXAMPLE_BATCH, seed=0)
    x, y = torch.from_numpy(made.x), torch.from_numpy(made.y)
    noise_values = model.noise_values(x, y)
    arguments = [torch.from_numpy(model.vector()), x, y, *([torch.rand(len(x), noise_values)] if noise_values else [])]
    has_buffers = model.layout.size > model.layout.trainable_size
    names = signature(PartName.STEP, has_noise=noise_values > 0, has_buffers=has_buffers)
    return graph_export.export(model.step, arguments, *names, forms), noise_values


def check_step(module: nn.Module, features: Input, label: Label) -> GateReport:
    model = FunctionalModel(module, label)
    graph, noise_values = step_graph(model, features)
    report = check_graphs(model, {PartName.STEP: graph}, features, noise_values)
    if not any(getattr(layer, "padding_idx", None) is not None for layer in module.modules()):
        check_torch_engine(model, graph, made_up(features, label, noise_values, 3, seed=1))
    return report


def check_torch_engine(model: FunctionalModel, graph: bytes, batch: Batch) -> None:
    """The loss half of the step under autograd has the gradient that the gradient half has in onnxruntime."""
    inputs = {"parameters": model.vector(), "x": batch.x, "y": batch.y}
    inputs = inputs if batch.noise is None else inputs | {"noise": batch.noise}
    loss, gradient, *buffers = graph_session(graph).run(None, inputs)
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    vector = tensors["parameters"].requires_grad_()
    outputs = TorchGraph(graph, ["loss", *(["buffers"] if buffers else [])])(tensors)
    (found,) = torch.autograd.grad(outputs[0], vector)
    for ours, theirs in zip((*outputs, found[: len(gradient)]), (loss, *buffers, gradient), strict=True):
        np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=1e-4, atol=1e-5)


class Branches(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    """Runs branches side by side, and adds up what a linear layer makes of each."""

    def __init__(self, *branches: nn.Module, shape: tuple[int, ...] = IMAGE.shape, outputs: int = 5) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.eval()
        with torch.no_grad():
            widths = [branch(torch.randn(2, *shape)).flatten(1).shape[1] for branch in branches]
        self.heads = nn.ModuleList([nn.Linear(width, outputs) for width in widths])

    def forward(self, x: Any) -> Any:
        outs = [head(branch(x).flatten(1)) for branch, head in zip(self.branches, self.heads, strict=True)]
        return torch.stack(outs).sum(0)


def sequence(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *layers)


def dense(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 8), *layers)


IMAGE_LAYERS: dict[str, Callable[[], tuple[nn.Module, ...]]] = {
    "convolutions": lambda: (
        sequence(nn.Conv2d(4, 4, 3, stride=2, padding=1)),
        sequence(nn.Conv2d(4, 3, (3, 2), stride=(1, 3), dilation=(2, 1))),
        sequence(nn.Conv2d(4, 6, 3, groups=2, padding=1)),
        sequence(nn.Conv2d(4, 4, 3, groups=4, stride=2)),
        sequence(nn.Conv2d(4, 4, 5, padding="same", bias=False)),
        sequence(nn.Conv2d(4, 2, 3, padding=4)),  # more padding than the kernel reaches
    ),
    "transposed convolutions": lambda: (
        sequence(nn.ConvTranspose2d(4, 5, 3)),
        sequence(nn.ConvTranspose2d(4, 5, 3, stride=2, padding=1, output_padding=1)),
        sequence(nn.ConvTranspose2d(4, 6, 2, stride=3, groups=2, dilation=2)),
    ),
    "one and three dimensions": lambda: (
        nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 4, 5, stride=2), nn.MaxPool1d(3), nn.ConvTranspose1d(4, 2, 3)),
        nn.Sequential(
            nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 2, 3, padding=1), nn.AvgPool3d(2), nn.ConvTranspose3d(2, 1, 2)
        ),
    ),
    "pooling": lambda: (
        sequence(nn.MaxPool2d(2)),
        sequence(nn.ReLU(), nn.Conv2d(4, 4, 2), nn.ReLU(), nn.MaxPool2d(2)),  # an odd row and column fall away
        sequence(nn.ReLU(), nn.MaxPool2d(3, 2, 1)),  # overlapping and padded; behind the ReLU many maxima are ties
        sequence(nn.MaxPool2d(3, 2, ceil_mode=True)),
        sequence(nn.MaxPool2d(2, 1, dilation=2)),
        sequence(nn.AvgPool2d(2)),
        sequence(nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
        sequence(nn.AvgPool2d(3, 2, 1, ceil_mode=True)),
        sequence(nn.AvgPool2d(2, 3, divisor_override=3)),
    ),
    "adaptive pooling": lambda: (
        sequence(nn.AdaptiveAvgPool2d(1)),
        sequence(nn.AdaptiveAvgPool2d((3, 5))),
        sequence(nn.AdaptiveMaxPool2d((3, 5))),
    ),
    "normalisation": lambda: (
        sequence(nn.BatchNorm2d(4), nn.ReLU()),
        sequence(nn.BatchNorm2d(4, affine=False, momentum=0.3)),
        sequence(nn.GroupNorm(2, 4)),
        sequence(nn.InstanceNorm2d(4, affine=True)),
        sequence(nn.LayerNorm((4, 8, 8))),
    ),
    "dropout": lambda: (
        sequence(nn.Dropout(0.3), nn.ReLU()),
        sequence(nn.Dropout2d(0.5)),
        sequence(nn.AlphaDropout(0.2)),
    ),
    "activations": lambda: (
        *(dense(kind()) for kind in (nn.GELU, nn.SiLU, nn.ELU, nn.SELU, nn.Mish, nn.Hardswish, nn.Hardsigmoid)),
        *(dense(kind()) for kind in (nn.LeakyReLU, nn.PReLU, nn.ReLU6, nn.Softplus, nn.Softsign, nn.LogSigmoid)),
        dense(nn.Tanh(), nn.GLU(1)),
        dense(nn.Sigmoid(), nn.Softmax(1)),
    ),
}


@pytest.mark.parametrize("kind", IMAGE_LAYERS)
def test_layers_of_images(kind: str) -> None:
    report = check_step(Branches(*IMAGE_LAYERS[kind]()), IMAGE, FIVE)
    assert report.gradient_error < 1e-4  # as the gate says itself, which has raised otherwise


def test_of_equal_maxima_the_first_gets_the_gradient() -> None:
    """Constant images: every window's maximum is a tie, which torch and the graph must break alike."""
    model = FunctionalModel(Branches(sequence(nn.MaxPool2d(3, 2, 1)), sequence(nn.MaxPool2d(2))), FIVE)
    graph, _ = step_graph(model, IMAGE)
    session = graph_session(graph)
    x, y = np.ones((2, 3, 8, 8), np.float32), np.array([0, 3])
    _, gradient = session.run(None, {"parameters": model.vector(), "x": x, "y": y})
    check_torch_engine(model, graph, Batch(x, y))
    _, expected = model.step(torch.from_numpy(model.vector()), torch.from_numpy(x), torch.from_numpy(y))
    np.testing.assert_allclose(gradient, expected.numpy(), atol=1e-6)


def graph_session(graph: bytes) -> Any:
    from skerry.training.onnx_engine import open_session

    return open_session(graph, 1, "test")


class Recurrent(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    def __init__(self, kind: type[nn.RNNBase], **settings: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 5, padding_idx=settings.pop("padding_idx", None))
        self.layers = kind(5, 4, batch_first=True, **settings)
        self.head = nn.Linear(4 * (2 if settings.get("bidirectional") else 1), 11)

    def forward(self, x: Any) -> Any:
        return self.head(self.layers(self.embedding(x))[0])


class Attending(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embedding, self.place = nn.Embedding(11, 8), nn.Parameter(torch.randn(6, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=dropout, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(8, 11)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(6), persistent=False)

    def forward(self, x: Any) -> Any:
        return self.head(self.layers(self.embedding(x) + self.place, mask=self.mask, is_causal=True))


TOKEN_MODELS: dict[str, Callable[[], nn.Module]] = {
    "stacked LSTM with dropout": lambda: Recurrent(nn.LSTM, num_layers=2, dropout=0.4),
    "GRU, padding": lambda: Recurrent(nn.GRU, padding_idx=0),
    "both directions": lambda: Recurrent(nn.LSTM, bidirectional=True),
    "plain": lambda: Recurrent(nn.RNN, nonlinearity="relu"),
    "attention": lambda: Attending(0.0),
    "attention with dropout": lambda: Attending(0.2),
}


@pytest.mark.parametrize("kind", TOKEN_MODELS)
def test_models_of_sequences_predict_the_next_token(kind: str) -> None:
    assert check_step(TOKEN_MODELS[kind](), TOKENS, NEXT).gradient_error < 1e-4


@pytest.mark.parametrize(
    "label", [Label(loss="mse", shape=(3,)), Label(loss="bce_with_logits", shape=(3,)), Label(classes=2, shape=(3,))]
)
def test_losses(label: Label) -> None:
    shape = label.logits_shape
    module = nn.Sequential(nn.Linear(4, int(np.prod(shape))), nn.Unflatten(1, shape))
    built = build(TaskDefinition(name="made", model=module, input=Input(shape=(4,)), label=label))
    assert built.gate.gradient_error < 1e-5
    assert built.gate.logits_error < 1e-5


def test_ignored_labels_change_neither_loss_nor_gradient() -> None:
    model = FunctionalModel(nn.Linear(4, 3), Label(classes=3))
    session = graph_session(step_graph(model, Input(shape=(4,)))[0])
    x = np.random.default_rng(0).standard_normal((4, 4), np.float32)
    inputs = {"parameters": model.vector(), "x": x, "y": np.array([0, -100, 2, -100])}
    some = session.run(None, inputs)
    alone = session.run(None, {**inputs, "x": x[[0, 2]], "y": np.array([0, 2])})
    for with_ignored, without in zip(some, alone, strict=True):
        np.testing.assert_allclose(with_ignored, without, rtol=1e-6)
    loss, gradient = session.run(None, {**inputs, "y": np.full(4, -100)})
    assert loss == 0.0
    assert not gradient.any()


def test_noise_decides_what_is_dropped() -> None:
    """Values whose noise is at least the share are kept, and scaled, so that their mean stays."""
    model = FunctionalModel(nn.Sequential(nn.Dropout(0.25), nn.Linear(4, 3)), Label(loss="mse", shape=(3,)))
    graph, noise_values = step_graph(model, Input(shape=(4,)))
    assert noise_values == 4
    x, y = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32), np.zeros((1, 3), np.float32)
    noise = np.array([[0.3, 0.1, 0.25, 0.24]], np.float32)
    loss, _ = graph_session(graph).run(None, {"parameters": model.vector(), "x": x, "y": y, "noise": noise})
    with torch.no_grad():
        kept = torch.tensor([[1.0, 0.0, 3.0, 0.0]]) / 0.75
        assert loss == pytest.approx(float(model.model[1](kept).square().mean()), rel=1e-5)


def test_each_dropout_has_noise_of_its_own() -> None:
    model = FunctionalModel(nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5), nn.Linear(2, 3)), Label(classes=3))
    graph, noise_values = step_graph(model, Input(shape=(2,)))
    assert noise_values == 4
    inputs = {"parameters": model.vector(), "x": np.ones((1, 2), np.float32), "y": np.array([0])}
    noise = np.array([[0.9, 0.9, 0.1, 0.9]], np.float32)  # the second drops the first value
    _, gradient = graph_session(graph).run(None, {**inputs, "noise": noise})
    of_weights = gradient[:6].reshape(3, 2)
    assert not of_weights[:, 0].any()
    np.testing.assert_allclose(of_weights[:, 1], 4.0 * gradient[6:], rtol=1e-5)


RECURRENT = pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])


@RECURRENT
@pytest.mark.parametrize("settings", [{"bidirectional": True}, {"bias": False, "batch_first": True}])
def test_a_stack_run_layer_by_layer_is_torch_s_own(kind: type[nn.RNNBase], settings: dict[str, bool]) -> None:
    """The gate cannot tell: what it compares with runs layer by layer, too."""
    stack = kind(3, 4, num_layers=3, dropout=1e-9, **settings)
    states = torch.randn(2, 6 if "bidirectional" in settings else 3, 5, 4)
    given = (torch.randn(5, 5, 3), tuple(states) if kind is nn.LSTM else states[0])
    expected = stack(*given)
    with LayerByLayer():
        found = stack(*given)
    torch.testing.assert_close(found, expected)


@RECURRENT
def test_dropout_acts_between_the_layers_of_a_stack_and_nowhere_else(kind: type[nn.RNNBase]) -> None:
    stack, x = kind(3, 4, num_layers=2, dropout=0.5), torch.randn(6, 2, 3)
    alone = kind(4, 4)
    alone.load_state_dict({name.replace("_l1", "_l0"): t for name, t in stack.state_dict().items() if "_l1" in name})
    noise = Noise(torch.zeros(2, 24), 2)  # drops everything
    with torch.no_grad():
        expected = alone(torch.zeros(6, 2, 4))[0]
        with noise, LayerByLayer():
            found = stack(x)[0]
    torch.testing.assert_close(found, expected)
    assert noise.values == 24


def test_the_known_silent_failure_does_not_pass_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch norm left whole exports without an error, runs, and gives the gradients of inference."""
    left_whole = ("native_batch_norm.default", "_native_batch_norm_legit")
    whole = {name: way for name, way in decompositions.table({}).items() if not any(w in str(name) for w in left_whole)}
    monkeypatch.setattr(decompositions, "table", lambda _forms: whole)
    with pytest.raises(ExportError, match=r"is off by .* from torch's at a batch of .* wrong and was not kept"):
        check_step(Branches(sequence(nn.BatchNorm2d(4), nn.ReLU())), IMAGE, FIVE)


def test_the_dropout_that_torch_loses_in_a_trace_does_not_pass_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's own decomposition of a recurrent stack leaves it out without an error."""
    monkeypatch.setattr("skerry.training.recurrence.RECURRENT", set())
    with pytest.raises(ExportError, match=r"is off by .* from torch's at a batch of"):
        check_step(Recurrent(nn.LSTM, num_layers=2, dropout=0.4), TOKENS, NEXT)


# --- the gradients of convolutions ---

LAYERS = (
    Convolution((3, 7, 6), (4, 3, 3, 2), (1, 1), (1, 0), (1, 1), False, (0, 0), 1),
    Convolution((3, 7, 6), (4, 3, 3, 2), (2, 3), (1, 1), (1, 2), False, (0, 0), 1),
    Convolution((4, 7, 6), (6, 2, 3, 3), (2, 1), (0, 2), (1, 1), False, (0, 0), 2),
    Convolution((4, 3, 4), (4, 3, 3, 2), (2, 3), (1, 0), (2, 1), True, (1, 2), 1),
    Convolution((4, 3, 4), (4, 3, 3, 2), (2, 2), (0, 0), (1, 1), True, (0, 0), 2),
    Convolution((2, 9), (3, 2, 4), (3,), (2,), (2,), False, (0,), 1),
)


@pytest.mark.parametrize("layer", LAYERS)
def test_every_form_of_a_gradient_is_torch_s_own(layer: Convolution) -> None:
    x, weight = torch.randn(5, *layer.input, requires_grad=True), torch.randn(layer.weight, requires_grad=True)
    out = layer.forward(x, weight)
    assert tuple(out.shape[2:]) == layer.output
    gradient = torch.randn_like(out)
    of_input, of_weight = torch.autograd.grad(out, (x, weight), gradient)
    with torch.no_grad():
        for form in convolution.weight_forms(layer):
            torch.testing.assert_close(
                convolution.weight_gradient(layer, form, gradient, x), of_weight, rtol=1e-4, atol=1e-4
            )
        for turned in convolution.input_forms(layer):
            torch.testing.assert_close(
                convolution.input_gradient(layer, turned, gradient, weight), of_input, rtol=1e-4, atol=1e-4
            )


def test_forms_are_chosen_among_those_that_fit_and_the_graph_follows() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(80, 5))
    model = FunctionalModel(module, FIVE)
    made = made_up(IMAGE, FIVE, 0, 7, seed=0)
    forms = measured_forms(model, torch.from_numpy(made.x), torch.from_numpy(made.y))
    assert {layer.weight for layer in forms} == {(4, 3, 3, 3), (5, 4, 3, 3)}
    for layer, form in forms.items():
        assert form.weight in convolution.weight_forms(layer)
        assert form.input in convolution.input_forms(layer)
    by_convolution = {layer: Forms("convolution", "transposed") for layer in forms}
    operators = {
        name: [node.op_type for node in onnx.ModelProto.FromString(step_graph(model, IMAGE, chosen)[0]).graph.node]
        for name, chosen in {"usual": {}, "convolution": by_convolution}.items()
    }
    assert operators["usual"].count("Conv") == 3  # forward, and the second one's input by a turned kernel
    assert operators["convolution"].count("Conv") == 4
    assert operators["convolution"].count("ConvTranspose") == 1


@pytest.mark.parametrize("chosen", [Forms("products", "rotated"), Forms("batched_last", "transposed")])
def test_the_form_that_takes_least_time_is_chosen(chosen: Forms, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Convolution((1, 3, 3), (1, 1, 2, 2), (1, 1), (0, 0), (1, 1), False, (0, 0), 1)
    least = {f"weight.{chosen.weight}", f"input.{chosen.input}"}
    monkeypatch.setattr(
        form_choice, "_seconds", lambda _graph, outputs: {name: 1.0 if name in least else 2.0 for name in outputs}
    )
    assert fastest(layer) == chosen


def test_a_layer_with_one_form_needs_no_measuring() -> None:
    layer = Convolution((4, 8, 8), (4, 1, 3, 3), (2, 2), (0, 0), (1, 1), False, (0, 0), 4)
    assert fastest(layer) == Forms("grouped", "transposed")


def test_the_graph_is_as_onnxscript_optimizes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the byte: what is left out of its passes costs time alone."""
    model = FunctionalModel(
        nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Dropout(0.5), nn.Linear(4, 3)), Label(classes=3)
    )
    ours, _ = step_graph(model, Input(shape=(4,)))
    monkeypatch.setattr(graph_export, "_optimizer", lambda: optimize)
    assert step_graph(model, Input(shape=(4,)))[0] == ours
