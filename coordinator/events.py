"""What happens to a region, and what is to be done about it: the two vocabularies between core and shells.

The network shell submits events to the engine; the region core answers each with effects, in order; the engine
performs them. Plain values, no behaviour.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from coordinator.downlink import OfferedState
from coordinator.given_up import GivenUp
from skerry.algorithms.barrier import BarrierState
from skerry.algorithms.conduct import Conduct
from skerry.algorithms.federation import MergedEntries
from skerry.algorithms.gain import GainState
from skerry.algorithms.peer_guard import Measured, PeerDistances
from skerry.algorithms.rounds import RoundState
from skerry.algorithms.token import TokenState
from skerry.protocol.ledger_lines import LedgerLine
from skerry.protocol.messages import (
    BroadcastId,
    Hello,
    ModelVersion,
    PartialUpdate,
    PeerLedger,
    PeerModel,
    PeerModelNeeded,
    PeerModelTaken,
    PeerStatus,
    Telemetry,
    TokenPassed,
    TokenTaken,
    UpdateAccepted,
    UpdateOffered,
    UpdateRejected,
    Welcome,
)
from skerry.vector import SparseVector

RuleState = RoundState | BarrierState | GainState | OfferedState | PeerDistances | GivenUp  # what must not be forgotten
Answer = PeerModelTaken | PeerModelNeeded | TokenTaken | PeerLedger | bool  # to a peer's request, or an operator's
RejectReason = Literal["malformed", "not_finite", "wrong_size", "too_large", "outlier", "quarantined"]


# --- events ---
# Structs, not dataclasses: to make one costs a quarter.


class Malformed(msgspec.Struct, frozen=True):
    """Why a payload is no update of this model."""

    reason: RejectReason
    detail: str


class UpdateArrived(msgspec.Struct, frozen=True):
    """All parts of an update are here."""

    device: str
    offered: UpdateOffered  # its part is not looked at
    payload: bytes  # the encoded sparse vector, as received; goes to the journal
    vector: SparseVector | Malformed  # what it decodes to
    frame_bytes: int  # of all the frames that brought it


class DeviceConnected(msgspec.Struct, frozen=True):
    """A device said Hello. One that is connected already must be reported as disconnected first."""

    device: str
    hello: Hello
    partial: PartialUpdate | None  # an update of which some parts have arrived on an earlier connection


class DeviceDisconnected(msgspec.Struct, frozen=True):
    """The stream of a device has ended, whatever the reason."""

    device: str


class OfferDone(msgspec.Struct, frozen=True):
    """Every part of an offered model has been written to the device's stream."""

    device: str
    version: ModelVersion


class TelemetryArrived(msgspec.Struct, frozen=True):
    """A device reported how it is doing."""

    device: str
    telemetry: Telemetry


class PeerModelArrived(msgspec.Struct, frozen=True):
    """A peer published its model. Answered with PeerModelTaken or PeerModelNeeded."""

    message: PeerModel
    values: SparseVector
    key: int = 0  # which request to answer; `Engine.ask` fills it in
    measured: Measured | None = None  # how it lies to the own model, which the engine fills in; None: nobody can say


class TokenArrived(msgspec.Struct, frozen=True):
    """A peer handed the token on. Answered with TokenTaken."""

    message: TokenPassed
    key: int = 0


class PeerSeen(msgspec.Struct, frozen=True):
    """A peer answered a status request, or asked for ours."""

    status: PeerStatus


class PublicationNeeded(msgspec.Struct, frozen=True):
    """A peer answered a publication with PeerModelNeeded: it does not hold the one before."""

    peer: str


class PeerLedgerArrived(msgspec.Struct, frozen=True):
    """A peer told which updates it has on its disk."""

    peer: str
    lines: Sequence[LedgerLine]


