"""A task as its author writes it, on a workstation with torch: what `skerry-task build` turns into a bundle."""

import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from skerry.tasks.manifest import Defaults, Input, Label
from skerry.training.author_line import author_line
from skerry.training.export_error import ExportError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class TaskDefinition:
    """A task: what is predicted from what, by which model. The loss is the one that `label` names.

    `model` maps prepared features, of shape (examples, *input.shape) and dtype input.dtype, to logits of shape
    (examples, *label.logits_shape), float32; its present parameters are where training starts.
    """

    name: str
    model: "torch.nn.Module"
    input: Input
    label: Label
    description: str = ""
    defaults: Defaults = field(default_factory=Defaults)


def load_definition(spec: str) -> TaskDefinition:
    """Call the function that `spec` names, MODULE:FUNCTION, and return the definition that it makes.

    Raises:
        ExportError: there is no such function, it fails, or it returns something else.
    """
    module_name, _, function_name = spec.partition(":")
    if not module_name or not function_name or "/" in module_name:
        raise ExportError(f"{spec!r}: must be MODULE:FUNCTION, such as {_likely(module_name, function_name)}")
    try:
        definition = getattr(importlib.import_module(module_name), function_name)()
    except Exception as error:  # the author's own code
        is_file = module_name.endswith(".py") and isinstance(error, ModuleNotFoundError)
        hint = f"; a file is named without .py: {_likely(module_name, function_name)}" if is_file else ""
        raise ExportError(f"{spec}: {type(error).__name__}: {error}{author_line(error)}{hint}") from error
    if not isinstance(definition, TaskDefinition):
        raise ExportError(f"{spec}: returned {type(definition).__name__}, must return a TaskDefinition")
    return definition


def _likely(module_name: str, function_name: str) -> str:
    """Return what who wrote a file's path, or left out the function, may have meant."""
    parts = [part for part in module_name.removesuffix(".py").split("/") if part not in {"", "."}]
    return f"{'.'.join(parts) or 'my_task'}:{function_name or 'definition'}"
