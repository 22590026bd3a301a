"""What a group publishes, found out before the group is written. Arithmetic only, no I/O.

A publication is the model at its place among the effects, and must be on disk with them; but the model itself changes
only behind the commit, so that nobody sees what may still be lost. So the group's changes are made to a copy first.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from coordinator.events import Apply, ApplyBuffer, Merge, PeerModelArrived, Publish, TakePeerModel
from coordinator.group import Group
from coordinator.model_state import ModelState, Publication, Replica, buffered
from coordinator.store import PublicationRow
from skerry.protocol import sparse
from skerry.protocol.messages import PeerModel
from skerry.vector import SparseVector


@dataclass(frozen=True, slots=True)
class Prepared:
    """A publication that is about to be written."""

    publication: Publication
    payload: bytes
    values: SparseVector  # what the payload decodes to


def publication_of(message: PeerModel) -> Publication:
    """Return what a peer's message says of its publication."""
    whole = message.base is None
    return Publication(message.lineage, message.publication, message.broadcast, message.age, whole=whole)


def measured(event: PeerModelArrived, state: ModelState) -> PeerModelArrived:
    """Return a peer's model as the region is told of it: with it goes how it will lie to the own one."""
    message = event.message
    return replace(event, measured=state.measure(message.coordinator, publication_of(message), event.values))


def message_of(coordinator: str, published: Replica, prepared: Prepared | None) -> PeerModel:
    """Return what peers are sent of the newest publication; `prepared`: as what it adds; None: whole."""
    if prepared is None:
        base, payload = None, published.whole()
    else:
        base, payload = None if prepared.publication.whole else published.number - 1, prepared.payload
    return PeerModel(
        coordinator=coordinator,
        lineage=published.lineage,
        broadcast=published.broadcast,
        age=published.age,
        publication=published.number,
        base=base,
        values=payload,
    )


def prepare(
    group: Group,
    ahead: ModelState,
    vectors: Mapping[int, SparseVector],
    difference: Callable[[ModelState], bytes],
    lineage: str,
) -> list[Prepared]:
    """Return the publications of a group, in order.

    Args:
        group: whose effects are looked at.
        ahead: a copy of the vectors as they are before the group; changed.
        vectors: by position: the updates that the group may apply.
        difference: encodes what the next publication adds, as the recipe wants it.
        lineage: of this region.
    """
    prepared = []
    for effect in group.effects:
        match effect:
            case Apply(position, version, weight, age, whole):
                ahead.apply(vectors[position], weight, version, age, whole=whole)
            case ApplyBuffer(members, trim, version, age):
                ahead.apply_buffer(buffered(members, vectors.__getitem__), trim, version, age)
            case TakePeerModel(arrived):
                ahead.take_peer_model(arrived.message.coordinator, publication_of(arrived.message), arrived.values)
            case Merge(version, peer, weight, age, entries):
                ahead.merge(peer, weight, version, age, entries)
            case Publish(_, number, broadcast, age):
                whole = ahead.published is None
                payload = difference(ahead)
                one = Prepared(
                    Publication(lineage, number, broadcast, age, whole),
                    payload,
                    sparse.decode(payload, size=ahead.size),
                )
                ahead.publish(one.publication, one.values)
                prepared.append(one)
            case _:
                pass  # changes no vector
    return prepared


def rows(group: Group, prepared: list[Prepared], coordinator: str, at_s: float) -> list[PublicationRow]:
    """Return what is to be written of the publications of a group."""
    publishes = [effect for effect in group.effects if isinstance(effect, Publish)]
    return [
        PublicationRow(
            position=effect.position,
            coordinator=coordinator,
            lineage=one.publication.lineage,
            number=one.publication.number,
            whole=int(one.publication.whole),
            epoch=one.publication.broadcast.epoch,
            broadcast=one.publication.broadcast.number,
            age=one.publication.age,
            payload=one.payload,
            received_at_s=at_s,
        )
        for effect, one in zip(publishes, prepared, strict=True)
    ]
