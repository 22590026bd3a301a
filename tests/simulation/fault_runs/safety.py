"""What must hold at every moment, whatever fails. Pure: each function yields what is wrong, nothing if all is well.

Ages may fall, by Spyker's own rule: a merge with a younger model takes a mean of both ages. What must not happen is
that a version has another age than this rule gives it, or than it had before.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from math import isclose

import numpy as np

from skerry.protocol import sparse
from tests.simulation.fault_runs.evidence import Entry, Evidence
from tests.simulation.fault_runs.plan import FAULTS_BEGIN_S, FAULTS_END_S
from tests.simulation.fault_runs.task import LAYOUT
from tests.simulation.fault_runs.witness import Id, Sighting

MASS_ERROR_MAX = 1e-3  # of an entry: rounding in float32, over a few hundred sums of numbers below ten
SPARED_GAP_S = 4.0  # between two acknowledgements to a device without trouble; its cycles take up to one second

Invariant = Callable[[Evidence], Iterator[str]]


def acknowledged_updates_are_journalled(evidence: Evidence) -> Iterator[str]:
    """No acknowledged update is lost: it counts in the region that acknowledged it, or in one that it was moved to."""
    counting = _counting(evidence)
    for one in evidence.witness.acknowledged:
        if (one.device, one.sequence) not in counting:
            yield (
                f"{one.coordinator} acknowledged update {one.sequence} of {one.device} at {one.at_s:.3f} s and "
                "it is in no journal, or taken back in each"
            )


def no_update_is_applied_twice_over_the_whole_federation(evidence: Evidence) -> Iterator[str]:
    """Not in one region, and not in two, when all have heard of one another.

    So no coordinator may have stopped while a device could still go to another one, nor right behind that; see `run`.
    """
    for (device, sequence), entries in _counting(evidence).items():
        if len(entries) > 1:
            yield f"update {sequence} of {device} counts in journals {len(entries)} times"


def what_is_taken_back_was_there_and_goes_once(evidence: Evidence) -> Iterator[str]:
    """With the payload and the weight that it was applied with."""
    for name, journal in evidence.journals.items():
        applied = {(one.sender, one.sequence): one for one in journal if _is_update(one)}
        gone = [one for one in journal if one.kind == "taken_back"]
        for key, times in Counter((one.sender, one.sequence) for one in gone).items():
            if times > 1:
                yield f"{name} took update {key[1]} of {key[0]} back {times} times"
        for one in gone:
            was = applied.get((one.sender, one.sequence))
            if was is None or one.weight is None or (was.payload, was.weight) != (one.payload, -one.weight):
                yield f"{name} took update {one.sequence} of {one.sender} back, which it did not have like that"


def no_peer_model_is_merged_twice(evidence: Evidence) -> Iterator[str]:
    """A publication counts once."""
    for name, journal in evidence.journals.items():
        merges = Counter((entry.sender, entry.sequence) for entry in journal if entry.kind == "merge")
        for (peer, publication), times in merges.items():
            if times > 1:
                yield f"{name} merged publication {publication} of {peer} {times} times"


def versions_have_no_gaps(evidence: Evidence) -> Iterator[str]:
    """They count the changes of the model."""
    for name, journal in evidence.journals.items():
        versions = [entry.version for entry in journal if entry.version is not None]
        if versions != list(range(1, len(versions) + 1)):
            yield f"{name} has {len(versions)} changes in its journal, whose versions are not 1 to {len(versions)}"


def ages_follow_their_rules(evidence: Evidence) -> Iterator[str]:
    """An update adds one, taking it back takes one away; a merge takes the mean, by the weight, of both ages."""
    for name, journal in evidence.journals.items():
        before = 0.0
        for entry in journal:
            if entry.version is None or entry.age is None or entry.weight is None:
                continue
            expected = before + 1.0
            if entry.kind == "merge":
                peer_age = evidence.witness.ages[entry.sender, entry.sequence]
                expected = (1.0 - entry.weight) * before + entry.weight * peer_age
            elif entry.kind == "taken_back":
                expected = max(0.0, before - 1.0)
            if not isclose(entry.age, expected, rel_tol=1e-9, abs_tol=1e-9):
                yield f"{name}: version {entry.version} ({entry.kind}) has age {entry.age}, not {expected}"
            before = entry.age


def memory_never_goes_back(evidence: Evidence) -> Iterator[str]:
    """A version that was in memory, or that anybody was told of, is never taken back; nor is its age another later."""
    ages = {
        name: {0: 0.0}
        | {entry.version: entry.age for entry in journal if entry.version is not None and entry.age is not None}
        for name, journal in evidence.journals.items()
    }
    for name, sightings in _by_coordinator(evidence).items():
        told = iter([one for one in evidence.witness.told if one.coordinator == name])
        next_told, newest = next(told, None), 0
        for one in sightings:
            while next_told is not None and next_told.at_s <= one.at_s:
                newest, next_told = max(newest, next_told.version), next(told, None)
            if one.version < newest:
                yield f"{name} is at version {one.version} at {one.at_s:.3f} s, and was at {newest} before"
            newest = max(newest, one.version)
            if one.age != ages[name].get(one.version):
                yield (
                    f"{name} has age {one.age} at version {one.version} at {one.at_s:.3f} s, in its journal "
                    f"{ages[name].get(one.version)}"
                )


def a_vector_is_the_same_wherever_it_is(evidence: Evidence) -> Iterator[str]:
    """Memory, replay, devices and peers agree on each version and each publication, to the last bit."""
    yield from evidence.witness.contradictions


def what_peers_were_answered_holds(evidence: Evidence) -> Iterator[str]:
    """A publication that was taken stays, and whoever took the token goes on knowing it."""
    sightings = _by_coordinator(evidence)
    for kept in evidence.witness.kept:
        for one in sightings.get(kept.coordinator, ()):
            if kept.peer in evidence.plan.coordinators and one.at_s >= kept.at_s:
                held = one.replicas.get(kept.peer, 0)
                if held < kept.publication:
                    yield (
                        f"{kept.coordinator} took publication {kept.publication} of {kept.peer} at {kept.at_s:.3f} s "
                        f"and holds {held} at {one.at_s:.3f} s"
                    )
                break
    for handed in evidence.witness.handed_over:
        for one in sightings.get(handed.to, ()):
            if handed.taken and one.at_s >= handed.at_s:
                if one.known < handed.id:
                    yield (
                        f"{handed.to} took token {handed.id} at {handed.at_s:.3f} s and knows of none above "
                        f"{one.known} at {one.at_s:.3f} s"
                    )
                break


def a_hand_over_is_made_once(evidence: Evidence) -> Iterator[str]:
    """No two tokens have the same number: a coordinator repeats itself to the letter, or gives the next number."""
    made: defaultdict[Id, set[bytes]] = defaultdict(set)
    for one in evidence.witness.handed_over:
        if one.sender in evidence.plan.coordinators and not one.taken:
            made[one.id].add(one.frame)
    for id_, frames in made.items():
        if len(frames) > 1:
            yield f"{len(frames)} different tokens of number {id_} were handed over"


def no_update_is_forgotten_by_its_device(evidence: Evidence) -> Iterator[str]:
    """Every number is in a journal, was rejected, or still waits."""
    journalled = _counting(evidence)
    for device, state in evidence.devices.items():
        for sequence in range(1, state.last_sequence + 1):
            key = device, sequence
            if key not in journalled and key not in evidence.witness.rejected and sequence not in state.waiting:
                yield f"update {sequence} of {device} was neither taken nor rejected, and does not wait either"


def a_number_is_one_update(evidence: Evidence) -> Iterator[str]:
    """A device never gives a number twice."""
    for device, sent in evidence.witness.sent.items():
        payloads: defaultdict[int, set[bytes]] = defaultdict(set)
        for update in sent:
            payloads[update.sequence].add(update.payload)
        for sequence, different in payloads.items():
            if len(different) > 1:
                yield f"{device} sent {len(different)} different updates of number {sequence}"


def mass_is_conserved(evidence: Evidence) -> Iterator[str]:
    """What a device has learned is applied, waits, or is in its residual: entry by entry, nothing lost, nothing twice.

    A device that was rejected where it moved to keeps what the region that it left has applied: not promised, and so
    not looked at.
    """
    applied = {key: entries[0] for key, entries in _counting(evidence).items()}
    for device, state in evidence.devices.items():
        sequences = range(1, state.last_sequence + 1)
        taken_twice = [one for one in sequences if {(device, one)} <= applied.keys() & evidence.witness.rejected]
        if state.residual is None or taken_twice:
            continue
        learned, found = np.zeros_like(state.residual, np.float64), state.residual.astype(np.float64)
        sent = {update.sequence: update.payload for update in evidence.witness.sent[device]}
        for sequence in sequences:
            entry = applied.get((device, sequence))
            payload = state.waiting.get(sequence) or (entry.payload if entry is not None else sent.get(sequence))
            difference = None if payload is None else evidence.witness.differences.get((sequence, payload))
            if payload is None or difference is None:
                yield f"nobody knows what update {sequence} of {device} was taken from"
                break
            learned += difference
            if sequence in state.waiting:
                found += sparse.decode(payload, size=LAYOUT.size).dense()
            elif entry is not None:
                weight = entry.weight if evidence.returns_unapplied and entry.weight is not None else 1.0
                found += min(weight, 1.0) * sparse.decode(payload, size=LAYOUT.size).dense().astype(np.float64)
        else:
            error = float(np.abs(learned - found).max())
            if error > MASS_ERROR_MAX:
                yield (
                    f"{device} has learned {np.abs(learned).sum():.4f} in all, and {np.abs(found).sum():.4f} is found: "
                    f"an entry differs by {error:.4f}"
                )


def services_do_not_fail(evidence: Evidence) -> Iterator[str]:
    """Nothing ends a service but what the plan says, and nobody's error goes uncaught."""
    yield from evidence.failures


