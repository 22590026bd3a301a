"""Letting updates into the model: the version, weight and age of each, and the effects that follow. Pure."""

from collections.abc import Sequence

from msgspec.structs import replace

from coordinator.events import Apply, ApplyBuffer, Buffer, Effect, JournalUpdate, ReleaseUpdate
from coordinator.ledger import RecentUpdate
from coordinator.region_state import HeldUpdate, RegionState
from skerry.protocol.limits import AGE_MAX


def older(age: float) -> float:
    """Return the age that one more update makes. A peer may have told an age close to what a message can say."""
    return min(age + 1.0, AGE_MAX)


def release(
    state: RegionState,
    updates: Sequence[HeldUpdate],
    weights: Sequence[float],
    trim: float | None,
    newest: JournalUpdate | None = None,
) -> list[Effect]:
    """Give every one of `updates` its version; return what goes to disk, then what changes the model.

    Args:
        state: ages and ledger are brought up to date.
        updates: in the order of their arrival, at least one.
        weights: one for each.
        trim: of the robust mean that they count in; None: each counts for itself.
        newest: how to journal the last of them, which is not on disk yet; None: all are.
    """
    ages, ledger = state.ages, state.ledger
    buffer = None if trim is None else Buffer(ages.last + len(updates), trim)
    durable: list[Effect] = []
    changes: list[Effect] = []
    for held, weight in zip(updates, weights, strict=True):
        device, sequence, age = held.arrival.device, held.arrival.sequence, older(ages.age)
        version = ages.append(age)
        if newest is not None and held.position == newest.position:
            moves = newest.arrived.offered.moves
            ledger.take(device, RecentUpdate(sequence, version, weight, moves, publication=state.publication + 1))
            durable.append(replace(newest, version=version, weight=weight, age=age, buffer=buffer))
        else:
            ledger.change(device, sequence, version=version, weight=weight, publication=state.publication + 1)
            durable.append(ReleaseUpdate(held.position, device, version, weight, age, buffer))
        if buffer is None:
            changes.append(Apply(held.position, version, weight, age, held.whole))
    if buffer is not None:
        members = tuple((held.position, held.arrival.device, w) for held, w in zip(updates, weights, strict=True))
        changes.append(ApplyBuffer(members, buffer.trim, ages.last, ages.age))
    return [*durable, *changes]
