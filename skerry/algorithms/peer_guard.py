"""Whether a peer's model is near enough to the own one to be merged. Scalars only, no I/O.

Regions that merge one another's models all the time lie close together, whatever their devices, labels and speeds: what
drives them apart is what they learned since they last met. So the distance between the two models, which both sides can
measure, is compared with what it usually is, in logarithms. A model that blew up, or was made to do harm at one stroke,
is tens of times further away. Our decision: see decision record 14.
"""

from collections.abc import Container
from dataclasses import dataclass
from math import exp, inf, isfinite, log

import msgspec

KNOWN_MIN = 8  # distances that are known, before one is usual
MEMORY = 16  # distances that the usual one looks back on
STEP_MAX = 1.0  # in the logarithm: how far from the usual one a distance counts, so that nobody shifts that fast
LENGTHS_MIN = 0.25  # times the own model's length: nearer than that, no model is refused
LENGTHS_MAX = 1.5  # times the own model's length: no model that holds as much training lies further away
BEHIND = 0.5  # of the peer's age: a model that is no older is about to be replaced by the peer's, not moved by it,
BEHIND_LENGTHS_MAX = 3.0  # and may lie so far away from it
NEW_AGE = 10.0  # a model that holds less training, and NEW_SHARE of the peer's, has nothing to lose: it takes any
NEW_SHARE = 0.125
EXPLAINED_MAX = 20.0  # times the usual distance: so much a long silence makes credible, and no more
GAP_MIN_S = 1e-3
UNMEASURED = "it builds on one that came in the same moment: only the next one can be measured"


@dataclass(frozen=True, slots=True)
class Measured:
    """A peer's model as it lies to the own one; L2, over all entries."""

    distance: float  # >= 0; inf or nan: it is not finite
    length: float  # of the own model, >= 0


class PeerDistances(msgspec.Struct, frozen=True, tag="peer_distances"):
    """What a coordinator must not forget."""

    known: int = 0  # merges whose distances were taken in
    usual: float = 0.0  # natural logarithm of the distance between the own model and a peer's
    gap: float | None = None  # natural logarithm of the seconds between two merges with one peer; None: not known
    refused: dict[str, str] = {}  # by peer: why its model does not count
    admitted: frozenset[str] = frozenset()  # peers whose next merge takes place, however far away


@dataclass(frozen=True, slots=True)
class Judged:
    """What is to be done with a peer's model."""

    counts: bool  # it may be merged, and has part in the federated model
    alarm: str = ""  # what an operator is to hear; "": nothing


