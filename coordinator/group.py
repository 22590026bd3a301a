"""The effects of a group of events, and the one transaction that they need. Pure."""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from coordinator.events import (
    Buffer,
    DropHeld,
    Effect,
    JournalMerge,
    JournalPeerModel,
    JournalTakenBack,
    JournalUpdate,
    Publish,
    ReleaseUpdate,
    SaveConduct,
    SaveEvaluation,
    SaveLedger,
    SaveRuleState,
    SaveTelemetry,
    SaveToken,
    SaveTraffic,
)
from coordinator.ledger import LedgerEntry
from coordinator.store import Batch, EvaluationRow, JournalRow, PublicationRow, ReleaseRow, TrafficRow
from skerry.vector import SparseVector


class Group(msgspec.Struct):
    """Effects that become durable together."""

    effects: Sequence[Effect]
    batch: Batch = msgspec.field(default_factory=Batch)
    vectors: dict[int, SparseVector] = {}  # by position: the updates that arrived
    publishes: bool = False  # a publication is among the effects; its row is made when the model is known


def collect(effects: Sequence[Effect], ledger: Callable[[Iterable[str]], list[LedgerEntry]], at_s: float) -> Group:
    """Return the group of `effects`.

    Args:
        effects: of all events of the group, in order.
        ledger: gives the lines of devices, as they are behind the last of the effects.
        at_s: wall clock, seconds since 1970.
    """
    group = Group(effects)
    batch, devices = group.batch, set()
    for effect in effects:
        match effect:
            case JournalUpdate():
                batch.journal.append(_update_row(effect, at_s))
                vector = effect.arrived.vector
                assert isinstance(vector, SparseVector)
                group.vectors[effect.position] = vector
                devices.add(effect.arrived.device)
            case ReleaseUpdate(position, device, version, weight, age, buffer):
                batch.releases.append(ReleaseRow(version, weight, age, *_buffer(buffer), position))
                devices.add(device)
            case DropHeld(position, device):
                batch.dropped.append(position)
                devices.add(device)
            case JournalTakenBack(position, _, found):
                batch.journal.append(_taken_back_row(effect, at_s))
                assert found.vector is not None
                group.vectors[position] = found.vector
                devices.add(found.device)
            case SaveLedger(device):
                devices.add(device)
            case JournalMerge():
                batch.journal.append(_merge_row(effect, at_s))
            case JournalPeerModel():
                batch.publications.append(_peer_model_row(effect, at_s))
            case Publish():
                group.publishes = True
            case SaveToken(state):
                batch.token = state
            case SaveRuleState(rule_state):
                batch.rules[type(rule_state)] = rule_state
            case SaveConduct(conduct):
                batch.conducts[conduct.device] = conduct
            case SaveTelemetry(device, telemetry):
                batch.telemetry[device] = at_s, telemetry
            case SaveEvaluation(evaluated):
                batch.evaluations.append(
                    EvaluationRow(
                        at_s,
                        evaluated.version,
                        evaluated.age,
                        evaluated.kind,
                        evaluated.examples,
                        evaluated.correct,
                        evaluated.loss,
                    )
                )
            case SaveTraffic(counted):
                batch.traffic.append(
                    TrafficRow(counted.party, counted.name, counted.sent_bytes, counted.received_bytes)
                )
            case _:
                pass  # nothing of it goes to disk
    batch.ledger = ledger(sorted(devices))
    return group


def _update_row(effect: JournalUpdate, at_s: float) -> JournalRow:
    offered = effect.arrived.offered
    return JournalRow(
        effect.position,
        effect.version,
        "model" if offered.whole else "update",
        effect.arrived.device,
        offered.sequence,
        effect.base_number,
        effect.weight,
        effect.age,
        offered.steps,
        offered.examples,
        offered.loss,
        offered.seconds_per_step,
        effect.staleness,
        effect.arrived.frame_bytes,
        at_s,
        effect.arrived.payload,
        "all",
        *_buffer(effect.buffer),
        effect.factor,
        offered.base.lineage if effect.abroad else "",
    )


def _taken_back_row(effect: JournalTakenBack, at_s: float) -> JournalRow:
    return JournalRow(
        position=effect.position,
        version=effect.version,
        kind="taken_back",
        sender=effect.found.device,
        sequence=effect.found.sequence,
        base_number=effect.version - 1,
        weight=effect.weight,
        age=effect.age,
        steps=0,
        examples=0,
        loss=0.0,
        seconds_per_step=0.0,
        staleness=0.0,
        frame_bytes=0,
        received_at_s=at_s,
        payload=effect.found.payload,
    )


def _buffer(buffer: Buffer | None) -> tuple[int | None, float | None]:
    return (None, None) if buffer is None else (buffer.version, buffer.trim)


def _merge_row(effect: JournalMerge, at_s: float) -> JournalRow:
    return JournalRow(
        position=effect.position,
        version=effect.version,
        kind="merge",
        sender=effect.peer,
        sequence=effect.publication,
        base_number=effect.version - 1,
        weight=effect.weight,
        age=effect.age,
        steps=0,
        examples=0,
        loss=0.0,
        seconds_per_step=0.0,
        staleness=0.0,
        frame_bytes=0,
        received_at_s=at_s,
        payload=b"",
        entries=effect.entries,
    )


def _peer_model_row(effect: JournalPeerModel, at_s: float) -> PublicationRow:
    message = effect.arrived.message
    return PublicationRow(
        position=effect.position,
        coordinator=message.coordinator,
        lineage=message.lineage,
        number=message.publication,
        whole=int(message.base is None),
        epoch=message.broadcast.epoch,
        broadcast=message.broadcast.number,
        age=message.age,
        payload=message.values,
        received_at_s=at_s,
    )
