"""A clock without a loop: the network model needs no more."""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class Timer:
    """Something that is due."""

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.callback, self.args = callback, args
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class VirtualClock:
    """Lets time pass when it is told to."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._timers: list[tuple[float, int, Timer]] = []
        self._made = 0

    def time(self) -> float:
        return self.now_s

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Timer:
        self._made += 1
        timer = Timer(callback, args)
        heappush(self._timers, (when, self._made, timer))
        return timer

    def run(self, until_s: float = float("inf")) -> None:
        """Do what is due, up to and including `until_s`."""
        while self._timers and self._timers[0][0] <= until_s:
            when, _, timer = heappop(self._timers)
            if not timer.cancelled:
                self.now_s = max(self.now_s, when)
                timer.callback(*timer.args)
        if until_s < float("inf"):
            self.now_s = max(self.now_s, until_s)
