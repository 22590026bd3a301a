"""Which coordinator to go to, and when: the nearest that answers, another one when it is gone, back when it is steady.

Pure: told what happened and the time; clock, network and randomness are the caller's.
"""

import random
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from edge_agent.backoff import Backoff

ROUND_TRIPS = 4  # that are remembered of each; the least of them is the distance: queues only ever add to it
NEARER = 0.7  # a coordinator is nearer than another whose round trip takes so many times as long as its own, or less,
SLACK_S = 0.005  # and less by this; of those as near as the nearest, the configuration's order decides
STEADY_ROUNDS = 3  # of measurements in a row, before a stream that stands is left for a nearer coordinator
SPREAD_S = 1.0  # full jitter before the first attempt elsewhere: a region's devices lose their coordinator at once
LEARNED_MAX = 16  # beside the configuration's; of more, the earliest that are named no more are forgotten
FORGET_ROUNDS = 4000  # of measurements: about a day at the default `limits.probe_s`
RETURN_MAX_S = 3600.0  # largest bound of the wait before a stream is left for one that failed again and again


@dataclass(slots=True)
class _Coordinator:
    url: str
    backoff: Backoff
    returns: Backoff  # of leaving a stream elsewhere for this one
    round_trips_s: deque[float] = field(default_factory=lambda: deque(maxlen=ROUND_TRIPS))
    down: bool = False  # it did not answer when it was asked last
    not_before_s: float = 0.0  # it asked for that, or did not answer
    silent_rounds: int = 0  # of measurements, since its last answer
    unnamed_rounds: int = 0  # of measurements, since a coordinator named it last
    shuts_out: bool = False  # what it said last of this device's certificate: that it was revoked
    return_at_s: float = 0.0  # it was left for another one: one that answers may still refuse every stream

    @property
    def distance_s(self) -> float | None:
        """The least of the newest round trips, None before the first."""
        return min(self.round_trips_s, default=None)


