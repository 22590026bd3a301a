"""From a task's definition to its bundle: export, gate, pack. Needs torch; runs on a workstation."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._python_dispatch import TorchDispatchMode

from skerry.refusal import in_words
from skerry.tasks.bundle import pack
from skerry.tasks.manifest import Manifest, PartName
from skerry.tasks.model_file import to_safetensors
from skerry.training.author_line import author_line
from skerry.training.convolution import Convolution, Forms
from skerry.training.definition import TaskDefinition
from skerry.training.export_error import ExportError
from skerry.training.form_choice import measured_forms
from skerry.training.functional_model import FunctionalModel, TensorFunction
from skerry.training.gate import GateReport, check_graphs
from skerry.training.graph_export import EXAMPLE_BATCH, NoOnnxForm, export
from skerry.training.made_up import made_up
from skerry.training.noise import Noise
from skerry.training.onnx_engine import signature
from skerry.vector import Layout


@dataclass(frozen=True)
class Built:
    """A bundle that has passed the gate."""

    manifest: Manifest
    file: bytes
    gate: GateReport


def build(
    definition: TaskDefinition, *, measure: bool = True, say: Callable[[str], None] = lambda _text: None
) -> Built:
    """Export the definition's model and pack it; `say` is told what is going on, a line at a time.

    Without `measure`, convolutions are not tried in several forms, which takes seconds per kind of layer; the bundle
    then is the same on every machine.

    Raises:
        ExportError: the model cannot be exported, naming the layer and the reason; or the export is wrong.
    """
    model = FunctionalModel(definition.model, definition.label)
    _check_averages(definition.model)
    _manifest(definition, model.layout, 0, {})  # exporting takes a while: what is wrong beforehand is said beforehand
    training = {name: module.training for name, module in definition.model.named_modules()}
    try:
        x, y = _example(definition)
        logits = _checked_logits(definition, model, x)
        if definition.label.loss == "cross_entropy" and _are_probabilities(logits):
            say(
                "warning: the model gives probabilities; cross_entropy takes the softmax itself: remove the model's own"
            )
        for examples in (1, len(x)):  # a device with little data makes batches of one
            _check_step(model, x[:examples], y[:examples])
        noise_values = model.noise_values(x, y)
        forms = measured_forms(model, x, y, say) if measure else {}
        say(f"exporting {definition.name}, {model.layout.size} parameters")
        graphs = export_graphs(model, x, y, noise_values, forms)
        say("comparing the graphs with torch")
        report = check_graphs(model, graphs, definition.input, noise_values)
    finally:
        for name, module in definition.model.named_modules():
            module.training = training[name]
    parts = graphs | {PartName.PARAMETERS: to_safetensors(model.layout, model.vector())}
    manifest = _manifest(definition, model.layout, noise_values, parts)
    return Built(manifest, pack(manifest, parts), report)


def _manifest(
    definition: TaskDefinition, layout: Layout, noise_values: int, parts: Mapping[PartName, bytes]
) -> Manifest:
    """Return the manifest, with all the checks that it passes when it is read; constructors check only some.

    Raises:
        ExportError: a field is out of range.
    """
    made = Manifest(
        name=definition.name,
        description=definition.description,
        input=definition.input,
        label=definition.label,
        layout=layout,
        defaults=definition.defaults,
        noise_values=noise_values,
        parts={name: hashlib.sha256(parts.get(name, b"")).hexdigest() for name in PartName},
    )
    try:
        return msgspec.convert(msgspec.to_builtins(made), Manifest)
    except msgspec.ValidationError as error:
        raise ExportError(f"the task's definition: {in_words(error, Manifest)}") from error
    except TypeError as error:  # of a type that is not written, as float32
        raise ExportError(f"the task's definition: {error}") from error


def export_graphs(
    model: FunctionalModel,
    x: torch.Tensor,
    y: torch.Tensor,
    noise_values: int = 0,
    forms: Mapping[Convolution, Forms] | None = None,
) -> dict[PartName, bytes]:
    """Return the three graphs; `x` and `y` are an example batch, `forms` those of the gradients of convolutions.

    Raises:
        ExportError: naming the layer and the reason.
    """
    parameters = torch.from_numpy(model.vector())
    step = (parameters, x, y, torch.rand(len(x), noise_values)) if noise_values else (parameters, x, y)
    functions: dict[PartName, tuple[TensorFunction, Sequence[torch.Tensor]]] = {
        PartName.STEP: (model.step, step),
        PartName.EVALUATE: (model.evaluate, (parameters, x, y)),
        PartName.PREDICT: (model.predict, (parameters, x)),
    }
    has_buffers = model.layout.size > model.layout.trainable_size
    graphs = {}
    for part, (function, arguments) in functions.items():
        inputs, outputs = signature(part, has_noise=noise_values > 0, has_buffers=has_buffers)
        try:
            graphs[part] = export(function, arguments, inputs, outputs, forms)
        except ExportError as error:
            raise blamed(model.model, x, error) from error
    return graphs


def blamed(model: torch.nn.Module, x: torch.Tensor, error: ExportError) -> ExportError:
    """Return `error` with the name of the first layer that cannot be exported on its own, if there is one."""
    for name, layer, layer_input in _layers(model, x):
        try:
            _export_alone(layer, layer_input)
        except ExportError as reason:
            where = _line_of(reason, layer, layer_input)
            return ExportError(f"layer {name!r} ({type(layer).__name__}) cannot be exported: {reason}{where}")
    return ExportError(f"model {type(model).__name__} cannot be exported: {error}{_line_of(error, model, x)}")


class _Met(Exception):  # noqa: N818 - no error
    """The operator that is looked for."""


class _Until(TorchDispatchMode):  # type: ignore[misc]  # torch is Any to mypy
    """While it is active, `operator`, such as "aten.lgamma", raises _Met."""

    def __init__(self, operator: str) -> None:
        super().__init__()
        self._operator = operator

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(function.overloadpacket) == self._operator:
            raise _Met
        return function(*args, **(kwargs or {}))


def _line_of(error: ExportError, model: torch.nn.Module, x: torch.Tensor) -> str:
    """Return where in its author's code `model` calls the operator of `error`, as `author_line` does; "": unknown."""
    if isinstance(error, NoOnnxForm):
        try:
            with torch.no_grad(), _Until(error.operator):
                model(x)
        except _Met as met:
            return author_line(met)
    return ""


