"""Each invariant by itself: quiet about a world that is in order, and the one that speaks when its own thing breaks."""

import inspect
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from skerry.protocol import sparse
from skerry.vector import SparseVector
from tests.simulation.fault_runs import liveness, safety
from tests.simulation.fault_runs.evidence import DeviceState, Entry, Evidence
from tests.simulation.fault_runs.plan import FAULTS_END_S, draw_plan
from tests.simulation.fault_runs.safety import Invariant
from tests.simulation.fault_runs.task import LAYOUT
from tests.simulation.fault_runs.witness import Acknowledged, HandedOver, Kept, Sent, Sighting, Told, Witness

Break = Callable[[Evidence], Evidence]

ENDED_S = 30.0
PLAN = replace(
    draw_plan(0), arrival="fedbuff", coordinators=("c1", "c2"), homes={"d1": ("c1",), "d2": ("c2",)}, spared="c1"
)
LEARNED = np.linspace(0.0, 1.0, LAYOUT.size, dtype=np.float32)
PAYLOAD = sparse.encode(SparseVector.full(LEARNED))
TIMES = [float(second) for second in range(2, int(ENDED_S))]


def update(position: int, sender: str, sequence: int, age: float | None) -> Entry:
    return Entry(position, position, "update", sender, sequence, None if age is None else 0.5, age, PAYLOAD)


def taken_back(was: Entry, **changes: object) -> Entry:
    assert was.weight is not None
    return was._replace(**({"kind": "taken_back", "weight": -was.weight} | changes))  # type: ignore[arg-type]


def in_order() -> Evidence:
    """Two regions, a device each, an update a second, one merge each; the token goes to and fro."""
    witness = Witness(lambda: 0.0, follows=False)
    witness.ages = {("c1", 1): 2.0, ("c2", 1): 2.0}
    journals: dict[str, list[Entry]] = {}
    for coordinator, device, peer in (("c1", "d1", "c2"), ("c2", "d2", "c1")):
        journals[coordinator] = [update(1, device, 1, 1.0), update(2, device, 2, 2.0)]
        journals[coordinator] += [Entry(3, 3, "merge", peer, 1, 0.25, 2.0, b"")]
        journals[coordinator] += [update(place + 1, device, place, place - 0.0) for place in range(3, len(TIMES) + 1)]
        for place, at_s in enumerate(TIMES, 1):
            version = place if place < 3 else place + 1
            age = float(place)
            witness.acknowledged.append(Acknowledged(at_s, coordinator, device, place, version))
            witness.told.append(Told(at_s, coordinator, version))
            witness.sent[device].append(Sent(coordinator, b"", b"", place, PAYLOAD))
            witness.differences[place, PAYLOAD] = LEARNED
            witness.sightings.append(
                Sighting(at_s, coordinator, 1, version, age, (1, place), coordinator == "c1", {peer: place})
            )
        witness.offered_at_s[device] = ENDED_S - 1.0
    for place, at_s in enumerate(TIMES, 1):
        sender, to = ("c1", "c2") if place % 2 else ("c2", "c1")
        hand_over = HandedOver(at_s, sender, to, (1, place), taken=False, frame=b"token")
        witness.handed_over += [hand_over, replace(hand_over, taken=True)]
    witness.kept = [Kept(at_s, "c1", "c2", place) for place, at_s in enumerate(TIMES, 1)]
    state = DeviceState(len(TIMES), {}, np.zeros(LAYOUT.size, np.float32), None)
    model = np.ones(LAYOUT.size, np.float32)
    return Evidence(
        plan=PLAN,
        witness=witness,
        journals=journals,
        devices={"d1": state, "d2": state},
        returns_unapplied=False,
        models={"c1": model, "c2": model * np.float32(1.1)},
        failures=[],
        ended_s=ENDED_S,
    )


def journal(change: Callable[[list[Entry]], list[Entry]]) -> Break:
    return lambda evidence: replace(evidence, journals={**evidence.journals, "c2": change(evidence.journals["c2"])})


def witness(change: Callable[[Witness], object]) -> Break:
    def broken(evidence: Evidence) -> Evidence:
        change(evidence.witness)
        return evidence

    return broken


def device(**changes: object) -> Break:
    def broken(evidence: Evidence) -> Evidence:
        return replace(evidence, devices={**evidence.devices, "d2": replace(evidence.devices["d2"], **changes)})  # type: ignore[arg-type]

    return broken


