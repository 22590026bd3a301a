"""The plan that devices train by: the region's cycle time and each device's learning rate. Pure."""

from collections.abc import Sequence

from skerry.algorithms.decay import Decay
from skerry.algorithms.local_steps import LocalSteps
from skerry.protocol.messages import Plan

SPEED_VALID_S = 600.0  # a device not heard of for so long does not count for the cycle time any more
CYCLE_VALID_S = 1.0  # the cycle time is derived anew after so long, or when a device joins


class Planner:
    """Knows how fast the region's devices are."""

    def __init__(self, local_steps: LocalSteps, decay: Decay) -> None:
        """Start without any device."""
        self._local_steps = local_steps
        self._decay = decay
        self._speeds: dict[str, tuple[float, float]] = {}  # device -> seconds per step, when it said so
        self._cycle_s = local_steps.cycle_s(())
        self._stale_at_s = 0.0

    def heard(self, device: str, seconds_per_step: float, now_s: float) -> None:
        """Take in a device's word about its speed."""
        if device not in self._speeds:
            self._stale_at_s = now_s
        self._speeds[device] = seconds_per_step, now_s

    def seconds_per_step(self, device: str) -> float | None:
        """Return what the device last said, None if it is unknown or was silent for long."""
        speed = self._speeds.get(device)
        return None if speed is None else speed[0]

    def cycle_s(self, now_s: float) -> float:
        """Return the time that one round of local steps should take."""
        if now_s >= self._stale_at_s:
            self._speeds = {name: speed for name, speed in self._speeds.items() if now_s - speed[1] <= SPEED_VALID_S}
            self._cycle_s = self._local_steps.cycle_s([seconds for seconds, _ in self._speeds.values()])
            self._stale_at_s = now_s + CYCLE_VALID_S
        return self._cycle_s

    def plan(self, updates: int, all_updates: Sequence[int], now_s: float) -> Plan:
        """Return the plan of a device with `updates` so far, in a region whose devices have `all_updates`."""
        return Plan(self.cycle_s(now_s), self._decay.learning_rate(updates, all_updates))
