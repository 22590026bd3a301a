"""What the region remembers of each device's updates, so that a repeat is known for one. Pure.

A device numbers its updates; the coordinator takes a number at most once. Numbers may be skipped: a device that moved
here from a coordinator that is gone goes on counting.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from coordinator.events import RejectReason
from coordinator.ledger_log import LedgerLog
from skerry.protocol.limits import ANSWERS_MAX

MOVED_MAX = 32  # updates of a device, beyond the newest, that are remembered since another region may have them, too


class RecentUpdate(msgspec.Struct, frozen=True, array_like=True):
    """An update as its repeat will be answered."""

    sequence: int
    version: int  # of the model that holds it, or of the newest one when it came, where it was held
    weight: float | None  # None: held by the arrival rule
    moves: int = 0  # of the copy that was taken, or answered again: see UpdateOffered
    elsewhere: bool = False  # it counts in another region, which has taken it too
    publication: int = 0  # of this coordinator, the first that holds it; 0: every one does, or it is not known
    refused: RejectReason | None = None  # by the guard, which does not judge it twice; it counts nowhere

    @property
    def counts_here(self) -> bool:
        """Whether it is in the model here, or will be."""
        return not self.elsewhere and self.refused is None


class LedgerEntry(msgspec.Struct):
    """One device's line."""

    device: str
    last_sequence: int
    updates: int
    recent: list[RecentUpdate]  # ascending, the newest last: ANSWERS_MAX, and before them those that moved


class Ledger:
    """Every device's line, restored from the store and written back with each group of updates."""

    def __init__(self, entries: Iterable[LedgerEntry] = ()) -> None:
        """Start from what is on disk."""
        self._entries: dict[str, LedgerEntry] = {}
        self._updates: list[int] = []
        self._slots: dict[str, int] = {}  # where `_updates` counts a device
        self._log, self._everything = LedgerLog(""), False
        for entry in entries:
            self._add(entry)

    @property
    def updates(self) -> Sequence[int]:
        """Updates so far, one number for each device; kept up to date, not to be changed."""
        return self._updates

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the devices."""
        return iter(self._entries)

    def entry(self, device: str) -> LedgerEntry | None:
        """Return the line of a device, None before its first update."""
        return self._entries.get(device)

    def last_sequence(self, device: str) -> int:
        """Return the highest number that was taken from this device, 0 before the first."""
        entry = self._entries.get(device)
        return 0 if entry is None else entry.last_sequence

    def updates_of(self, device: str) -> int:
        """Return how many updates were taken from this device."""
        entry = self._entries.get(device)
        return 0 if entry is None else entry.updates

    def recall(self, device: str, sequence: int) -> RecentUpdate | None:
        """Return what a repeat of `sequence` is answered, None if it was never taken or is too long ago."""
        entry = self._entries.get(device)
        if entry is None:
            return None
        return next((recent for recent in reversed(entry.recent) if recent.sequence == sequence), None)

    def may_have_forgotten(self, device: str, sequence: int) -> bool:
        """Say whether `sequence` may have been taken so long ago that `recall` does not know it any more.

        What is newer than the oldest update that is remembered, and not remembered, was passed over and never taken.
        """
        entry = self._entries.get(device)
        return entry is not None and len(entry.recent) >= ANSWERS_MAX and sequence < entry.recent[-ANSWERS_MAX].sequence

    def tell(self, log: LedgerLog, *, everything: bool) -> None:
        """Tell peers by `log` of every update, or of those alone that were offered elsewhere, too."""
        self._log, self._everything = log, everything
        for device, entry in self._entries.items():
            for update in entry.recent:
                self._tell(device, update)

    def take(self, device: str, update: RecentUpdate) -> None:
        """Write down a new update, of a higher number than any before."""
        entry = self._entries.get(device)
        if entry is None:
            entry = LedgerEntry(device, 0, 0, [])
            self._add(entry)
        assert update.sequence > entry.last_sequence
        entry.last_sequence = update.sequence
        entry.updates += update.counts_here
        self._updates[self._slots[device]] = entry.updates
        entry.recent.append(update)
        self._forget(entry)
        self._tell(device, update)

    def change(self, device: str, sequence: int, **changes: Any) -> None:
        """Write down what has become of an update: fields of RecentUpdate. One that is forgotten stays so."""
        entry = self._entries[device]
        for place, recent in enumerate(entry.recent):
            if recent.sequence == sequence:
                entry.recent[place] = changed = replace(recent, **changes)
                self._tell(device, changed)

    def _forget(self, entry: LedgerEntry) -> None:
        """Forget what is older than the newest few; later what moved: a peer that has it, too, may be down for long."""
        older = entry.recent[:-ANSWERS_MAX]
        kept = [update for update in older if update.moves and update.counts_here][-MOVED_MAX:]
        for update in older:
            if update not in kept:
                self._log.drop((entry.device, update.sequence))
        entry.recent[:-ANSWERS_MAX] = kept

    def _tell(self, device: str, update: RecentUpdate) -> None:
        key = device, update.sequence
        if not update.counts_here:
            self._log.drop(key)
        elif update.moves or self._everything:
            self._log.put(key)

    def _add(self, entry: LedgerEntry) -> None:
        self._slots[entry.device] = len(self._updates)
        self._updates.append(entry.updates)
        self._entries[entry.device] = entry