def last_sighting(**changes: object) -> Break:
    def change(seen: Witness) -> None:
        seen.sightings[-1] = replace(seen.sightings[-1], **changes)  # type: ignore[arg-type]

    return witness(change)


def without(times: Callable[[float], bool], device: str) -> Break:
    def change(seen: Witness) -> None:
        seen.acknowledged = [one for one in seen.acknowledged if one.device != device or not times(one.at_s)]

    return witness(change)


BREAKS: list[tuple[Invariant, Break]] = [
    (safety.acknowledged_updates_are_journalled, journal(lambda rows: rows[:-1])),
    (safety.acknowledged_updates_are_journalled, journal(lambda rows: [*rows, taken_back(rows[-1])])),
    (safety.no_update_is_applied_twice_over_the_whole_federation, journal(lambda rows: [*rows, rows[-1]])),
    (
        safety.no_update_is_applied_twice_over_the_whole_federation,
        lambda evidence: replace(evidence, journals={**evidence.journals, "c3": [update(1, "d1", 1, 1.0)]}),
    ),
    (
        safety.what_is_taken_back_was_there_and_goes_once,
        journal(lambda rows: [*rows, taken_back(rows[-1], weight=-0.4)]),
    ),
    (safety.what_is_taken_back_was_there_and_goes_once, journal(lambda rows: [*rows, *[taken_back(rows[-1])] * 2])),
    (
        safety.what_is_taken_back_was_there_and_goes_once,
        journal(lambda rows: [*rows, taken_back(rows[-1], sequence=99)]),
    ),
    (safety.no_peer_model_is_merged_twice, journal(lambda rows: [*rows, rows[2]])),
    (safety.versions_have_no_gaps, journal(lambda rows: [*rows[:4], *rows[5:]])),
    (safety.ages_follow_their_rules, journal(lambda rows: [*rows[:-1], rows[-1]._replace(age=3.0)])),
    (safety.ages_follow_their_rules, journal(lambda rows: [*rows[:2], rows[2]._replace(age=1.9), *rows[3:]])),
    (safety.memory_never_goes_back, last_sighting(version=5, age=4.0)),
    (safety.memory_never_goes_back, last_sighting(age=1.0)),
    (safety.memory_never_goes_back, witness(lambda seen: seen.told.append(Told(TIMES[-1], "c2", 99)))),
    (safety.a_vector_is_the_same_wherever_it_is, witness(lambda seen: seen.contradictions.append("model 3"))),
    (safety.what_peers_were_answered_holds, witness(lambda seen: seen.kept.append(Kept(5.0, "c2", "c1", 99)))),
    (
        safety.what_peers_were_answered_holds,
        witness(lambda seen: seen.handed_over.append(HandedOver(5.0, "c1", "c2", (1, 99), taken=True, frame=b""))),
    ),
    (
        safety.a_hand_over_is_made_once,
        witness(lambda seen: seen.handed_over.append(replace(seen.handed_over[0], frame=b"other"))),
    ),
    (safety.no_update_is_forgotten_by_its_device, device(last_sequence=len(TIMES) + 1)),
    (
        safety.a_number_is_one_update,
        witness(lambda seen: seen.sent["d2"].append(Sent("c2", b"", b"", 3, b"another"))),
    ),
    (safety.mass_is_conserved, device(residual=np.full(LAYOUT.size, 0.01, np.float32))),
    (safety.mass_is_conserved, lambda evidence: replace(evidence, returns_unapplied=True)),
    (safety.services_do_not_fail, lambda evidence: replace(evidence, failures=["c1 is down at the end"])),
    (safety.one_regions_fault_never_stops_another, without(lambda at_s: 3.0 < at_s < 8.0, "d1")),
    (safety.one_regions_fault_never_stops_another, without(lambda at_s: 5.0 < at_s <= FAULTS_END_S, "d1")),
    (liveness.every_device_contributes, without(lambda at_s: at_s > 20.0, "d2")),
    (liveness.every_device_contributes, witness(lambda seen: seen.offered_at_s.update(d2=20.0))),
    (liveness.no_update_waits_behind_its_successors, device(waiting={3: PAYLOAD})),
    (
        liveness.held_updates_are_released,
        journal(lambda rows: [*rows[:4], rows[4]._replace(version=None, weight=None, age=None), *rows[5:]]),
    ),
    (liveness.the_token_lives, witness(lambda seen: seen.handed_over.clear())),
    (
        liveness.the_token_lives,
        witness(lambda seen: seen.handed_over.append(HandedOver(29.0, "c1", "c2", (2, 1), taken=True, frame=b""))),
    ),
    (liveness.there_is_one_token, last_sighting(holds_token=True)),
    (liveness.models_are_exchanged, last_sighting(replicas={"c1": 3})),
    (
        liveness.regions_converge,
        lambda evidence: replace(evidence, models={**evidence.models, "c2": 2.0 * evidence.models["c2"]}),
    ),
    (
        liveness.regions_converge,
        lambda evidence: replace(evidence, models={**evidence.models, "c2": np.nan * evidence.models["c2"]}),
    ),
]


