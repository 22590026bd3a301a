"""Which updates peers are told of, in the order in which they came or changed. Pure.

In memory alone: a process begins with all that the ledger still knows, under a name of its own, and peers ask anew.
"""

from bisect import bisect_right
from operator import itemgetter

from skerry.protocol.limits import LEDGER_LINES_MAX

Key = tuple[str, int]  # device, sequence

SPARE = 1024  # entries that count no more, beyond as many as there are others, before they are swept out


class LedgerLog:
    """Keys of the ledger's recent updates, each at the place where it last changed."""

    def __init__(self, process: str) -> None:
        """`process`: a name that no earlier log had."""
        self._process = process
        self._places: dict[Key, int] = {}
        self._order: list[tuple[int, Key]] = []  # ascending places; those count that `_places` has, too
        self._last = 0

    @property
    def place(self) -> str:
        """How far it has come; "": it has never held anything."""
        return f"{self._process}:{self._last}" if self._last else ""

    def put(self, key: Key) -> None:
        """Note that an update came, or that its line changed."""
        self._last += 1
        self._places[key] = self._last
        self._order.append((self._last, key))
        if len(self._order) > 2 * len(self._places) + SPARE:
            self._order = [(place, one) for place, one in self._order if self._places.get(one) == place]

    def drop(self, key: Key) -> None:
        """Tell of an update no more."""
        self._places.pop(key, None)

    def behind(self, place: str) -> tuple[list[Key], str, bool]:
        """Return the oldest keys behind `place`, at most LEDGER_LINES_MAX; the place behind them; whether more follow.

        `place` is a peer's word: what is none of this log's stands for its beginning.
        """
        process, _, text = place.partition(":")
        known = process == self._process and text.isascii() and text.isdigit() and len(text) < 19
        after = int(text) if known else 0
        told: list[Key] = []
        for number in range(bisect_right(self._order, after, key=itemgetter(0)), len(self._order)):
            at, key = self._order[number]
            if self._places.get(key) != at:
                continue
            if len(told) == LEDGER_LINES_MAX:
                return told, f"{self._process}:{self._places[told[-1]]}", True
            told.append(key)
        return told, self.place, False
