"""How long a stream may take to open before another coordinator is tried. Pure."""

OPENING_S = 4.0  # at first, and where openings take less than half of it


class OpeningLimit:
    """The limit for all coordinators together: where every opening takes long, the device's own link is slow.

    It doubles after each round in which no stream opened in time, and falls to twice what an opening took, so that a
    coordinator that is silent is left soon again once the link is quick.
    """

    def __init__(self, max_s: float) -> None:
        """`max_s`: that it never exceeds, and that holds where there is one coordinator alone."""
        self._max_s = max_s
        self._limit_s = min(OPENING_S, max_s)
        self._timed_out = 0  # attempts since the last stream that opened, or since the limit was doubled

    def seconds(self, coordinators: int) -> float:
        """Return the limit for the next attempt, with so many coordinators to go to."""
        return self._max_s if coordinators == 1 else self._limit_s

    def timed_out(self, coordinators: int) -> None:
        """An attempt took longer than its limit, with so many coordinators to go to."""
        self._timed_out += 1
        if self._timed_out >= coordinators:
            self._limit_s = min(2 * self._limit_s, self._max_s)
            self._timed_out = 0

    def opened(self, took_s: float) -> None:
        """A stream has opened, `took_s` after the attempt began."""
        self._limit_s = min(max(OPENING_S, 2 * took_s), self._max_s)
        self._timed_out = 0