def one_regions_fault_never_stops_another(evidence: Evidence) -> Iterator[str]:
    """Devices of a region that has no trouble of its own are answered all the time."""
    plan = evidence.plan
    for device in [name for name, homes in plan.homes.items() if homes == (plan.spared,)]:
        times = [one.at_s for one in evidence.witness.acknowledged if one.device == device and one.at_s <= FAULTS_END_S]
        for before_s, after_s in zip([FAULTS_BEGIN_S, *times], [*times, FAULTS_END_S], strict=True):
            if after_s - before_s > SPARED_GAP_S:
                yield (f"{device} was not answered from {before_s:.3f} to {after_s:.3f} s, and only others had faults")


SAFETY: tuple[Invariant, ...] = (
    acknowledged_updates_are_journalled,
    no_update_is_applied_twice_over_the_whole_federation,
    what_is_taken_back_was_there_and_goes_once,
    no_peer_model_is_merged_twice,
    versions_have_no_gaps,
    ages_follow_their_rules,
    memory_never_goes_back,
    a_vector_is_the_same_wherever_it_is,
    what_peers_were_answered_holds,
    a_hand_over_is_made_once,
    no_update_is_forgotten_by_its_device,
    a_number_is_one_update,
    mass_is_conserved,
    services_do_not_fail,
    one_regions_fault_never_stops_another,
)


def _is_update(entry: Entry) -> bool:
    return entry.kind in {"update", "model"}


def _counting(evidence: Evidence) -> dict[tuple[str, int], list[Entry]]:
    """Return by device and sequence the entries of all journals that were not taken back."""
    found: defaultdict[tuple[str, int], list[Entry]] = defaultdict(list)
    for journal in evidence.journals.values():
        gone = {(entry.sender, entry.sequence) for entry in journal if entry.kind == "taken_back"}
        for entry in journal:
            if _is_update(entry) and (entry.sender, entry.sequence) not in gone:
                found[entry.sender, entry.sequence].append(entry)
    return found


def _by_coordinator(evidence: Evidence) -> dict[str, list[Sighting]]:
    found: dict[str, list[Sighting]] = {}
    for one in evidence.witness.sightings:
        found.setdefault(one.coordinator, []).append(one)
    return found
