"""Stage `schedule`: how the learning rate changes as a device goes on training.

A factor in [0, 1] for each local step, multiplied with the learning rate of the plan. It is a function of the device's
own count of local steps and of nothing else, so that it goes on after a restart where it was.

Every entry can begin with a linear warm-up: in step n of the first `warmup_steps`, counted from 0, the factor is
(n + 1) / (warmup_steps + 1). Its own rule counts from the end of the warm-up, where the factor is 1.

`end_step` is the step from which on the factor stays as it is; None: there is none.
"""

from math import cos, pi
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

STEPS_MAX = 1 << 40

WarmupSteps = Annotated[int, Meta(ge=0, le=STEPS_MAX)]
Steps = Annotated[int, Meta(ge=1, le=STEPS_MAX)]
Gamma = Annotated[float, Meta(gt=0.0, le=1.0)]


class Constant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="constant"):
    """The plan's learning rate as it is."""

    warmup_steps: WarmupSteps = 0

    @property
    def end_step(self) -> int:
        """The end of the warm-up."""
        return self.warmup_steps

    def factor(self, step: int) -> float:
        """Return the factor of local step number `step`, counted from 0."""
        return _warmth(step, self.warmup_steps)


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="step"):
    """Times `gamma` after every `every_steps` steps, as torch's StepLR."""

    every_steps: Steps = 1000
    gamma: Gamma = 0.5
    warmup_steps: WarmupSteps = 0

    end_step: ClassVar[None] = None

    def factor(self, step: int) -> float:
        """Return the factor of local step number `step`, counted from 0."""
        fallen = _since_warmup(step, self.warmup_steps) // self.every_steps
        return _warmth(step, self.warmup_steps) * self.gamma**fallen


class Exponential(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="exponential"):
    """Times `gamma` after every step, as torch's ExponentialLR."""

    gamma: Gamma = 0.999
    warmup_steps: WarmupSteps = 0

    end_step: ClassVar[None] = None

    def factor(self, step: int) -> float:
        """Return the factor of local step number `step`, counted from 0."""
        return _warmth(step, self.warmup_steps) * self.gamma ** _since_warmup(step, self.warmup_steps)


class Cosine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="cosine"):
    """Falls along half a cosine from 1 to `minimum` within `fall_steps` steps, and stays there.

    Source: SGDR without restarts (Loshchilov and Hutter 2017, arXiv:1608.03983). Deviation from torch's
    CosineAnnealingLR: that one rises again.
    """

    fall_steps: Steps = 10_000
    minimum: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    warmup_steps: WarmupSteps = 0

    @property
    def end_step(self) -> int:
        """The end of the fall."""
        return self.warmup_steps + self.fall_steps

    def factor(self, step: int) -> float:
        """Return the factor of local step number `step`, counted from 0."""
        share = min(1.0, _since_warmup(step, self.warmup_steps) / self.fall_steps)
        fallen = self.minimum + (1.0 - self.minimum) * (1.0 + cos(pi * share)) / 2.0
        return _warmth(step, self.warmup_steps) * fallen


Schedule = Constant | Step | Exponential | Cosine


def _warmth(step: int, warmup_steps: int) -> float:
    return min(1.0, (step + 1) / (warmup_steps + 1))


def _since_warmup(step: int, warmup_steps: int) -> int:
    return max(0, step - warmup_steps)
