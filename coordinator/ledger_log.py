"""Which updates peers are told of, in the order in which they came or changed. Pure.

In memory alone: a process begins with all that the ledger still knows, under a name of its own, and peers ask anew.
"""

from itertools import takewhile

from skerry.protocol.limits import LEDGER_LINES_MAX

Key = tuple[str, int]  # device, sequence


class LedgerLog:
    """Keys of the ledger's recent updates, each at the place where it last changed."""

    def __init__(self, process: str) -> None:
        """`process`: a name that no earlier log had."""
        self._process = process
        self._places: dict[Key, int] = {}  # ascending
        self._last = 0

    @property
    def place(self) -> str:
        """How far it has come; "": it has never held anything."""
        return f"{self._process}:{self._last}" if self._last else ""

    def put(self, key: Key) -> None:
        """Note that an update came, or that its line changed."""
        self._places.pop(key, None)
        self._last += 1
        self._places[key] = self._last

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
        newer = list(takewhile(lambda one: one[1] > after, reversed(self._places.items())))
        newer.reverse()
        told = newer[:LEDGER_LINES_MAX]
        more = len(newer) > len(told)
        return [key for key, _ in told], f"{self._process}:{told[-1][1]}" if more else self.place, more
