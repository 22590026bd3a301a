"""The wall clock of a simulated machine: it is wrong, drifts, and may be set."""

from collections.abc import Callable

START_S = 1_767_225_600.0  # Unix time at virtual time 0: 2026-01-01 00:00 UTC


class WallClock:
    """Unix time as one machine knows it; call it to read it.

    A machine without a real-time clock may be years off until it has asked somebody; a cheap crystal is off by
    10 to 100 millionths.
    """

    def __init__(self, virtual_time: Callable[[], float], *, offset_s: float = 0.0, drift: float = 0.0) -> None:
        """Be `offset_s` ahead at virtual time 0, and gain `drift` seconds a second (a loss where it is negative)."""
        self._virtual_time = virtual_time
        self._offset_s = offset_s
        self._drift = drift

    def __call__(self) -> float:
        """Return seconds since 1970."""
        now_s = self._virtual_time()
        return START_S + now_s + self._offset_s + self._drift * now_s

    def jump(self, seconds: float) -> None:
        """Set it so much ahead; back where that is negative."""
        self._offset_s += seconds