class LedgerAsked(msgspec.Struct, frozen=True):
    """A peer asks which updates are on the disk here, or were on its own, which it lost. Answered with PeerLedger."""

    after: str  # the place that it has come to
    key: int = 0
    of: str | None = None  # the peer that asks for what is known of itself; None: the updates here are meant


class UpdateFound(msgspec.Struct, frozen=True):
    """What FindUpdate asked for; `vector` None: the journal has it not, or it cannot be taken back."""

    device: str
    sequence: int
    version: int | None = None  # None: the arrival rule holds it
    weight: float | None = None
    payload: bytes = b""
    vector: SparseVector | None = None


class Evaluated(msgspec.Struct, frozen=True):
    """A model was evaluated on held-out data."""

    version: int
    age: float
    kind: Literal["regional", "federated"]
    examples: int
    correct: int | None  # None: predictions are neither right nor wrong
    loss: float  # mean per example


class TrafficCounted(msgspec.Struct, frozen=True):
    """Bytes exchanged with a device or a peer since the last report."""

    party: Literal["device", "peer"]
    name: str
    sent_bytes: int  # by this coordinator
    received_bytes: int


class DeviceReleased(msgspec.Struct, frozen=True):
    """An operator lets a device out of quarantine. Answered with whether it was there."""

    device: str
    key: int = 0


class PeerAdmitted(msgspec.Struct, frozen=True):
    """An operator lets a peer's models count again. Answered with whether they did not."""

    peer: str
    key: int = 0


class Tick(msgspec.Struct, frozen=True):
    """Time has passed."""


Event = (
    DeviceConnected
    | DeviceDisconnected
    | OfferDone
    | UpdateArrived
    | TelemetryArrived
    | PeerModelArrived
    | TokenArrived
    | PeerSeen
    | PublicationNeeded
    | PeerLedgerArrived
    | LedgerAsked
    | UpdateFound
    | Evaluated
    | TrafficCounted
    | DeviceReleased
    | PeerAdmitted
    | Tick
)


# --- effects: what goes to disk ---
# All of a group's are written in one transaction before any other effect of the group is performed.


class Buffer(msgspec.Struct, frozen=True):
    """Updates that change the model together, as their robust mean: those with the versions up to `version`."""

    version: int  # of the model that holds them; those before it are the same model
    trim: float  # share of the devices left out at either end


class JournalUpdate(msgspec.Struct, frozen=True):
    """Append an update. `version`, `weight` and `age` are None while the arrival rule holds it.

    `buffer`: it counts only together with others.
    """

    position: int
    arrived: UpdateArrived
    base_number: int
    staleness: float
    version: int | None
    weight: float | None
    age: float | None
    buffer: Buffer | None = None
    factor: float = 1.0  # of the guard; it is in `weight` already, where that is known
    abroad: bool = False  # its base is of another region


class ReleaseUpdate(msgspec.Struct, frozen=True):
    """Write down how an update that was held is applied after all."""

    position: int
    device: str
    version: int
    weight: float
    age: float
    buffer: Buffer | None = None


class DropHeld(msgspec.Struct, frozen=True):
    """Forget an update that is held: another region has taken it."""

    position: int
    device: str


class JournalTakenBack(msgspec.Struct, frozen=True):
    """Append that an update, which another region has taken too, is taken out of the model; `weight` is negative."""

    position: int
    version: int
    found: UpdateFound
    weight: float
    age: float


class SaveLedger(msgspec.Struct, frozen=True):
    """Write down the line of a device of which nothing is journalled."""

    device: str


class JournalPeerModel(msgspec.Struct, frozen=True):
    """Append what a peer published."""

    position: int
    arrived: PeerModelArrived


class JournalMerge(msgspec.Struct, frozen=True):
    """Append the merge of a peer's replica into the model."""

    position: int
    version: int
    peer: str
    publication: int  # which one of the peer the replica is
    weight: float
    age: float
    entries: MergedEntries


