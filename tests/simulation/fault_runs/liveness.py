"""What must hold some time after the last fault. Pure, as `safety` is."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from tests.simulation.fault_runs.evidence import Evidence
from tests.simulation.fault_runs.federation import ARRIVALS
from tests.simulation.fault_runs.safety import Invariant
from tests.simulation.fault_runs.witness import HandedOver, Id

WINDOW_S = 6.0  # at the end of a run, in which all that lives must show itself
ONE_TOKEN_S = 3.0  # the same, for two tokens: two may be made anew at once, late, and one of them is dropped on sight
ANSWER_S = 2.0  # after which a device has written down that it was answered
HAND_OVERS_MIN = 3  # of the token within it: it stays for half a second at most, and for an exchange
DISTANCE_MAX = 0.35  # between two regions' models, of the way that the longer of them has come from the beginning


def every_device_contributes(evidence: Evidence) -> Iterator[str]:
    """Each is acknowledged an update, and gets a model."""
    since_s = evidence.ended_s - WINDOW_S
    for device in evidence.plan.homes:
        answered_s = max((one.at_s for one in evidence.witness.acknowledged if one.device == device), default=0.0)
        if answered_s < since_s:
            yield f"{device} was last acknowledged an update at {answered_s:.3f} s of {evidence.ended_s:.3f} s"
        offered_s = evidence.witness.offered_at_s.get(device, 0.0)
        if offered_s < since_s:
            yield f"{device} was last sent a model at {offered_s:.3f} s of {evidence.ended_s:.3f} s"


def the_token_lives(evidence: Evidence) -> Iterator[str]:
    """One token goes round, and no new one has to be made."""
    since_s = evidence.ended_s - WINDOW_S
    hops: list[HandedOver] = []
    arrived_s: dict[tuple[str, str, Id], float] = {}
    for one in evidence.witness.handed_over:
        # The token counts from when it first came: TCP may repeat an answer that a partition lost long after.
        at_s = arrived_s.setdefault((one.sender, one.to, one.id), one.at_s)
        if one.taken and at_s >= since_s and one.sender != "echo":
            hops.append(one)
    if len(hops) < HAND_OVERS_MIN:
        yield f"the token was handed over {len(hops)} times in the last {WINDOW_S:g} s"
    epochs = sorted({one.id[0] for one in hops})
    if len(epochs) > 1:
        yield f"in the last {WINDOW_S:g} s tokens of the epochs {epochs} were handed over"


def there_is_one_token(evidence: Evidence) -> Iterator[str]:
    """Never do two coordinators hold one, once they see one another."""
    holders: dict[float, list[str]] = {}
    for one in evidence.witness.sightings:
        if one.at_s >= evidence.ended_s - ONE_TOKEN_S and one.holds_token:
            holders.setdefault(one.at_s, []).append(one.coordinator)
    for at_s, names in holders.items():
        if len(names) > 1:
            yield f"{' and '.join(names)} hold a token at {at_s:.3f} s"
            return


def models_are_exchanged(evidence: Evidence) -> Iterator[str]:
    """Each region's replicas of its peers get newer."""
    plan = evidence.plan
    for name in plan.coordinators:
        sightings = [one for one in evidence.witness.sightings if one.coordinator == name]
        before = [one for one in sightings if one.at_s < evidence.ended_s - WINDOW_S]
        for peer in plan.coordinators:
            if peer != name and (not before or sightings[-1].replicas.get(peer, 0) <= before[-1].replicas.get(peer, 0)):
                yield f"{name} got no model of {peer} in the last {WINDOW_S:g} s"


def regions_converge(evidence: Evidence) -> Iterator[str]:
    """No two regions' models are further apart than a share of the way that they have come."""
    for (one, model), (other, second) in combinations(sorted(evidence.models.items()), 2):
        come = max(float(np.linalg.norm(model)), float(np.linalg.norm(second)))  # they begin at zero
        distance = float(np.linalg.norm(model - second)) / come if come else 0.0
        if not distance <= DISTANCE_MAX:
            yield f"{one} and {other} are {distance:.3f} of the way that they have come apart"


def no_update_waits_behind_its_successors(evidence: Evidence) -> Iterator[str]:
    """A device is answered in the order of its updates."""
    for device, state in evidence.devices.items():
        answered = [one for one in evidence.witness.acknowledged if one.device == device]
        newest = max((one.sequence for one in answered if one.at_s < evidence.ended_s - ANSWER_S), default=0)
        for sequence in state.waiting:
            if sequence < newest:
                yield f"update {sequence} of {device} still waits, and update {newest} was acknowledged long ago"


def held_updates_are_released(evidence: Evidence) -> Iterator[str]:
    """The arrival rule holds no more than it has to: what is held is newer than all but a buffer's worth."""
    for name, journal in evidence.journals.items():
        updates = sorted(
            (entry for entry in journal if entry.kind in {"update", "model"}), key=lambda entry: entry.position
        )
        size = getattr(ARRIVALS[evidence.plan.arrival], "size", 1)
        for entry in updates[: len(updates) - size + 1]:
            if entry.version is None:
                yield f"{name} still holds update {entry.sequence} of {entry.sender} and has applied later ones"


LIVENESS: tuple[Invariant, ...] = (
    every_device_contributes,
    no_update_waits_behind_its_successors,
    held_updates_are_released,
    the_token_lives,
    there_is_one_token,
    models_are_exchanged,
    regions_converge,
)
