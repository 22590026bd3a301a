"""The models for MNIST: the small convolutional one of Spyker's experiments, and FLARE's linear one of any width."""

from itertools import pairwise

import torch
from torch import nn

from skerry.errors import DataError
from skerry.tasks.builtin import mnist
from skerry.tasks.manifest import Defaults, Input, Label, Normalisation
from skerry.training.builtin.seeding import seeded
from skerry.training.definition import TaskDefinition

FLARE_WIDTH = 4069
PIXELS = 28 * 28


def cnn() -> TaskDefinition:
    """Return `mnist-cnn`: 21,840 parameters, as in the experiments of Spyker (arXiv:2406.01439)."""
    with seeded():
        model = nn.Sequential(
            nn.Conv2d(1, 10, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(10, 20, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(320, 50),
            nn.ReLU(),
            nn.Linear(50, 10),
        )
    return _definition(
        "mnist-cnn", model, "A small convolutional network", Defaults(batch_examples=32, learning_rate=0.05)
    )


def fully_connected(width: int = FLARE_WIDTH) -> TaskDefinition:
    """Return `mnist-fc`: four linear layers without activations, as in the experiments of FLARE (arXiv:2312.13795).

    Without activations it is a linear classifier, however many parameters it has: it is meant for measuring what
    sparse updates of a large model do, not for its accuracy.

    Raises:
        DataError: the width is below 1.
    """
    if width < 1:
        raise DataError(f"mnist-fc: width={width}: must be at least 1")
    widths = (PIXELS, width, width, width, len(mnist.CLASSES))
    with seeded():
        model = nn.Sequential(nn.Flatten(), *(nn.Linear(inputs, outputs) for inputs, outputs in pairwise(widths)))
    return _definition(
        "mnist-fc",
        model,
        f"Four linear layers without activations, {width} wide",
        Defaults(batch_examples=32, learning_rate=0.01),
    )


def _definition(name: str, model: torch.nn.Module, what: str, defaults: Defaults) -> TaskDefinition:
    return TaskDefinition(
        name=name,
        description=(
            f"{what} that reads handwritten digits. Data: MNIST, LeCun, Bottou, Bengio and Haffner, "
            "Gradient-Based Learning Applied to Document Recognition, Proceedings of the IEEE, 1998."
        ),
        model=model,
        input=Input(shape=(1, 28, 28), normalisation=Normalisation((mnist.MEAN,), (mnist.SCALE,))),
        label=Label(classes=len(mnist.CLASSES), names=mnist.CLASSES),
        defaults=defaults,
    )
