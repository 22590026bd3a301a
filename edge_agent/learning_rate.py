"""What a device's learning rate is made of, and where its schedule stands. Pure."""

import msgspec

from skerry.algorithms.schedule import Schedule


class LearningRate(msgspec.Struct, frozen=True):
    """The rate that the next cycle begins with."""

    effective: float  # plan times factor
    plan: float  # what the coordinator gives this device
    factor: float  # of the schedule, in [0, 1]
    step: int  # at which the schedule stands: local steps of this task that are in updates
    end_step: int | None  # from which on the factor stays as it is; None: never

    @property
    def over(self) -> bool:
        """Whether steps change nothing: only a schedule makes a rate 0."""
        return self.factor == 0.0

    @property
    def ended(self) -> bool:
        """Whether the schedule has nothing more to say."""
        return self.end_step is not None and self.step >= self.end_step


def learning_rate(plan: float, schedule: Schedule, step: int) -> LearningRate:
    """Return what the plan's rate becomes at local step number `step`, counted from 0."""
    factor = schedule.factor(step)
    return LearningRate(plan * factor, plan, factor, step, schedule.end_step)
