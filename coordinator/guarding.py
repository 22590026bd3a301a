"""A region's guard at work: which of its devices' updates are let in, and what of that goes to disk. Pure."""

from collections.abc import Iterable

import msgspec

from coordinator.downlink import Downlink
from coordinator.events import Alarm, Effect, Malformed, RejectReason, SaveConduct, UpdateArrived
from skerry.algorithms.conduct import Conduct
from skerry.recipe import Recipe
from skerry.vector import SparseVector

OUTLIERS_SINCE_MINOR = 1  # of the protocol: older agents do not know the reasons of a guard


class Judged(msgspec.Struct, frozen=True):
    """What the guard says of an update."""

    factor: float = 1.0  # that its weight is multiplied with
    fault: Malformed | None = None  # None: it counts
    effects: list[Effect] = []


class Guarding:
    """What the recipe's guard sees of a region."""

    def __init__(self, recipe: Recipe, size: int, tail: int, lines: Iterable[Conduct]) -> None:
        """`size`, `tail`: of the model, and of its untrainable end. `lines`: what was known at the last stop."""
        self._guard = recipe.guard.start(size, tail, lines)
        self._differences = not recipe.uplink.whole
        self._strict = self._guard is not None or recipe.arrival.trim is not None

    @property
    def quarantined(self) -> dict[str, str]:
        """The devices that are kept apart, and why."""
        return {} if self._guard is None else self._guard.quarantined

    def admits(self, *, whole: bool) -> Malformed | None:
        """Say what is wrong with the form of an update: a model could not be compared with the others' differences."""
        if whole and self._strict and self._differences:
            return Malformed("malformed", "a whole model, where the recipe asks for the difference to the base")
        return None

    def judge(self, event: UpdateArrived) -> Judged:
        """Judge an update that is about to be taken."""
        if self._guard is None:
            return Judged()
        device = event.device
        assert isinstance(event.vector, SparseVector)
        verdict = self._guard.judge(device, event.vector)
        effects: list[Effect] = [SaveConduct(self._guard.line(device))]
        if verdict.alarm:
            effects.append(Alarm(device, verdict.alarm))
        fault = None if verdict.refused is None else Malformed(verdict.refused, verdict.detail)
        return Judged(verdict.factor, fault, effects)

    def release(self, device: str) -> list[Effect]:
        """Let a device's updates in again; nothing where they are."""
        if self._guard is None or not self._guard.release(device):
            return []
        return [SaveConduct(self._guard.line(device)), Alarm(device, "let in again by an operator")]


def told(reason: RejectReason, link: Downlink | None) -> RejectReason:
    """Return the reason as the agent behind `link` knows it: either way it drops what the update held."""
    minor = 0 if link is None else link.minor
    return "not_finite" if reason in {"outlier", "quarantined"} and minor < OUTLIERS_SINCE_MINOR else reason
