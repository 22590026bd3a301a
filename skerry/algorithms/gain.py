"""The server rate as a function of how many devices train at once: control of a delayed feedback. Scalars only.

A device's update answers a model that has moved on since. Let device k send f updates a second, each of weight w and d
seconds behind its base. Near an optimum the model x then follows x'(t) = - sum_k w_k f_k x(t - d_k), which is stable if
its *gain* sum_k w_k f_k d_k is below 3/2, and swings less the smaller it is (Yorke 1970 for one delay, which may change
all the time). Strong local training answers less than all of x, so that its gain is no larger.

Nobody has to know f and d: an update is f_1 d_k + f_2 d_k + ... updates behind its base. Of device k comes the share
f_k / sum f of all updates, so that the mean of weight * (updates behind its base, itself counted) over arriving updates
*is* the gain. At rate 1 that mean, the *load*, is what is measured here, over about one update per device; the rate is
gain_max / load, and at most `server_rate`. A device that joins is taken into account before it delivers, as one more of
many that start from the same model.
"""

from collections.abc import Sequence

import msgspec

from skerry.algorithms.arrival import Arrival, ArrivalRule, GainControlled, Weigher, staleness_discount

MEMORY_MIN = 8  # updates that the mean looks back on, however few devices there are


class GainState(msgspec.Struct, frozen=True, tag="gain"):
    """What is known of a region's load."""

    load: float = 0.0  # the gain at rate 1
    devices: float = 0.0  # that it takes into account; who left is forgotten as fast as what they delivered


class GainControl:
    """Weighs one region's updates, in the order of their arrival."""

    def __init__(self, rule: GainControlled, state: GainState | None) -> None:
        """Go on from `state`; None: nothing is known yet."""
        self._rule = rule
        self._state = state or GainState()
        self.devices = 1  # that are connected now: whoever knows keeps it up to date

    def snapshot(self) -> GainState:
        """Return what a restart needs to weigh the next update as this object would."""
        return self._state

    @property
    def rate(self) -> float:
        """The rate now, in (0, server_rate]."""
        load = self._state.load
        return min(self._rule.server_rate, self._rule.gain_max / load) if load > 0.0 else self._rule.server_rate

    def decide(self, held: Sequence[Arrival]) -> Sequence[float] | None:
        """Return a weight for every held update, oldest arrival first; all are applied now."""
        return [self._weigh(arrival) for arrival in held]

    def _weigh(self, arrival: Arrival) -> float:
        rule, state = self._rule, self._state
        discount = staleness_discount(arrival.staleness, rule.exponent, rule.staleness_max)
        load, known, devices = state.load, state.devices, max(1, self.devices)
        # Those who joined may all deliver at once: the first finds the model unchanged, the second by one update, ...
        load += sum(staleness_discount(behind, rule.exponent) for behind in range(round(known), devices))
        known = max(known, devices)
        memory = max(known, MEMORY_MIN)
        load += (discount * (1 + arrival.behind) - load) / memory
        self._state = GainState(load, known + (devices - known) / memory)
        return self.rate * discount


def weigher(rule: ArrivalRule, state: GainState | None) -> Weigher:
    """Return what weighs a region's updates: the rule, or where it controls its rate, what does so from `state` on."""
    return GainControl(rule, state) if isinstance(rule, GainControlled) else rule
