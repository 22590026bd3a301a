"""What a region decides about devices that come from another one, or go there. Pure; shares the region's state.

A device that was not answered offers its update to the next coordinator. Both may have taken it. Their ledgers travel,
and of two copies that one stays which was offered later: there the device was answered. The other one is taken back.
"""

import logging
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from msgspec.structs import replace

from coordinator.events import (
    Apply,
    DropHeld,
    Effect,
    FindUpdate,
    JournalTakenBack,
    LedgerAsked,
    Malformed,
    PeerLedgerArrived,
    Reply,
    SaveLedger,
    UpdateFound,
)
from coordinator.given_up import GivenUp
from coordinator.ledger import RecentUpdate
from coordinator.ledger_log import LedgerLog
from coordinator.refusal import Refusal
from coordinator.region_state import Counts, RegionSettings, RegionState
from skerry.protocol import ledger_lines
from skerry.protocol.ceiling import NEAR, Ceiling
from skerry.protocol.ledger_lines import LedgerLine
from skerry.protocol.limits import ANSWERS_MAX, LEDGER_LINES_MAX
from skerry.protocol.messages import ModelVersion, PeerLedger, PeerStatus, UpdateOffered

ALIVE_S = 10.0  # since its last sign of life: agents are told of a coordinator that long
DEVICES_MAX = 100_000  # of other regions whose updates are known
KNOWN_MAX = 2 * ANSWERS_MAX  # updates of one of them: in two regions a device may have as many under way

log = logging.getLogger(__name__)


class Distance(NamedTuple):
    """How far an update's base lies from the region's model."""

    staleness: float  # in ages, >= 0
    behind: int  # in versions, >= 0; of another lineage, whose versions say nothing here, as many as the ages
    abroad: bool  # it is of another lineage


