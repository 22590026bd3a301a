"""Stage `local_steps`: how many steps a device takes before it sends an update.

The coordinator turns the speeds of its devices into the region's cycle time; each device fits its own steps into it,
so that fast and slow devices finish together and nobody waits.
"""

from collections.abc import Sequence
from statistics import median
from typing import Annotated

import msgspec
from msgspec import Meta

CYCLE_MAX_S = 86400.0  # what a plan on the wire may say
CYCLE_MIN_S = 1e-3


class Cycle(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="cycle"):
    """As many steps as fit the region's cycle time, which gives a device of median speed `steps_median` of them.

    Source: the hyperperiod of HADFL (Cao et al. 2021, arXiv:2111.08274). Deviation: the median device sets the time
    instead of a common multiple of all devices' times, which explodes with uneven devices.
    """

    steps_median: Annotated[int, Meta(ge=1, le=1_000_000)] = 20  # steps of the device of median speed
    steps_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000  # of any device
    cycle_min_s: Annotated[float, Meta(ge=CYCLE_MIN_S, le=CYCLE_MAX_S)] = (
        0.1  # keeps fast regions from flooding the link
    )
    cycle_max_s: Annotated[float, Meta(ge=CYCLE_MIN_S, le=CYCLE_MAX_S)] = 60.0

    def __post_init__(self) -> None:
        """Check what one key alone cannot say."""
        if self.cycle_min_s > self.cycle_max_s:
            raise ValueError(f"cycle_min_s is {self.cycle_min_s}, above cycle_max_s, {self.cycle_max_s}")

    def cycle_s(self, seconds_per_step: Sequence[float]) -> float:
        """Return the region's cycle time in seconds; `cycle_min_s` while no device has told its speed.

        `seconds_per_step`: one positive number for each device that has.
        """
        if not seconds_per_step:
            return self.cycle_min_s
        return min(max(self.steps_median * median(seconds_per_step), self.cycle_min_s), self.cycle_max_s)

    def steps(self, cycle_s: float, seconds_per_step: float) -> int:
        """Return the local steps, in 1..steps_max, of a device that needs `seconds_per_step` > 0 for each."""
        assert seconds_per_step > 0.0
        return max(1, round(min(cycle_s / seconds_per_step, self.steps_max)))


class Fixed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="fixed"):
    """The same number of steps on every device, however long that takes it.

    Source: local epochs of FedAvg (McMahan et al. 2017, arXiv:1602.05629), counted in steps.
    """

    steps_per_cycle: Annotated[int, Meta(ge=1, le=1_000_000)] = 20

    def cycle_s(self, seconds_per_step: Sequence[float]) -> float:
        """Return the seconds that the median device takes; devices ignore it, the pace of the downlink follows it."""
        typical_s = self.steps_per_cycle * median(seconds_per_step) if seconds_per_step else CYCLE_MIN_S
        return min(max(typical_s, CYCLE_MIN_S), CYCLE_MAX_S)

    def steps(self, cycle_s: float, seconds_per_step: float) -> int:
        """Return `steps_per_cycle`."""
        return self.steps_per_cycle


LocalSteps = Cycle | Fixed
