"""Spyker's token, as one coordinator sees it: who starts an exchange of models, who answers. Scalars only, no I/O.

Source: Spyker (2024, arXiv:2406.01439) and its released code: exactly one token; its holder starts an exchange by
publishing its model under the token's id; whoever sees an id for the first time publishes its own model under it
*before* merging; with a model of every peer the holder passes the token on.

Deviations, for a world in which messages get lost, repeated and late, and coordinators die and come back:

- The token's id is (epoch, number), and `number` rises with every hop as well as with every exchange. A repeated
  hand-over is therefore recognised, and any rise of the id that a peer reports is a sign of the token's life.
- A token without a sign of life for a time-out is made anew, with a higher epoch, by the live coordinator of lowest
  name; where that one does not get it done, because others can reach it but it cannot reach them, by the next one a
  time-out later, and so on. Epochs are dealt by rank (epoch modulo coordinators), so two coordinators that cannot see
  each other never make the same one; once they do, the lower epoch is dropped.
- A coordinator that restarts as holder makes the token anew at once: it may have handed it on before it died.
- A model is merged once by (peer, id). Ids of one peer only rise, so the last one is all that has to be remembered.
- An exchange waits for the peers that were alive when it began, and no longer than `peer_timeout_s`; a model that
  comes later is merged all the same.
- The rule is asked for updates that came while the token was elsewhere, too: slow regions get few while they hold it.
- A model that lies too far away, or is not finite, takes part in the exchange and is not merged. See `peer_guard`.
- A model that is far behind is not merged: it catches up first, by merging the others. See `SpykerToken.is_far_behind`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from skerry.algorithms.federation import SpykerToken

Id = tuple[int, int]  # (epoch, number); ordered
Ages = Mapping[str, float]  # by coordinator
NO_ID: Id = (0, 0)  # below the id of every token
ID_STEP_MAX = 1 << 36  # of either part, above what is known here: centuries of hops


@dataclass(frozen=True, slots=True)
class Publish:
    """Publish the own model, as it is at this place among the effects, to all peers under this id."""

    broadcast: Id


@dataclass(frozen=True, slots=True)
class MergePeer:
    """W += weight * (replica of `peer` - W); the own age becomes `age`."""

    peer: str
    weight: float  # in (0, eta_a]
    age: float


@dataclass(frozen=True, slots=True)
class PassToken:
    """Hand the token on. Lost on the way, it is made anew after a time-out."""

    to: str
    broadcast: Id
    ages: dict[str, float]


TokenEffect = Publish | MergePeer | PassToken


class TokenState(msgspec.Struct, frozen=True):
    """What a coordinator must not forget."""

    known: Id = NO_ID  # the newest id of any token or exchange
    last_token: Id = NO_ID  # the newest token that was here or was handed on from here
    holds_token: bool = False
    published: Id = NO_ID  # the newest id the own model was published under
    merged: dict[str, Id] = {}  # by peer: the newest id that was merged
    age_merged: float = 0.0  # the own age right after the last merge


@dataclass(slots=True)
class _Held:
    """The token while it is here."""

    broadcast: Id
    since_s: float
    ages: dict[str, float]
    awaited: set[str] = field(default_factory=set)  # peers whose model the exchange waits for
    deadline_s: float | None = None  # of the exchange; None: there is none


class Alone:
    """The machine of a coordinator without peers, or whose recipe has no federation: nothing ever happens.

    It keeps the state of a federation that it may join again.
    """

    wake_at_s: float | None = None
    holds = False
    blocks = False

    def __init__(self, state: TokenState | None) -> None:
        self._state = state or TokenState()

    @property
    def token(self) -> Id:
        """The newest id that was known."""
        return self._state.known

    def updated(self, age: float, devices: int, now_s: float) -> list[TokenEffect]:
        """Return nothing."""
        return []

    def token_arrived(self, sender: str, broadcast: Id, ages: Ages, age: float, now_s: float) -> list[TokenEffect]:
        """Return nothing."""
        return []

    def is_far_behind(self, peer_age: float, age: float) -> bool:
        """Say no: nothing is merged at all."""
        return False

    def model_arrived(
        self, sender: str, broadcast: Id, peer_age: float, age: float, now_s: float, *, counts: bool = True
    ) -> list[TokenEffect]:
        """Return nothing: the replica of a peer that federates is kept, but not merged."""
        return []

    def peer_seen(self, name: str, broadcast: Id, now_s: float) -> None:
        """Take no notice."""

    def tick(self, age: float, devices: int, now_s: float) -> list[TokenEffect]:
        """Return nothing."""
        return []

    def snapshot(self) -> TokenState:
        """Return the state it was started with."""
        return self._state


class TokenMachine:
    """The machine of one coordinator among peers.

    Every event returns what the shell must do, in order. `age` is the own model's age, which after `MergePeer` is that
    effect's; `devices` are the region's. Times are seconds on one clock that never goes back.
    """

    blocks = False  # clients are never kept waiting

    def __init__(
        self, rule: "SpykerToken", name: str, peers: Sequence[str], now_s: float, state: TokenState | None
    ) -> None:
        assert peers
        assert name not in peers
        self._rule = rule
        self._name = name
        self._names = sorted({name, *peers})
        self._rank = self._names.index(name)
        self._alive_until_s: dict[str, float] = {}  # peers that gave a sign of life
        self._sign_s = now_s  # of the token's life
        self._news = False  # updates since the token's rule was last asked
        self._exchanged_s: float | None = None  # last own publication
        self._held: _Held | None = None
        self._devices = 0  # of the region, when it was last heard of

        remembered = state or TokenState()
        self._known = remembered.known
        self._last_token = remembered.last_token
        self._published = remembered.published
        self._merged = {name: id_ for name, id_ in remembered.merged.items() if name in self._names}
        self._age_merged = remembered.age_merged
        if state is None and self._rank == 0:
            self._hold((0, 1), {}, now_s)
        elif remembered.holds_token:
            self._make_token(now_s)

    @property
    def token(self) -> Id:
        """The newest id of any token or exchange that is known here; peers learn it from the status."""
        return self._known

    @property
    def holds(self) -> bool:
        """Whether the token is here."""
        return self._held is not None

    @property
    def wake_at_s(self) -> float | None:
        """When `tick` wants to be called next; None: not before another event."""
        held, rule = self._held, self._rule
        if held is None:
            lower_silent_s = max((self._alive_until_s[name] for name in self._lower_alive()), default=0.0)
            return min(max(self._lost_at_s(), lower_silent_s), self._own_turn_s())
        if held.deadline_s is not None:
            return held.deadline_s
        if not self._alive_until_s:
            return None
        return held.since_s + (rule.hold_min_s if self._news else rule.hold_max_s)

    def snapshot(self) -> TokenState:
        """Return what a restart needs: on disk before the effects of the event that changed it are performed."""
        return TokenState(
            known=self._known,
            last_token=self._last_token,
            holds_token=self._held is not None,
            published=self._published,
            merged=dict(self._merged),
            age_merged=self._age_merged,
        )

    def updated(self, age: float, devices: int, now_s: float) -> list[TokenEffect]:
        """A device's update was applied; `age` counts it."""
        self._news, self._devices = True, devices
        return self._decide(age, devices, now_s)

    def tick(self, age: float, devices: int, now_s: float) -> list[TokenEffect]:
        """Time has passed."""
        self._forget_silent_peers(now_s)
        self._devices = devices
        held = self._held
        if held is None:
            if now_s >= self._own_turn_s():
                self._make_token(now_s)
            return []
        if held.deadline_s is not None and now_s >= held.deadline_s:
            return self._end_exchange(held, age, now_s)
        return self._decide(age, devices, now_s)

    def peer_seen(self, name: str, broadcast: Id, now_s: float) -> None:
        """A peer answered, or its status came: it lives, and knows of `broadcast`."""
        if self._is_peer(name) and self._is_credible(broadcast):
            self._heard(name, broadcast, now_s)

    def token_arrived(self, sender: str, broadcast: Id, ages: Ages, age: float, now_s: float) -> list[TokenEffect]:
        """A peer handed the token on. Repeats, outdated and impossible tokens change nothing."""
        if not self._is_peer(sender) or not self._is_credible(broadcast):
            return []
        self._heard(sender, broadcast, now_s)
        if broadcast > self._last_token and broadcast >= self._known:
            table = {name: ages[name] for name in self._names if name in ages and _is_age(ages[name])}
            self._hold(broadcast, table | {self._name: age}, now_s)
        return []

    def is_far_behind(self, peer_age: float, age: float) -> bool:
        """Say whether a peer's model of this age would have to catch up first."""
        return self._rule.is_far_behind(peer_age, age, self._devices)

    def model_arrived(
        self, sender: str, broadcast: Id, peer_age: float, age: float, now_s: float, *, counts: bool = True
    ) -> list[TokenEffect]:
        """A peer's published model is in its replica. A repeat is merged once; one of impossible age or id never.

        `counts`: False: it takes part in the exchange, but must not be merged.
        """
        if not self._is_peer(sender) or not _is_age(peer_age) or not self._is_credible(broadcast):
            return []
        self._heard(sender, broadcast, now_s)
        effects: list[TokenEffect] = []
        if broadcast > self._published and broadcast[0] == self._known[0]:
            effects.append(self._publish(broadcast, now_s))
        if broadcast > self._merged.get(sender, NO_ID):
            self._merged[sender] = broadcast
            if counts and not self.is_far_behind(peer_age, age):
                weight, age = self._rule.merge(age, peer_age)
                self._age_merged = age
                effects.append(MergePeer(sender, weight, age))
        held = self._held
        if held is not None and held.deadline_s is not None and broadcast >= held.broadcast:
            held.awaited.discard(sender)
            if not held.awaited:
                effects += self._end_exchange(held, age, now_s)
        return effects

    # --- the token here ---

    def _decide(self, age: float, devices: int, now_s: float) -> list[TokenEffect]:
        """Start an exchange, pass the token on, or keep it."""
        held, rule = self._held, self._rule
        if held is None or held.deadline_s is not None:
            return []
        self._forget_silent_peers(now_s)
        if not self._alive_until_s:
            return []  # nobody to exchange with, nobody to pass it to
        held.ages[self._name] = age
        drifted = self._news and self._has_drifted(held, age, devices)
        if drifted and (self._exchanged_s is None or now_s >= self._exchanged_s + rule.exchange_interval_min_s):
            self._news = False
            held.awaited = set(self._alive_until_s)
            held.deadline_s = now_s + rule.peer_timeout_s
            return [self._publish(held.broadcast, now_s)]
        if now_s >= held.since_s + (rule.hold_min_s if self._news else rule.hold_max_s):
            self._news = drifted  # too early for an exchange: ask again when the token is back
            return [self._pass_on(held, now_s)]
        return []

    def _has_drifted(self, held: _Held, age: float, devices: int) -> bool:
        """Say whether the regions' ages, or the own one since the last merge, are too far apart."""
        # A dead peer's age stands still; it must not make everybody else exchange at every hop.
        ages = [held.ages[name] for name in held.ages if name == self._name or name in self._alive_until_s]
        spread, growth = max(ages) - min(ages), age - self._age_merged
        return spread >= self._rule.spread_max(devices) or growth > self._rule.growth_max(devices)

    def _end_exchange(self, held: _Held, age: float, now_s: float) -> list[TokenEffect]:
        """Reset the table, raise the id, and pass the token on if there is anybody left."""
        self._forget_silent_peers(now_s)
        epoch, number = held.broadcast
        self._hold((epoch, number + 1), {self._name: age}, now_s)
        assert self._held is not None
        return [self._pass_on(self._held, now_s)] if self._alive_until_s else []

    def _pass_on(self, held: _Held, now_s: float) -> PassToken:
        """Give the token to the next live peer in the order of names."""
        ring = self._names[self._rank + 1 :] + self._names[: self._rank]
        to = next(name for name in ring if name in self._alive_until_s)
        epoch, number = held.broadcast
        self._last_token = (epoch, number + 1)
        self._held = None
        self._learn(self._last_token, now_s)
        return PassToken(to, self._last_token, held.ages)

    def _hold(self, broadcast: Id, ages: dict[str, float], now_s: float) -> None:
        self._held = _Held(broadcast, now_s, ages)
        self._last_token = broadcast
        self._learn(broadcast, now_s)

    def _make_token(self, now_s: float) -> None:
        """Make a token of the lowest own epoch above every known one."""
        coordinators = len(self._names)
        epoch = self._known[0] + 1
        epoch += (self._rank - epoch) % coordinators
        self._hold((epoch, 1), {}, now_s)

    # --- what is known ---

    def _publish(self, broadcast: Id, now_s: float) -> Publish:
        self._published = broadcast
        self._exchanged_s = now_s
        return Publish(broadcast)

    def _heard(self, name: str, broadcast: Id, now_s: float) -> None:
        self._alive_until_s[name] = now_s + self._rule.peer_timeout_s
        self._learn(broadcast, now_s)

    def _learn(self, broadcast: Id, now_s: float) -> None:
        """Take a rise of the id as a sign of the token's life; drop the own token if it is of an older epoch."""
        if broadcast <= self._known:
            return
        self._known = broadcast
        self._sign_s = now_s
        if self._held is not None and broadcast[0] > self._held.broadcast[0]:
            self._held = None

    def _lost_at_s(self) -> float:
        """When the token counts as lost: its time-out, and a round in which every holder is idle."""
        return self._sign_s + self._rule.token_timeout_s + len(self._names) * self._rule.hold_max_s

    def _own_turn_s(self) -> float:
        """When it is up to this coordinator to make a lost token: every live one of lower name comes first."""
        return self._lost_at_s() + len(self._lower_alive()) * self._rule.token_timeout_s

    def _lower_alive(self) -> list[str]:
        return [name for name in self._names[: self._rank] if name in self._alive_until_s]

    def _forget_silent_peers(self, now_s: float) -> None:
        if any(until_s <= now_s for until_s in self._alive_until_s.values()):
            self._alive_until_s = {name: until for name, until in self._alive_until_s.items() if until > now_s}

    def _is_credible(self, broadcast: Id) -> bool:
        """Say whether counting can have got there: an id that no message can count on from ends the federation."""
        return all(part <= known + ID_STEP_MAX for part, known in zip(broadcast, self._known, strict=True))

    def _is_peer(self, name: str) -> bool:
        return name != self._name and name in self._names


def _is_age(age: float) -> bool:
    return isfinite(age) and age >= 0.0
