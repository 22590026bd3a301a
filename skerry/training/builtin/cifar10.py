"""The models for CIFAR-10: a plain convolutional network, and two residual ones with batch normalisation."""

from collections.abc import Sequence

import torch
from torch import nn

from skerry.tasks.builtin import cifar10
from skerry.tasks.manifest import Defaults, Input, Label, Normalisation
from skerry.training.builtin.seeding import seeded
from skerry.training.definition import TaskDefinition


def cnn() -> TaskDefinition:
    """Return `cifar10-cnn`, as in Spyker: blocks of two convolutions and a pool, 32, 64, 128 wide, then 128 units."""
    layers: list[nn.Module] = []
    channels = 3
    with seeded():
        for width in (32, 64, 128):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            channels = width
        layers += [nn.Flatten(), nn.Linear(channels * 4 * 4, 128), nn.ReLU(), nn.Linear(128, len(cifar10.CLASSES))]
    return _definition("cifar10-cnn", nn.Sequential(*layers), "A convolutional network")


def resnet8() -> TaskDefinition:
    """Return `cifar10-resnet8`: three residual blocks, 16, 32 and 64 wide, as in MLPerf Tiny (arXiv:2106.07597)."""
    with seeded():
        model = residual_network(16, [(16, 1), (32, 2), (64, 2)])
    return _definition("cifar10-resnet8", model, "A residual network of 8 layers")


def resnet18() -> TaskDefinition:
    """Return `cifar10-resnet18`: ResNet-18 (He et al. 2016, arXiv:1512.03385) with a first layer for small images.

    The first convolution is 3 x 3 with stride 1 and no pool follows it, as is usual for CIFAR.
    """
    with seeded():
        blocks = [(64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)]
        model = residual_network(64, blocks)
    return _definition("cifar10-resnet18", model, "A residual network of 18 layers")


def residual_network(width: int, blocks: Sequence[tuple[int, int]]) -> nn.Module:
    """Return a first layer of `width` channels, a block per (channels, stride), a mean over the image, ten logits."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    for channels, stride in blocks:
        layers.append(ResidualBlock(width, channels, stride))
        width = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, len(cifar10.CLASSES)))


class ResidualBlock(nn.Module):  # type: ignore[misc]
    """Two convolutions beside a shortcut, which is a convolution of 1 x 1 where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = (
            nn.Identity()
            if stride == 1 and inputs == outputs
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (examples, outputs, height / stride, width / stride)."""
        return torch.relu(self.path(x) + self.shortcut(x))


def _definition(name: str, model: nn.Module, what: str) -> TaskDefinition:
    return TaskDefinition(
        name=name,
        description=(
            f"{what} that tells ten things apart in small colour images. Data: CIFAR-10, Krizhevsky, "
            "Learning Multiple Layers of Features from Tiny Images, technical report, University of Toronto, 2009."
        ),
        model=model,
        input=Input(shape=(3, 32, 32), normalisation=Normalisation(cifar10.MEAN, cifar10.SCALE)),
        label=Label(classes=len(cifar10.CLASSES), names=cifar10.CLASSES),
        defaults=Defaults(batch_examples=32, learning_rate=0.05),
    )
