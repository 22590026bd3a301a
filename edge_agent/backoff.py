"""How long to wait before the next attempt: exponential, with full jitter."""

import random


class Backoff:
    """Waits between attempts: uniform between zero and a bound that doubles with every failure.

    Full jitter, so that a thousand agents whose coordinator restarts do not come back at once.
    Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    def __init__(self, min_s: float, max_s: float, rng: random.Random) -> None:
        self._min_s, self._max_s, self._rng = min_s, max_s, rng
        self._bound_s = min_s
        self.failures = 0  # since the last success

    def failed(self, *, hopeless: bool = False) -> float:
        """Return the seconds to wait after a failed attempt; after a `hopeless` one the bound is at its largest."""
        self.failures += 1
        bound_s = self._max_s if hopeless else min(self._bound_s, self._max_s)
        self._bound_s = min(2 * bound_s, self._max_s)
        return self._rng.uniform(0.0, bound_s)

    def succeeded(self) -> None:
        """Start again from the smallest bound."""
        self.failures = 0
        self._bound_s = self._min_s