class PeerGuard:
    """Judges the models of one region's peers, in the order of their arrival."""

    def __init__(self, distance_max: float, state: PeerDistances | None, peers: Container[str]) -> None:
        """Go on from `state`.

        Args:
            distance_max: times the usual distance, at which a model still counts; 0: any one does.
            state: None: nothing is known.
            peers: what is known of others is forgotten.
        """
        state = state or PeerDistances()
        self._distance_max = distance_max
        refused = {peer: why for peer, why in state.refused.items() if peer in peers}
        admitted = frozenset(peer for peer in state.admitted if peer in peers)
        known = msgspec.structs.replace(state, refused=refused, admitted=admitted)
        self._state = known if distance_max else PeerDistances()
        self._distances: dict[str, float] = {}  # of the peers' last models, those that count and are not merged yet
        self._met_s: dict[str, float] = {}  # the last merge with each peer, or refusal of it; not known after a restart

    def snapshot(self) -> PeerDistances:
        """Return what a restart needs."""
        return self._state

    def admit(self, peer: str) -> bool:
        """Let a merge with the peer take place, however far away it is, and learn anew what is usual.

        Say whether it did not count.
        """
        if peer not in self._state.refused:
            return False
        refused = {name: why for name, why in self._state.refused.items() if name != peer}
        self._state = PeerDistances(refused=refused, admitted=self._state.admitted | {peer})
        return True

    def judge(
        self, peer: str, measured: Measured | None, age: float, peer_age: float, now_s: float, *, merges: bool
    ) -> Judged:
        """Judge a model that has just come.

        Args:
            peer: whose it is.
            measured: how it lies; None: it was not measured.
            age: of the own model.
            peer_age: what the peer says of its own.
            now_s: on a clock that never goes back.
            merges: the rule merges such a model; False: it is so far behind that it has to catch up first.
        """
        if self._distance_max == 0.0:
            return Judged(counts=True)
        self._distances.pop(peer, None)
        before = self._state.refused.get(peer, UNMEASURED)
        if measured is None:
            self._refuse(peer, before)
            return Judged(counts=False)
        silence_s = now_s - self._met_s.get(peer, -inf)
        if trouble := self._trouble(peer, measured, age, peer_age, silence_s, merges=merges):
            self._met_s[peer] = now_s  # who is refused does not come nearer by waiting
            self._refuse(peer, trouble)
            return Judged(counts=False, alarm=f"its model is not merged: {trouble}" if before == UNMEASURED else "")
        refused = {name: why for name, why in self._state.refused.items() if name != peer}
        self._state = msgspec.structs.replace(self._state, refused=refused)
        self._distances[peer] = measured.distance
        return Judged(counts=True, alarm="" if before == UNMEASURED else "its model is in bounds again")

    def merged(self, peer: str, now_s: float) -> None:
        """Learn from a merge with the peer's last model: what leads to none teaches nothing."""
        silence_s = now_s - self._met_s.get(peer, -inf)
        self._met_s[peer] = now_s
        self._state = msgspec.structs.replace(self._state, admitted=self._state.admitted - {peer})
        if (distance := self._distances.pop(peer, None)) is not None:  # None: it came before a restart
            self._learn(distance, silence_s)

    def _refuse(self, peer: str, why: str) -> None:
        self._state = msgspec.structs.replace(self._state, refused={**self._state.refused, peer: why})

    def _trouble(
        self, peer: str, measured: Measured, age: float, peer_age: float, silence_s: float, *, merges: bool
    ) -> str:
        """Say what speaks against a model; "": nothing."""
        distance, length, state = measured.distance, measured.length, self._state
        if not isfinite(distance):
            return "it has values that are not finite"
        if peer in state.admitted or length == 0.0 or (age < NEW_AGE <= peer_age and age <= NEW_SHARE * peer_age):
            return ""
        if distance > length * (LENGTHS_MAX if age > BEHIND * peer_age else BEHIND_LENGTHS_MAX):
            return f"it is {distance:.3g} away from the model here, whose own length is {length:.3g}"
        if not merges or state.known < KNOWN_MIN or state.gap is None or silence_s == inf:
            return ""
        # Two that did not meet for long drift apart, all the while.
        explained = min(EXPLAINED_MAX, max(1.0, silence_s / exp(state.gap)))
        usual = exp(state.usual)
        if distance > max(self._distance_max * explained * usual, LENGTHS_MIN * length):
            return f"it is {distance:.3g} away from the model here, {distance / usual:.3g} times as far as usual"
        return ""

    def _learn(self, distance: float, silence_s: float) -> None:
        """Take a merge in: one that comes sooner than usual as so much less, so that many at once are as one."""
        state = self._state
        part = 1.0 if state.gap is None else min(1.0, silence_s / exp(state.gap))
        if distance > 0.0:
            usual = _usual(state.usual if state.known else None, log(distance), state.known, part)
            state = msgspec.structs.replace(state, known=min(state.known + 1, MEMORY), usual=usual)
        if silence_s < inf:
            gap = _usual(state.gap, log(max(silence_s, GAP_MIN_S)), state.known, part)
            state = msgspec.structs.replace(state, gap=gap)
        self._state = state


def _usual(before: float | None, now: float, known: int, part: float) -> float:
    """Return a running mean of logarithms in which nobody counts as further away than `STEP_MAX`; None: the first."""
    if before is None:
        return now
    return before + part * max(-STEP_MAX, min(STEP_MAX, now - before)) / min(known + 1, MEMORY)