class Roaming:
    """One region's view of devices between regions."""

    def __init__(self, settings: RegionSettings, state: RegionState, counts: Counts) -> None:
        self._settings, self._state, self._counts = settings, state, counts
        self._log = LedgerLog(settings.process)
        self._elsewhere: dict[str, dict[int, tuple[str, LedgerLine]]] = {}  # by device and sequence: whose line
        self._heard: dict[str, list[str]] = {}  # by peer that asks for its own lines, page by page: devices, ascending
        self._contested: dict[tuple[str, int], tuple[str, LedgerLine]] = {}  # being looked up: whose copy is to stay
        self._ceilings: dict[str, Ceiling] = {}  # by device, of those whose numbers jumped
        self._peers: dict[str, tuple[str, float]] = {}  # by name: URL, and when it was last seen
        self._lineages: dict[str, str] = {}  # by name, of those who were heard of
        state.ledger.tell(self._log, everything=settings.url is not None)  # agents are sent here and there, then

    # --- what others ask ---

    @property
    def place(self) -> str:
        """Up to where peers can ask for lines of the ledger."""
        return self._log.place

    def coordinators(self, now_s: float) -> dict[str, str]:
        """Return name and URL of those who live and serve agents, this one included."""
        found = {name: url for name, (url, seen_s) in self._peers.items() if now_s - seen_s <= ALIVE_S}
        return found if self._settings.url is None else {self._settings.name: self._settings.url, **found}

    def last_sequence(self, device: str) -> int:
        """Return the highest number that this device is known to have given an update, 0 before the first."""
        return max(self._state.ledger.last_sequence(device), *self._elsewhere.get(device, ()), 0)

    def admits(self, device: str, sequence: int, now_s: float) -> bool:
        """Say whether an update of this number can be one of this device, after all that is known of it."""
        if sequence <= self._state.ledger.last_sequence(device) + NEAR:
            return True  # by far the most
        ceiling = self._ceilings.pop(device, None) or Ceiling()
        self._ceilings[device] = ceiling
        if len(self._ceilings) > DEVICES_MAX:
            del self._ceilings[next(iter(self._ceilings))]
        return ceiling.admits(sequence, self.last_sequence(device), now_s)

    def distance(self, offered: UpdateOffered) -> Distance | None:
        """Return how far the base of an update is from the model; None: nobody knows.

        Of another region's base the device tells the age. Which of the two models is ahead does not matter then:
        neither is made of the other. A whole model, and one of a round, count only where they were made.
        """
        state, base = self._state, offered.base
        if base.lineage == state.lineage:
            age = state.ages.at(base.number)
            if age is None:
                return None
            return Distance(max(0.0, state.ages.age - age), state.ages.last - base.number, abroad=False)
        if offered.base_age is None or offered.whole or self._settings.recipe.arrival.synchronous:
            return None
        apart = abs(state.ages.age - offered.base_age)
        return Distance(apart, round(apart), abroad=True)

    def given_up(self, base: ModelVersion | None) -> Malformed | Refusal | None:
        """Say why nothing counts that was made on a model that the region went back from; None: it did not."""
        if base is None or not (self._state.remembered(GivenUp) or GivenUp()).holds(base):
            return None
        return Malformed("outlier", f"base {base.lineage}@{base.number} was given up: the region went back")

    def recall(self, device: str, sequence: int) -> RecentUpdate | None:
        """Return what a repeat is answered: taken here, or where a peer's ledger has it. None: nowhere as far as known.

        A version of another region says nothing here: it is that of the model as it is now.
        """
        recent = self._state.ledger.recall(device, sequence)
        if recent is None and (found := self._elsewhere.get(device, {}).get(sequence)) is not None:
            _, line = found
            return RecentUpdate(sequence, self._state.ages.last, line.weight, line.moves, elsewhere=True)
        return recent

    # --- updates ---

    def answer_again(self, device: str, offered: UpdateOffered, recent: RecentUpdate) -> list[Effect]:
        """Note that an update is answered once more: where it was offered by more moves, this copy is the one to stay.

        One that a peer has is noted here, too: it is never taken, whatever becomes of what is known of the peer.
        """
        ledger = self._state.ledger
        if recent.elsewhere:
            if offered.sequence <= ledger.last_sequence(device):
                return []
            ledger.take(device, recent)
        elif offered.moves > recent.moves:
            ledger.change(device, offered.sequence, moves=offered.moves)
        else:
            return []
        return [SaveLedger(device)]

    # --- peers ---

    def peer_seen(self, status: PeerStatus, now_s: float) -> None:
        """Take note of a peer's sign of life."""
        self.peer_lives(status.coordinator, status.lineage)
        if status.url is not None:
            self._peers[status.coordinator] = status.url, now_s

    def peer_lives(self, peer: str, lineage: str) -> None:
        """Take note of a peer's lineage. Under another one than before it has lost its state.

        Then what it had not published, as far as that came here, is in no model any more: it may come again. Call it
        before a publication of the new lineage is taken in.
        """
        before = self._lineages.get(peer, lineage)
        if before != lineage:
            published = self._published(peer)
            for known in self._elsewhere.values():
                for sequence, (whose, line) in list(known.items()):
                    if whose == peer and _is_in(line, published):
                        known[sequence] = peer, replace(line, publication=0)  # it is in what the new life began from
                    elif whose == peer:
                        del known[sequence]
        self._lineages[peer] = lineage

    def asked(self, event: LedgerAsked) -> list[Effect]:
        """Tell a peer what is on the disk here: it leaves behind the commit of all that was decided so far.

        One that lost its state is told what it has told of itself, as far as this process heard of it, and as the
        replica here holds it.
        """
        if event.of is not None:
            return [Reply(event.key, self._heard_of(event.of, event.after))]
        keys, up_to, more = self._log.behind(event.after)
        lines = ledger_lines.encode(list(self._lines(keys)))
        return [Reply(event.key, PeerLedger(self._settings.name, lines, up_to, more))]

    def ledger_arrived(self, event: PeerLedgerArrived, now_s: float) -> list[Effect]:
        """Learn what a peer has taken; look up what is to be taken back here. A number too high is passed over."""
        effects: list[Effect] = []
        ledger = self._state.ledger
        for line in event.lines:
            key = line.device, line.sequence
            if not self.admits(*key, now_s):
                continue
            self._learn(event.peer, line)
            recent = ledger.recall(*key)
            if recent is None and ledger.may_have_forgotten(*key):
                recent = RecentUpdate(line.sequence, 0, None)  # or none: the journal knows
            if recent is None or not recent.counts_here or not self._stays(recent, event.peer, line):
                continue
            looked_up = self._contested.get(key)
            if looked_up is None:  # once at a time: a second answer would be of before the first one's taking back
                effects.append(FindUpdate(*key))
            if looked_up is None or (line.moves, event.peer) > (looked_up[1].moves, looked_up[0]):
                self._contested[key] = event.peer, line
        return effects

    def update_found(self, found: UpdateFound) -> list[Effect]:
        """Take an update back that another region has taken, too: out of what is held, or out of the model.

        Not one that was answered again by more moves while it was looked up: the peer hears of it, and gives way.
        """
        key, state = (found.device, found.sequence), self._state
        contested, recent = self._contested.pop(key, None), state.ledger.recall(*key)
        if contested is None:
            return []
        peer, line = contested
        if recent is not None and not (recent.counts_here and self._stays(recent, peer, line)):
            return []
        if found.vector is None:
            if recent is not None or found.version is not None:
                log.warning("update %d of %s counts twice: it cannot be taken back here", found.sequence, found.device)
            return []
        held = next((one for one in state.held if (one.arrival.device, one.arrival.sequence) == key), None)
        if held is None and found.version is None:  # it was let go meanwhile
            self._contested[key] = contested
            return [FindUpdate(*key)]
        self._counts.taken_back += 1
        if recent is not None:
            state.ledger.change(*key, weight=line.weight, elsewhere=True)
        if held is not None:
            state.held.remove(held)
            return [DropHeld(held.position, found.device)]
        assert found.weight is not None
        state.position += 1
        age = max(0.0, state.ages.age - 1.0)
        version = state.ages.append(age)
        return [
            JournalTakenBack(state.position, version, found, -found.weight, age),
            Apply(state.position, version, -found.weight, age),
        ]

    def _stays(self, recent: RecentUpdate, peer: str, line: LedgerLine) -> bool:
        """Say whether the peer's copy stays, not the own one. Each sees it alike; equal copies are told by their names.

        Without a move on either side there is nothing to decide: then the device has lost its state and counts anew.
        """
        return line.moves > 0 and (line.moves, peer) > (recent.moves, self._settings.name)

    def _learn(self, peer: str, line: LedgerLine) -> None:
        known = self._elsewhere.pop(line.device, {})  # the device that was heard of last comes last
        self._elsewhere[line.device] = known
        before = known.get(line.sequence)
        if before is None or line.moves >= before[1].moves:
            known[line.sequence] = peer, line
        if len(known) > KNOWN_MAX:
            del known[min(known)]
        if len(self._elsewhere) > DEVICES_MAX:
            del self._elsewhere[next(iter(self._elsewhere))]

    def _heard_of(self, peer: str, after: str) -> PeerLedger:
        """Return a page of a peer's own lines: of devices whose names come behind `after`, in their order."""
        if not after or peer not in self._heard:
            self._heard[peer] = sorted(device for device in self._elsewhere if self._has(peer, device))
        told: list[LedgerLine] = []
        published, devices = self._published(peer), self._heard[peer]
        for place in range(bisect_right(devices, after), len(devices)):
            known = self._elsewhere.get(devices[place], {})
            lines = [line for _, (whose, line) in sorted(known.items()) if whose == peer and _is_in(line, published)]
            if len(told) + len(lines) > LEDGER_LINES_MAX:
                return PeerLedger(peer, ledger_lines.encode(told), told[-1].device, more=True)
            told += lines
        del self._heard[peer]
        return PeerLedger(peer, ledger_lines.encode(told), told[-1].device if told else "", more=False)

    def _published(self, peer: str) -> int:
        """Return the number of the publication of its present life that a peer's replica here is, 0: of none."""
        held = self._state.peers.get(peer)
        return held.publication if held is not None and held.lineage == self._lineages.get(peer) else 0

    def _has(self, peer: str, device: str) -> bool:
        return any(whose == peer for whose, _ in self._elsewhere[device].values())

    def _lines(self, keys: list[tuple[str, int]]) -> Iterator[LedgerLine]:
        for device, sequence in keys:
            if (update := self._state.ledger.recall(device, sequence)) is not None:
                yield LedgerLine(device, sequence, update.weight, update.moves, update.publication)


def _is_in(line: LedgerLine, publication: int) -> bool:
    """Say whether a publication holds an update, as its line tells."""
    return line.weight is not None and line.publication <= publication
