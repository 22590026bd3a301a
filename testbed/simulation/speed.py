"""How long a simulated device takes for one step: a median, a spread, and episodes in which heat holds it back."""

import random
from collections.abc import Callable
from math import exp, sqrt
from typing import Protocol

from skerry.profile import Lab, Throttling


class StepTimes(Protocol):
    """What a simulated processor takes for its steps."""

    @property
    def throttled(self) -> bool:
        """Whether heat holds it back now."""

    def step_s(self) -> float:
        """Draw what a step that begins now takes, in seconds."""


class NormalSpeed:
    """Steps of which every `steps` take Normal(mean_s, sd_s) together, each drawn by itself."""

    throttled = False

    def __init__(self, mean_s: float, sd_s: float, steps: int, rng: random.Random) -> None:
        """`mean_s` > 0, `sd_s` >= 0 of `steps` >= 1 steps. Whatever is drawn, a step takes a tenth of its mean."""
        self._mean_s, self._sd_s = mean_s / steps, sd_s / sqrt(steps)
        self._rng = rng

    def step_s(self) -> float:
        """See `StepTimes`."""
        return max(0.1 * self._mean_s, self._rng.gauss(self._mean_s, self._sd_s))


class Speed:
    """The processor of one device. What it draws depends on its generator and on the times at which it is asked."""

    def __init__(self, step_s: float, lab: Lab, virtual_time: Callable[[], float], rng: random.Random) -> None:
        """A step takes `step_s` > 0 seconds on the lab's reference core, and `lab.slowdown` times that here."""
        assert step_s > 0.0
        self._median_s = step_s * lab.slowdown
        self._sigma = lab.jitter.sigma
        self._heat = None if lab.throttling is None else _Heat(lab.throttling, virtual_time(), rng)
        self._virtual_time = virtual_time
        self._rng = rng
        self.slowdown = 1.0  # on top of all that; whoever makes trouble sets it

    @property
    def throttled(self) -> bool:
        """Whether heat holds the processor back now."""
        return self._heat is not None and self._heat.is_on(self._virtual_time())

    def step_s(self) -> float:
        """Draw what a step that begins now takes, in seconds."""
        seconds = self._median_s * self.slowdown
        if self._sigma:
            seconds *= exp(self._sigma * self._rng.gauss(0.0, 1.0))
        if self._heat is not None and self.throttled:
            seconds *= self._heat.slowdown
        return seconds


class _Heat:
    """Episodes: the times between them and their lengths are exponential."""

    def __init__(self, throttling: Throttling, now_s: float, rng: random.Random) -> None:
        self.slowdown = throttling.slowdown
        self._mean_s = {False: throttling.every_s, True: throttling.lasts_s}
        self._rng = rng
        self._on = False
        self._until_s = now_s + self._draw()

    def is_on(self, now_s: float) -> bool:
        while now_s >= self._until_s:
            self._on = not self._on
            self._until_s += self._draw()
        return self._on

    def _draw(self) -> float:
        return self._rng.expovariate(1.0 / self._mean_s[self._on])
