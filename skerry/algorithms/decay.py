"""Stage `decay`: the learning rate of each device, so that those who contribute most do not dominate the model."""

from collections.abc import Sequence
from math import exp, floor
from typing import Annotated

import msgspec
from msgspec import Meta

Rate = Annotated[float, Meta(gt=0.0, le=1000.0)]

# The mean below which it is not yet telling who contributes more: one update more of two is no dominance.
EARLY_UPDATES = 10.0


class NoDecay(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="none"):
    """The same learning rate for every device, always."""

    initial: Rate = 0.05

    def learning_rate(self, updates: int, all_updates: Sequence[int]) -> float:
        """Return `initial`."""
        return self.initial


class Relative(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="relative"):
    """Lower for devices that contributed more updates than the mean device: initial (1 - beta max(0, u / mean - 1)).

    Source: reconstructed from Spyker (2024, arXiv:2406.01439). Deviation: the excess is a share of the mean; in
    absolute counts it grows without bound, and every fast device ends at the minimum.
    """

    initial: Rate = 0.05
    minimum: Rate = 1e-6
    beta: Annotated[float, Meta(ge=0.0, le=1000.0)] = 0.25  # share of the rate that one mean in excess costs

    def __post_init__(self) -> None:
        """Check what one key alone cannot say."""
        _check(self.initial, self.minimum)

    def learning_rate(self, updates: int, all_updates: Sequence[int]) -> float:
        """Return the rate, in [minimum, initial].

        Args:
            updates: of this device so far.
            all_updates: of every device of the region, this one included.
        """
        mean = sum(all_updates) / len(all_updates) if all_updates else 0.0
        excess = max(0.0, updates - mean) / max(mean, EARLY_UPDATES)
        return max(self.minimum, self.initial * (1.0 - self.beta * excess))


class BudgetLogistic(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="budget_logistic"):
    """Falls from `initial` to `minimum` once a device has spent 70 % of its share of the planned updates.

    Source: the released code of Spyker (2024, arXiv:2406.01439):
    lr(u) = lr_0 ((1 - b) / (1 + exp(s (u - d0 - 4 / s))) + b), b = lr_min / lr_0, d0 = floor(0.7 R / N).
    """

    initial: Rate = 0.05
    minimum: Rate = 1e-6
    planned_updates: Annotated[int, Meta(ge=1, le=1 << 40)] = 10_000  # R, of all devices of the region together
    budget_share: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.7
    steepness: Annotated[float, Meta(gt=0.0, le=100.0)] = 0.03  # s, per update

    def __post_init__(self) -> None:
        """Check what one key alone cannot say."""
        _check(self.initial, self.minimum)

    def learning_rate(self, updates: int, all_updates: Sequence[int]) -> float:
        """Return the rate, in [minimum, initial]; arguments as for `Relative.learning_rate`."""
        floor_share = self.minimum / self.initial
        budget = floor(self.budget_share * self.planned_updates / max(1, len(all_updates)))
        # Beyond 700 exp overflows, and the rate is at its minimum long before.
        fallen = exp(min(self.steepness * (updates - budget) - 4.0, 700.0))
        return self.initial * ((1.0 - floor_share) / (1.0 + fallen) + floor_share)


Decay = NoDecay | Relative | BudgetLogistic


def _check(initial: float, minimum: float) -> None:
    if minimum > initial:
        raise ValueError(f"minimum is {minimum}, above initial, {initial}")