class ChoiceOfCoordinator:
    """Coordinators by their base URLs, in the order of the configuration, and the one whose turn it is."""

    def __init__(self, urls: Iterable[str], min_s: float, max_s: float, rng: random.Random) -> None:
        """`urls`: at least one. `min_s`, `max_s`: bounds of the back-off that each of them has."""
        self._min_s, self._max_s, self._rng = min_s, max_s, rng
        self._known = {url: self._new(url) for url in (one.rstrip("/") for one in urls)}
        self._configured = frozenset(self._known)
        self._named: frozenset[str] = frozenset()  # by a coordinator, most recently
        self._present = next(iter(self._known.values()))
        self._nearer: _Coordinator | None = None  # than the present one,
        self._rounds = 0  # for so many rounds of measurements

    @property
    def url(self) -> str:
        """Of the one whose turn it is."""
        return self._present.url

    @property
    def urls(self) -> list[str]:
        """All that are known."""
        return list(self._known)

    @property
    def backoff(self) -> Backoff:
        """Of the one whose turn it is."""
        return self._present.backoff

    def learned(self, urls: Iterable[str]) -> None:
        """Take note of the coordinators that one of them names; they come behind those that are known.

        Others that were named before stay, as far as there is room, for when no other is up: it may only not have heard
        of them yet. Or one of them was revoked: so they are not preferred to anybody, and forgotten in the end.
        """
        named = dict.fromkeys(url.rstrip("/") for url in urls)
        self._named = frozenset(islice((url for url in named if url not in self._configured), LEARNED_MAX))
        for url in named:
            if url in self._named and url not in self._known:
                self._known[url] = self._new(url)
        excess = len(self._known) - len(self._configured) - LEARNED_MAX
        spare = (one.url for one in self._known.values() if not self._is_listed(one) and one is not self._present)
        for url in list(islice(spare, max(0, excess))):
            del self._known[url]

    def measured(self, round_trips_s: Mapping[str, float | None]) -> None:
        """Take in a round of measurements by URL; None: no answer. Of those that are unknown by now, nothing is kept.

        One that is neither configured nor named any more is forgotten after `FORGET_ROUNDS`.
        """
        for url, round_trip_s in round_trips_s.items():
            one = self._known.get(url)
            if one is None:
                continue
            one.down = round_trip_s is None
            one.silent_rounds = one.silent_rounds + 1 if round_trip_s is None else 0
            if round_trip_s is not None:
                one.round_trips_s.append(round_trip_s)
            one.unnamed_rounds = 0 if self._is_listed(one) else one.unnamed_rounds + 1
            if one.unnamed_rounds >= FORGET_ROUNDS and one is not self._present:
                del self._known[url]

    def shut_out(self) -> bool:
        """The present one says that this device's certificate was revoked; return whether that ends the device.

        One coordinator may be in wrong hands. So each other one that is known has to say so too, or has to have been
        silent for `FORGET_ROUNDS`.
        """
        self._present.shuts_out = True
        return all(one.shuts_out or one.silent_rounds >= FORGET_ROUNDS for one in self._known.values())

    def served(self) -> None:
        """The present one has let this device in."""
        self._present.shuts_out = False

    def begin(self, now_s: float) -> None:
        """Give the first turn to the nearest."""
        self._go_to(self._preferred(now_s) or self._present)

    def moves(self, now_s: float) -> bool:
        """Say whether to leave a stream that stands for a nearer coordinator, whose turn it is then.

        Ask once behind each round of measurements. A coordinator that takes no more agents keeps those that it has.
        """
        up = [one.url for one in self._up(now_s) if one.return_at_s <= now_s and self._is_listed(one)]
        best = _nearest([one for one in self._known.values() if one.url in up or one is self._present])
        if best is None or best is self._present:
            self._nearer, self._rounds = None, 0
            return False
        self._rounds = self._rounds + 1 if best is self._nearer else 1
        self._nearer = best
        if self._rounds < STEADY_ROUNDS:
            return False
        self._go_to(best)
        return True

    def ended(self, now_s: float, *, stood: bool, wait_s: float = 0.0, hopeless: bool = False) -> float:
        """The stream to the present one is over, or there was none (not `stood`); return how long to wait for the next.

        One that stood is tried again first, once: a reset is no death. `wait_s`: the coordinator asked for so long;
        `hopeless`: coming back soon cannot help. One that is left for another is returned to the later, the more often
        that happened since its last success: that it answers measurements does not make its streams work.
        """
        gone = self._present
        if gone.backoff.failures == 0:  # it was a success since it failed last
            gone.returns.succeeded()
        again_s = wait_s + gone.backoff.failed(hopeless=hopeless)
        gone.not_before_s = now_s + again_s
        if stood and not wait_s and not hopeless and gone.backoff.failures == 1:
            return again_s
        gone.down = True
        best = self._preferred(now_s)
        if best is not None:
            gone.return_at_s = now_s + gone.returns.failed(hopeless=hopeless)
            self._go_to(best)
            return self._rng.uniform(0.0, SPREAD_S)
        self._go_to(min(self._known.values(), key=lambda one: one.not_before_s))
        return max(0.0, self._present.not_before_s - now_s)

    def _new(self, url: str) -> _Coordinator:
        backoff = Backoff(self._min_s, self._max_s, self._rng)
        return _Coordinator(url, backoff, Backoff(self._max_s, max(self._max_s, RETURN_MAX_S), self._rng))

    def _is_listed(self, one: _Coordinator) -> bool:
        """Return whether the configuration or the newest list that a coordinator gave names it."""
        return one.url in self._configured or one.url in self._named

    def _go_to(self, one: _Coordinator) -> None:
        self._present, self._nearer, self._rounds = one, None, 0

    def _up(self, now_s: float) -> list[_Coordinator]:
        """Return those that answer, as far as is known, and may be asked."""
        return [one for one in self._known.values() if not one.down and one.not_before_s <= now_s]

    def _preferred(self, now_s: float) -> _Coordinator | None:
        """Return where to go without a stream; None: nobody is up.

        Only where no other is up it is one that nobody names any more, or else one that failed lately.
        """
        up = self._up(now_s)
        up = [one for one in up if self._is_listed(one)] or up
        return _nearest([one for one in up if one.return_at_s <= now_s] or up)


def _nearest(coordinators: Sequence[_Coordinator]) -> _Coordinator | None:
    """Return the first of those that are as near as the nearest; None: there is none."""
    measured = [(one, one.distance_s) for one in coordinators]
    nearest_s = min((distance_s for _, distance_s in measured if distance_s is not None), default=None)
    if nearest_s is None:
        return next(iter(coordinators), None)
    far_s = nearest_s / NEARER + SLACK_S
    return next(one for one, distance_s in measured if distance_s is not None and distance_s <= far_s)
