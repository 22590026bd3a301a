"""The definition of the built-in task `activity`, from which its bundle in skerry/tasks/activity is built."""

from itertools import pairwise

import numpy as np
import torch

from skerry.tasks.activity import people
from skerry.tasks.manifest import Defaults, Input, Label, Normalisation
from skerry.training.builtin.seeding import seeded
from skerry.training.definition import TaskDefinition

HIDDEN = (128, 64)


def definition() -> TaskDefinition:
    """Return the task: 43 features of ten seconds of acceleration, 6 activities, a small multi-layer perceptron."""
    features = people.feature_names()
    with seeded():
        model = multi_layer_perceptron((len(features), *HIDDEN, len(people.CLASSES)))
    return TaskDefinition(
        name="activity",
        description=(
            "What somebody is doing, from ten seconds of the accelerometer of the phone in their pocket. "
            "Data: WISDM v1.1, Kwapisz, Weiss and Moore, "
            "Activity Recognition using Cell Phone Accelerometers, SensorKDD 2010."
        ),
        model=model,
        input=Input(
            shape=(len(features),), missing_as=0.0, normalisation=training_normalisation(), names=tuple(features)
        ),
        label=Label(classes=len(people.CLASSES), names=people.CLASSES),
        defaults=Defaults(batch_examples=32, learning_rate=0.05),
    )


def multi_layer_perceptron(widths: tuple[int, ...]) -> torch.nn.Sequential:
    """Return linear layers of these widths, with ReLU between them."""
    layers: list[torch.nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def training_normalisation() -> Normalisation:
    """Return mean and standard deviation of each feature over everybody's training rows, missing values as 0.

    A feature that never changes keeps scale 1. Rounded to 6 digits, so that every machine writes the same numbers.
    """
    table = people.table()
    assert table.held_out is not None
    x = np.nan_to_num(table.x[~table.held_out].astype(np.float64), nan=0.0)
    mean, spread = x.mean(axis=0), x.std(axis=0)
    scale = np.where(spread > 1e-6, spread, 1.0)
    return Normalisation(tuple(float(f"{v:.6g}") for v in mean), tuple(float(f"{v:.6g}") for v in scale))