def test_a_world_in_order_breaks_nothing() -> None:
    evidence = in_order()
    assert [detail for one in (*safety.SAFETY, *liveness.LIVENESS) for detail in one(evidence)] == []


@pytest.mark.parametrize(("invariant", "broken"), BREAKS, ids=lambda one: getattr(one, "__name__", ""))
def test_what_breaks_is_noticed(invariant: Invariant, broken: Break) -> None:
    assert list(invariant(broken(in_order())))


def test_every_invariant_is_asked_and_tried() -> None:
    named = {
        name
        for module in (safety, liveness)
        for name, found in vars(module).items()
        if not name.startswith("_") and inspect.isfunction(found)
        if list(inspect.signature(found).parameters) == ["evidence"]
    }
    assert named == {one.__name__ for one in (*safety.SAFETY, *liveness.LIVENESS)}
    assert named == {invariant.__name__ for invariant, _ in BREAKS}


def test_what_two_regions_took_and_one_took_back_counts_once() -> None:
    evidence = in_order()
    twin = evidence.journals["c2"][-1]._replace(position=1, version=1, age=1.0)
    gone = taken_back(twin, position=2, version=2, age=0.0)
    evidence = replace(evidence, journals={**evidence.journals, "c3": [twin, gone]})
    assert [detail for one in safety.SAFETY for detail in one(evidence)] == []


def test_a_device_that_moved_before_it_was_answered_is_not_asked_for_its_mass() -> None:
    evidence = device(residual=LEARNED)(in_order())  # it was told in the other region that number 3 will not be applied
    assert list(safety.mass_is_conserved(evidence))
    evidence.witness.rejected.add(("d2", 3))
    assert not list(safety.mass_is_conserved(evidence))


def test_an_answer_that_comes_late_is_no_hand_over_of_now() -> None:
    evidence = in_order()
    old = HandedOver(5.0, "c1", "c2", (0, 9), taken=False, frame=b"token")
    evidence.witness.handed_over += [old, replace(old, at_s=29.0, taken=True)]
    assert not list(liveness.the_token_lives(evidence))
    new = replace(old, at_s=28.0, to="c1", sender="c2")
    evidence.witness.handed_over += [new, replace(new, at_s=29.0, taken=True)]
    assert list(liveness.the_token_lives(evidence))


def test_two_sights_of_a_vector_are_compared_to_the_last_bit() -> None:
    seen = Witness(lambda: 1.5, follows=False)
    seen.see(("model", "c1", "r/0", 3), LEARNED, "here")
    seen.see(("model", "c1", "r/0", 3), LEARNED.copy(), "there")
    seen.see(("model", "c1", "r/0", 4), LEARNED * 2, "there")
    assert seen.contradictions == []
    other = LEARNED.copy()
    other[3] = np.nextafter(other[3], np.float32(1.0))
    seen.see(("model", "c1", "r/0", 3), other, "there")
    (told,) = seen.contradictions
    assert "model 3 of c1 (r/0) is one thing here and another there, at 1.500 s" in told


def test_a_model_that_follows_is_another_after_each_start_of_its_coordinator() -> None:
    seen = Witness(lambda: 1.5, follows=True)
    for start in (1, 2):
        seen.sightings.append(Sighting(1.0, "c1", start, 3, 3.0, (0, 0), holds_token=False, replicas={}))
        seen.see(seen.offered_by("c1", "r/0", 3), LEARNED * start, f"after start {start}")
    assert seen.contradictions == []
    seen.see(seen.offered_by("c1", "r/0", 3), LEARNED, "on d1")
    assert "offered 3 of c1 since its start 2 (r/0)" in seen.contradictions[0]
    assert Witness(lambda: 1.5, follows=False).offered_by("c1", "r/0", 3) == ("model", "c1", "r/0", 3)