class Publish(msgspec.Struct, frozen=True):
    """Take the model at this point of the effects as publication `number`; append the difference to the last one."""

    position: int
    number: int
    broadcast: BroadcastId
    age: float


class SaveToken(msgspec.Struct, frozen=True):
    """Remember the federation's token state; the last one of a group counts."""

    state: TokenState


class SaveRuleState(msgspec.Struct, frozen=True):
    """Remember the state of a rule; the last one of a group counts for each type."""

    state: RuleState


class SaveTelemetry(msgspec.Struct, frozen=True):
    """Remember the latest telemetry of a device."""

    device: str
    telemetry: Telemetry


class SaveConduct(msgspec.Struct, frozen=True):
    """Remember how a device's updates look; the last one of a group counts for each."""

    conduct: Conduct


class SaveEvaluation(msgspec.Struct, frozen=True):
    """Append an evaluation."""

    evaluated: Evaluated


class SaveTraffic(msgspec.Struct, frozen=True):
    """Add to the bytes exchanged with a party."""

    counted: TrafficCounted


# --- effects: what changes the vectors ---


class Apply(msgspec.Struct, frozen=True):
    """Add the update at `position` of the journal to the model; this makes `version`.

    `whole`: it is a model; move the region's towards it.
    """

    position: int
    version: int
    weight: float
    age: float
    whole: bool = False


class ApplyBuffer(msgspec.Struct, frozen=True):
    """Add the robust mean of updates to the model; this makes `version`.

    `members`: (position in the journal, device, weight) of each.
    """

    members: tuple[tuple[int, str, float], ...]
    trim: float
    version: int
    age: float


class TakePeerModel(msgspec.Struct, frozen=True):
    """Bring the replica of a peer to what it published."""

    arrived: PeerModelArrived


class Merge(msgspec.Struct, frozen=True):
    """Move `entries` of the model towards the replica of `peer`; this makes `version`."""

    version: int
    peer: str
    weight: float
    age: float
    entries: MergedEntries


class FollowModel(msgspec.Struct, frozen=True):
    """Bring the offered model nearer to the region's."""


class FindUpdate(msgspec.Struct, frozen=True):
    """Look an update up in the journal; answered with UpdateFound."""

    device: str
    sequence: int


# --- effects: what leaves ---


class SendToDevice(msgspec.Struct, frozen=True):
    """Send a message to a device, if it is connected."""

    device: str
    message: Welcome | UpdateAccepted | UpdateRejected


class OfferModel(msgspec.Struct, frozen=True):
    """Send a device the offered model: what changed since version `base`, or all of it where that is None."""

    device: str
    base: int | None


class SendPublication(msgspec.Struct, frozen=True):
    """Send the newest publication to `peers`; `whole`: not as a difference to the one before."""

    peers: tuple[str, ...]
    whole: bool


class SendToken(msgspec.Struct, frozen=True):
    """Hand the token to a peer."""

    to: str
    message: TokenPassed


class Reply(msgspec.Struct, frozen=True):
    """Answer a peer's or an operator's request."""

    key: int
    message: Answer


class Alarm(msgspec.Struct, frozen=True):
    """Tell operators of a device."""

    device: str
    detail: str


class PeerAlarm(msgspec.Struct, frozen=True):
    """Tell operators of a peer."""

    peer: str
    detail: str


Durable = (
    JournalUpdate
    | ReleaseUpdate
    | DropHeld
    | JournalTakenBack
    | SaveLedger
    | JournalPeerModel
    | JournalMerge
    | Publish
    | SaveToken
    | SaveRuleState
    | SaveTelemetry
    | SaveConduct
    | SaveEvaluation
    | SaveTraffic
)
Change = Apply | ApplyBuffer | TakePeerModel | Merge | FollowModel | FindUpdate
Outgoing = SendToDevice | OfferModel | SendPublication | SendToken | Reply | Alarm | PeerAlarm
Effect = Durable | Change | Outgoing
