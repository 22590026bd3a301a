"""Spyker's token: when do the servers of a federation exchange models? A state machine over scalars, without I/O.

Exactly one token exists as a rule. Its holder looks, after each client update, whether the servers' ages have grown
apart; if so it publishes its model under a new id and waits for every live peer's, else it hands the token on. A
server that sees an id for the first time publishes its own model under that id before it merges.

Source: Spyker's released code (arXiv:2406.01439, Middleware '24). Deviations: the token's id rises with every hop as
well, so that a token delivered twice is taken once and of two tokens one dies; a token that nobody has heard of is
made anew, with a higher epoch, by the live server of lowest name; a holder whose region is silent decides after
`hold_max_s`; a peer that is gone is not waited for. A second token for a while costs extra exchanges, never
correctness: a peer's model is merged once for each id.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from skerry.algorithms.age_weighting import Merged

Id = tuple[int, int]  # (epoch, number)
NO_ID: Id = (0, 0)


class TokenState(msgspec.Struct, frozen=True):
    """What must outlive a restart: nothing is published or merged twice under one id."""

    token: Id  # highest id of a token, held or heard of
    published: Id  # highest id this server has published under
    merged: dict[str, Id]  # highest id merged, by peer
    exchange_age: float  # own age after the last exchange


@dataclass(frozen=True, slots=True)
class Publish:
    """Publish the own model to every peer under this id, as it is now."""

    broadcast: Id


@dataclass(frozen=True, slots=True)
class MergePeer:
    """Move the own model towards the peer's: W += weight (W_peer - W); the own age becomes `age`."""

    peer: str
    weight: float
    age: float


@dataclass(frozen=True, slots=True)
class PassToken:
    """Hand the token to a peer."""

    to: str
    broadcast: Id
    ages: Mapping[str, float]


TokenEffect = Publish | MergePeer | PassToken


class TokenRule(Protocol):
    """The settings that the machine reads; `federation.SpykerToken` says what they mean."""

    @property
    def h_intra(self) -> float:
        """Growth of the own age since its last exchange, above which the holder calls for one."""

    @property
    def exchange_interval_min_s(self) -> float:
        """Least time between two exchanges that this server calls for."""

    @property
    def hold_max_s(self) -> float:
        """How long a holder waits for a client update."""

    @property
    def peer_timeout_s(self) -> float:
        """How long a peer may be silent."""

    @property
    def token_timeout_s(self) -> float:
        """How long the token may be silent."""

    def threshold(self, devices: int) -> float:
        """Return the spread of ages at which the holder calls for an exchange."""

    def merge(self, age: float, peer_age: float) -> Merged:
        """Return what a peer's model weighs, and the merged age."""


class Alone:
    """A server without peers, or whose recipe has no federation: every event leads to nothing."""

    wake_at_s: float | None = None
    token: Id = NO_ID

    def updated(self, age: float, devices: int, now_s: float) -> list[TokenEffect]:
        """Return nothing."""
        return []

    def token_arrived(
        self, sender: str, broadcast: Id, ages: Mapping[str, float], age: float, now_s: float
    ) -> list[TokenEffect]:  # fmt: skip
        """Return nothing."""
        return []

    def model_arrived(
        self, sender: str, broadcast: Id, peer_age: float, age: float, now_s: float
    ) -> list[TokenEffect]:  # fmt: skip
        """Return nothing: a peer that federates is kept as a replica but not merged."""
        return []

    def peer_seen(self, name: str, broadcast: Id, now_s: float) -> None:
        """Take no notice."""

    def tick(self, age: float, devices: int, now_s: float) -> list[TokenEffect]:
        """Return nothing."""
        return []

    def snapshot(self) -> TokenState:
        """Return the empty state."""
        return TokenState(NO_ID, NO_ID, {}, 0.0)


