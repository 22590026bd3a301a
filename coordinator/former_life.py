"""What a coordinator that lost its state takes from what its peers hold of it. Pure."""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from coordinator.ledger import Ledger, LedgerEntry, RecentUpdate
from skerry.protocol.ceiling import Ceiling
from skerry.protocol.ledger_lines import LedgerLine


class FormerLife(NamedTuple):
    """What version 0 comes with, besides its values."""

    age: float = 0.0
    ledger: tuple[LedgerEntry, ...] = ()  # of updates that version 0 holds


def ledger_of(lines: Iterable[LedgerLine]) -> tuple[LedgerEntry, ...]:
    """Return the ledger that peers tell of, as bounded as a ledger is: every update in it counts as one of version 0.

    Of several lines about an update that of the most moves counts. What was held when peers last heard of it had no
    part in what was published: it is left out, and may come again. So is a number that no device comes to.
    """
    newest: dict[tuple[str, int], LedgerLine] = {}
    for line in lines:
        before = newest.get((line.device, line.sequence))
        if line.weight is not None and (before is None or line.moves > before.moves):
            newest[line.device, line.sequence] = line
    ledger = Ledger()
    ceilings: defaultdict[str, Ceiling] = defaultdict(Ceiling)
    for (device, sequence), line in sorted(newest.items(), key=lambda item: item[0]):
        if ceilings[device].admits(sequence, ledger.last_sequence(device), now_s=0.0):
            ledger.take(device, RecentUpdate(sequence, 0, line.weight, line.moves))
    return tuple(entry for device in ledger if (entry := ledger.entry(device)) is not None)
