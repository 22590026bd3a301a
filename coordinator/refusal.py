"""Why an update that arrived is not taken. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from coordinator.age_history import AgeHistory
from coordinator.downlink import Downlink
from coordinator.events import Malformed, UpdateArrived
from coordinator.region_state import HeldUpdate
from skerry.algorithms.rounds import Rounds
from skerry.protocol.messages import ModelVersion

BUFFERED_MAX = 4  # updates of one device that wait for a robust mean: a fast one must not fill the memory


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an update that is well-formed is not taken."""

    reason: Literal["unknown_base", "wrong_sequence", "late"]
    detail: str


def fault_of(
    event: UpdateArrived, link: Downlink | None, rounds: Rounds | None, buffered: Sequence[HeldUpdate]
) -> Malformed | Refusal | None:
    """Say what is wrong with an update whose base is known, if anything; `buffered`: wait for a robust mean."""
    offered = event.offered
    if link is not None and offered.sequence in link.rejected:
        return Refusal("wrong_sequence", f"update {offered.sequence} was rejected on this stream before")
    if isinstance(event.vector, Malformed):
        return event.vector
    if offered.whole and len(event.vector) < event.vector.size:
        return Malformed("malformed", f"a whole model of {len(event.vector)} entries, not {event.vector.size}")
    if not isfinite(offered.loss):
        return Malformed("not_finite", f"the update's loss is {offered.loss}")
    if rounds is not None and not rounds.takes(event.device, offered.base.number):
        return Refusal("late", f"the round of version {offered.base.number} is over, or has one from this device")
    if sum(held.arrival.device == event.device for held in buffered) >= BUFFERED_MAX:
        return Refusal("late", f"{BUFFERED_MAX} updates of this device wait for those of others already")
    return None


def unknown(base: ModelVersion, lineage: str, ages: AgeHistory) -> Refusal:
    """Say which bases are known, `base` not being one of them."""
    return Refusal(
        "unknown_base", f"base {base.lineage}@{base.number}: known are {lineage}@{ages.first} to {lineage}@{ages.last}"
    )


def jumped(last: int) -> Refusal:
    """Say that a number is too far above `last`, the highest that is known of its device."""
    detail = f"too far above {last}, the highest number known of this device: it is taken after some minutes of tries"
    return Refusal("wrong_sequence", detail)
