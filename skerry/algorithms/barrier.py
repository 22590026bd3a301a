"""Exchanges of models at which every region waits for all others, as one coordinator sees them. Scalars only, no I/O.

Source: the cloud aggregation of HierFAVG (Liu et al. 2020, arXiv:1905.06641), without a cloud: every coordinator
publishes its model under the number of the exchange, waits for a publication of that number or a higher one of every
peer, and takes the mean. Deviations: all regions count the same, where HierFAVG counts their examples; a peer without
a sign of life is not waited for, nor is anyone for longer than a time-out. Who waited for different peers has another
mean for once; the next exchange brings all of them together again. So has who still waits for a slow peer when a fast
one publishes for the next exchange already: the newer model replaces the older one.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING

import msgspec

from skerry.algorithms.token import ID_STEP_MAX, Id, MergePeer, Publish, TokenEffect

if TYPE_CHECKING:
    from skerry.algorithms.federation import SynchronousExchange


class PeerArrived(msgspec.Struct, frozen=True):
    """What is known of a peer's newest publication."""

    exchange: int
    age: float
    counts: bool = True  # False: it is waited for, but has no part in the mean


class BarrierState(msgspec.Struct, frozen=True, tag="barrier"):
    """What a coordinator must not forget."""

    exchange: int = 0  # the newest one that the own model was published for
    waiting: bool = False  # for the peers' models of that exchange
    rounds: int = 0  # since the last exchange
    arrived: dict[str, PeerArrived] = {}  # by peer


class BarrierMachine:
    """The machine of one coordinator among peers; arguments and effects as those of `token.TokenMachine`."""

    holds = False

    def __init__(
        self, rule: "SynchronousExchange", name: str, peers: Sequence[str], now_s: float, state: BarrierState | None
    ) -> None:
        """Go on from `state`. Every peer counts as alive for a while: none has had the time to give a sign of it."""
        assert peers
        assert name not in peers
        state = state or BarrierState()
        self._rule = rule
        self._alive_until_s = dict.fromkeys(sorted(peers), now_s + rule.peer_timeout_s)
        self._exchange = state.exchange
        self._rounds = state.rounds
        self._arrived = {peer: state.arrived[peer] for peer in sorted(peers) if peer in state.arrived}
        self._since_s = now_s  # the exchange under way began, or the last one ended
        self._waiting = state.waiting
        self._repeat = state.waiting  # the publication may have been lost with the process

    @property
    def token(self) -> Id:
        """The newest exchange that this coordinator took part in, as peers learn it from the status."""
        return 0, self._exchange

    @property
    def blocks(self) -> bool:
        """Whether the region waits for its peers: no update is applied and no round begins meanwhile."""
        return self._waiting

    @property
    def wake_at_s(self) -> float | None:
        """When `tick` wants to be called next; None: not before another event."""
        if self._waiting:
            ends_s = self._since_s + self._rule.barrier_timeout_s
            return min([ends_s, *(self._alive_until_s[peer] for peer in self._missing())])
        return None if self._rule.interval_s is None else self._since_s + self._rule.interval_s

    def snapshot(self) -> BarrierState:
        """Return what a restart needs: on disk before the effects of the event that changed it are performed."""
        return BarrierState(self._exchange, self._waiting, self._rounds, dict(self._arrived))

    def updated(self, age: float, devices: int, now_s: float) -> list[TokenEffect]:
        """The arrival rule applied updates: a round of the region is over."""
        if self._rule.interval_s is None:
            self._rounds += 1
        return self._proceed(age, now_s)

    def tick(self, age: float, devices: int, now_s: float) -> list[TokenEffect]:
        """Time has passed."""
        if self._repeat:
            self._repeat = False
            return [Publish((0, self._exchange)), *self._proceed(age, now_s)]
        return self._proceed(age, now_s)

    def peer_seen(self, name: str, broadcast: Id, now_s: float) -> None:
        """A peer answered, or its status came."""
        if name in self._alive_until_s:
            self._alive_until_s[name] = now_s + self._rule.peer_timeout_s

    def token_arrived(
        self, sender: str, broadcast: Id, ages: Mapping[str, float], age: float, now_s: float
    ) -> list[TokenEffect]:
        """Return nothing: there is no token here."""
        return []

    def is_far_behind(self, peer_age: float, age: float) -> bool:
        """Say no: all regions count the same."""
        return False

    def model_arrived(
        self, sender: str, broadcast: Id, peer_age: float, age: float, now_s: float, *, counts: bool = True
    ) -> list[TokenEffect]:
        """A peer's published model is in its replica."""
        epoch, exchange = broadcast
        credible = epoch == 0 and exchange <= self._exchange + ID_STEP_MAX
        if sender not in self._alive_until_s or not credible or not isfinite(peer_age) or peer_age < 0.0:
            return []
        self.peer_seen(sender, broadcast, now_s)
        self._arrived[sender] = PeerArrived(exchange, peer_age, counts)
        return self._proceed(age, now_s)

    def _proceed(self, age: float, now_s: float) -> list[TokenEffect]:
        """Begin an exchange that is due, and end one that waits for nobody any more."""
        effects: list[TokenEffect] = []
        if not self._waiting:
            if not self._is_due(now_s):
                return []
            self._rounds, self._since_s = 0, now_s
            if not any(until_s > now_s for until_s in self._alive_until_s.values()):
                return []  # nobody to exchange with
            self._exchange = max([self._exchange + 1, *(peer.exchange for peer in self._arrived.values())])
            self._waiting = True
            effects.append(Publish((0, self._exchange)))
        timed_out = now_s >= self._since_s + self._rule.barrier_timeout_s
        if not timed_out and any(self._alive_until_s[peer] > now_s for peer in self._missing()):
            return effects
        self._waiting, self._since_s = False, now_s
        return effects + self._mean(age)

    def _is_due(self, now_s: float) -> bool:
        if self._rule.interval_s is None:
            return self._rounds >= self._rule.every_rounds
        begun = any(peer.exchange > self._exchange for peer in self._arrived.values())
        return begun or now_s >= self._since_s + self._rule.interval_s

    def _missing(self) -> list[str]:
        """Return the peers whose model of the exchange under way is not here."""
        return [
            peer
            for peer in self._alive_until_s
            if peer not in self._arrived or self._arrived[peer].exchange < self._exchange
        ]

    def _mean(self, age: float) -> list[TokenEffect]:
        """Return the merges that make the own model, one peer after the other, the mean of all that are here."""
        effects: list[TokenEffect] = []
        missing = self._missing()
        for peer in self._alive_until_s:
            if peer not in missing and self._arrived[peer].counts:
                weight = 1.0 / (len(effects) + 2)
                age += weight * (self._arrived[peer].age - age)
                effects.append(MergePeer(peer, weight, age))
        return effects
