"""A task as its author writes it, on a workstation with torch: what `skerry-task build` turns into a bundle."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from skerry.tasks.manifest import Defaults, Input, Label

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class TaskDefinition:
    """A classification task. The loss is the mean cross-entropy of the model's logits.

    `model` maps normalised features, float32 of shape (examples, *input.shape), to logits (examples, label.classes);
    its present parameters are where training starts.
    """

    name: str
    model: "torch.nn.Module"
    input: Input
    label: Label
    description: str = ""
    defaults: Defaults = field(default_factory=Defaults)