class TokenMachine:
    """One server's part in the token rule. Times are seconds of any one monotonic clock; ages come from outside."""

    def __init__(
        self, rule: TokenRule, name: str, peers: Sequence[str], now_s: float, state: TokenState | None
    ) -> None:
        self._rule = rule
        self._name = name
        self._ring = sorted({name, *peers})
        state = state or TokenState(NO_ID, NO_ID, {}, 0.0)
        self.token: Id = state.token
        self._published = state.published
        self._merged = {peer: tuple_id(id_) for peer, id_ in state.merged.items() if peer in self._ring}
        self._exchange_age = state.exchange_age
        self._heard_s = dict.fromkeys(peers, now_s)  # at the start everybody counts as live for one time-out
        self._token_heard_s = now_s
        self._exchanged_s = float("-inf")
        self._ages: dict[str, float] | None = None  # the token's table; None: not held
        self._held_s = now_s
        self._awaited: set[str] | None = None  # whose models of the running exchange are still missing
        self._exchange: Id = NO_ID
        if self.token == NO_ID and name == self._ring[0]:
            self._take((1, 1), {}, now_s)

    @property
    def holds(self) -> bool:
        """Whether the token is here."""
        return self._ages is not None

    @property
    def wake_at_s(self) -> float | None:
        """When `tick` has something to do at the latest, if no other event comes first."""
        if self.holds:
            return self._held_s + (self._rule.hold_max_s if self._awaited is None else self._rule.peer_timeout_s)
        return self._token_heard_s + self._rule.token_timeout_s

    def updated(self, age: float, devices: int, now_s: float) -> list[TokenEffect]:
        """A client update was applied; `age` is the own age after it, `devices` the region's number of devices."""
        if self._ages is None or self._awaited is not None:
            return []
        return self._decide(age, devices, now_s)

    def token_arrived(
        self, sender: str, broadcast: Id, ages: Mapping[str, float], age: float, now_s: float
    ) -> list[TokenEffect]:
        """A peer handed the token on. One that is older than what was heard of is dropped."""
        self._hear(sender, now_s)
        if broadcast > self.token:
            self._take(broadcast, ages, now_s)
            assert self._ages is not None
            self._ages[self._name] = age
        return []

    def model_arrived(self, sender: str, broadcast: Id, peer_age: float, age: float, now_s: float) -> list[TokenEffect]:
        """A peer's model is in its replica here; `age` is the own age before the merge."""
        self._hear(sender, now_s)
        if broadcast <= self._merged.get(sender, NO_ID):
            return []
        effects: list[TokenEffect] = []
        self._notice(broadcast, now_s)
        if broadcast > self._published:
            self._published = broadcast
            effects.append(Publish(broadcast))
        self._merged[sender] = broadcast
        weight, merged_age = self._rule.merge(age, peer_age)
        self._exchange_age = merged_age
        effects.append(MergePeer(sender, weight, merged_age))
        if self._awaited is not None and broadcast == self._exchange:
            self._awaited.discard(sender)
            effects += self._finish_exchange(merged_age, now_s)
        return effects

    def peer_seen(self, name: str, broadcast: Id, now_s: float) -> None:
        """A peer gave a sign of life and said which token it has heard of."""
        self._hear(name, now_s)
        self._notice(broadcast, now_s)

    def tick(self, age: float, devices: int, now_s: float) -> list[TokenEffect]:
        """Time has passed: stop waiting for peers that are gone, hand on an idle token, make a lost one anew."""
        if self._ages is None:
            if now_s - self._token_heard_s >= self._rule.token_timeout_s and self._lowest_live(now_s):
                self._take((self.token[0] + 1, 1), {}, now_s)
            return []
        if self._awaited is not None:
            if now_s - self._held_s >= self._rule.peer_timeout_s:
                self._awaited.clear()
            self._awaited &= set(self._live(now_s))
            return self._finish_exchange(age, now_s)
        if now_s - self._held_s >= self._rule.hold_max_s:
            return self._decide(age, devices, now_s)
        return []

    def snapshot(self) -> TokenState:
        """Return what must be on disk before the effects that led to it are performed."""
        return TokenState(self.token, self._published, dict(self._merged), self._exchange_age)

    def _decide(self, age: float, devices: int, now_s: float) -> list[TokenEffect]:
        assert self._ages is not None
        self._ages[self._name] = age
        if not self._live(now_s):
            self._held_s = now_s
            return []
        spread = max(self._ages.values()) - min(self._ages.values())
        apart = spread >= self._rule.threshold(devices) or age - self._exchange_age > self._rule.h_intra
        if not apart or now_s - self._exchanged_s < self._rule.exchange_interval_min_s:
            return self._pass_on(now_s)
        self.token = self._exchange = self._published = (self.token[0], self.token[1] + 1)
        self._awaited = set(self._live(now_s))
        self._held_s = self._token_heard_s = self._exchanged_s = now_s
        return [Publish(self._exchange)]

    def _finish_exchange(self, age: float, now_s: float) -> list[TokenEffect]:
        if self._awaited:
            return []
        self._awaited = None
        self._exchange_age = age
        self._ages = {self._name: age}
        return self._pass_on(now_s)

    def _pass_on(self, now_s: float) -> list[TokenEffect]:
        assert self._ages is not None
        live = self._live(now_s)
        if not live:
            self._held_s = now_s
            return []
        own = self._ring.index(self._name)
        following = self._ring[own + 1 :] + self._ring[:own]
        to = next(server for server in following if server in live)
        self.token = (self.token[0], self.token[1] + 1)
        passed = PassToken(to, self.token, self._ages)
        self._ages = None
        self._token_heard_s = now_s
        return [passed]

    def _take(self, token: Id, ages: Mapping[str, float], now_s: float) -> None:
        self.token = token
        self._ages = {server: age for server, age in ages.items() if server in self._ring}
        self._awaited = None
        self._held_s = self._token_heard_s = now_s

    def _notice(self, broadcast: Id, now_s: float) -> None:
        """A newer token exists elsewhere: one that is held here has been replaced."""
        if broadcast > self.token:
            self.token = broadcast
            self._token_heard_s = now_s
            self._ages = None
            self._awaited = None

    def _hear(self, peer: str, now_s: float) -> None:
        if peer in self._heard_s:
            self._heard_s[peer] = now_s

    def _live(self, now_s: float) -> list[str]:
        return [peer for peer, heard_s in self._heard_s.items() if now_s - heard_s < self._rule.peer_timeout_s]

    def _lowest_live(self, now_s: float) -> bool:
        return all(self._name < peer for peer in self._live(now_s))


def tuple_id(id_: Sequence[int]) -> Id:
    """Return an id as a tuple, whatever sequence it was stored as."""
    epoch, number = id_
    return epoch, number