def _export_alone(layer: torch.nn.Module, layer_input: torch.Tensor) -> None:
    """Export the layer's output and the gradient of its square's sum, as a step would."""
    parameters = dict(layer.named_parameters())
    buffers = {name: buffer for name, buffer in layer.named_buffers() if buffer.is_floating_point()}
    others = {name: buffer for name, buffer in layer.named_buffers() if name not in buffers}
    tensors = parameters | buffers
    layer.train()

    def step(flat: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        pieces = torch.split(flat, [*(tensor.numel() for tensor in tensors.values()), 1])
        given = {name: piece.reshape(tensors[name].shape) for name, piece in zip(tensors, pieces, strict=False)}
        head = [given[name].detach().requires_grad_() for name in parameters]
        # Copies, because batch norm and the like write into their buffers.
        tail = {name: tensor.clone() for name, tensor in (given | others).items() if name not in parameters}
        x = x.detach().requires_grad_() if x.is_floating_point() else x
        wanted = [*head, x] if x.requires_grad else head
        with torch.enable_grad():
            with Noise(None, x.shape[0]):
                out = torch.func.functional_call(layer, dict(zip(parameters, head, strict=True)) | tail, (x,))
            first = out[0] if isinstance(out, tuple) else out  # of a recurrent layer, the sequence
            total = first.square().sum()
            gradients = torch.autograd.grad(total, wanted) if wanted else ()
        return (total.detach(), *(gradient.reshape(-1) for gradient in gradients))

    flat = torch.cat([*(tensor.detach().reshape(-1) for tensor in tensors.values()), torch.zeros(1)])
    outputs = 1 + len(parameters) + layer_input.is_floating_point()
    export(step, (flat, layer_input), ("parameters", "x"), [f"output_{number}" for number in range(outputs)])


def _layers(model: torch.nn.Module, x: torch.Tensor) -> list[tuple[str, torch.nn.Module, torch.Tensor]]:
    """Run the model once and return its leaf layers in the order of their calls, each with what it was given."""
    calls: list[tuple[str, torch.nn.Module, torch.Tensor]] = []
    hooks = []
    for name, module in model.named_modules():
        if next(module.children(), None) is None or is_parametrized(module):  # weight norm, say, is part of its layer

            def note(
                module: torch.nn.Module, given: tuple[object, ...], _output: object, name: str = name or "model"
            ) -> None:
                if len(given) == 1 and isinstance(given[0], torch.Tensor):
                    calls.append((name, module, given[0].detach()))

            hooks.append(module.register_forward_hook(note))
    try:
        with torch.no_grad():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _check_averages(model: torch.nn.Module) -> None:
    for name, layer in model.named_modules():
        if isinstance(layer, _BatchNorm) and layer.track_running_stats and layer.momentum is None:
            raise ExportError(
                f"layer {name or 'model'!r} ({type(layer).__name__}) cannot be exported: momentum=None averages over"
                " all batches so far, whose number a step does not know: give it a momentum, such as 0.1"
            )


def _example(definition: TaskDefinition) -> tuple[torch.Tensor, torch.Tensor]:
    made = made_up(definition.input, definition.label, 0, EXAMPLE_BATCH, seed=0)
    return torch.from_numpy(made.x), torch.from_numpy(made.y)


def _checked_logits(definition: TaskDefinition, model: FunctionalModel, x: torch.Tensor) -> torch.Tensor:
    wanted = (EXAMPLE_BATCH, *definition.label.logits_shape)
    try:
        with torch.no_grad():
            (logits,) = model.predict(torch.from_numpy(model.vector()), x)
    except Exception as error:  # the model's own code
        raise ExportError(
            f"the model does not take x of shape {tuple(x.shape)}: {error}{author_line(error)}"
        ) from error
    if not isinstance(logits, torch.Tensor):
        raise ExportError(f"the model gives a {type(logits).__name__}, must be logits: one tensor of shape {wanted}")
    if tuple(logits.shape) != wanted:
        raise ExportError(
            f"the model gives logits of shape {tuple(logits.shape)} for {EXAMPLE_BATCH} examples, must be {wanted}"
        )
    return logits


def _are_probabilities(logits: torch.Tensor) -> bool:
    """Whether they look like a softmax's output: none negative, and all that are of one prediction add up to 1."""
    sums = logits.sum(-1)
    return bool((logits >= 0.0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-4))


def _check_step(model: FunctionalModel, x: torch.Tensor, y: torch.Tensor) -> None:
    """Check that a step works in torch with so many examples, and name the layer that fails where it does not."""
    running: list[tuple[str, torch.nn.Module]] = []  # the layers whose forward has begun and not ended
    hooks = []

    def ended(_layer: torch.nn.Module, _given: object, _output: object) -> None:
        running.pop()

    for name, module in model.model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda layer, _given, name=name: running.append((name, layer))))
        hooks.append(module.register_forward_hook(ended))
    try:
        model.step(torch.from_numpy(model.vector()), x, y)
    except Exception as error:  # the model's own code
        refused = isinstance(error, ExportError)
        if refused and not running:
            raise
        name, layer = running[-1] if running else ("model", model.model)
        reason = str(error) if refused else f"it does not train on a batch of {len(x)}: {error}"
        reason += author_line(error)
        raise ExportError(f"layer {name or 'model'!r} ({type(layer).__name__}) cannot be exported: {reason}") from error
    finally:
        for hook in hooks:
            hook.remove()
