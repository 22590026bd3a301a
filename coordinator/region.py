"""What a region decides: which update counts how much, who is offered the model, when the federation moves.

A state machine without I/O, over scalars only: it takes an event and `now_s`, and returns effects, in order. It moves
on when it decides; the engine makes sure that nothing leaves before what stands ahead of it is on disk.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal

import msgspec

from coordinator.age_history import AgeHistory
from coordinator.downlink import Downlink
from coordinator.events import (
    Apply,
    DeviceConnected,
    DeviceDisconnected,
    Effect,
    Evaluated,
    Event,
    JournalMerge,
    JournalPeerModel,
    JournalUpdate,
    Malformed,
    Merge,
    OfferDone,
    OfferModel,
    PeerModelArrived,
    PeerSeen,
    PublicationNeeded,
    Publish,
    ReleaseUpdate,
    Reply,
    SaveEvaluation,
    SaveTelemetry,
    SaveToken,
    SaveTraffic,
    SendPublication,
    SendToDevice,
    SendToken,
    TakePeerModel,
    TelemetryArrived,
    Tick,
    TokenArrived,
    TrafficCounted,
    UpdateArrived,
)
from coordinator.ledger import Ledger, LedgerEntry
from coordinator.planner import Planner
from skerry.algorithms import token as ring
from skerry.algorithms.arrival import Arrival
from skerry.protocol.limits import AGE_MAX, PROTOCOL_MAJOR, PROTOCOL_MINOR
from skerry.protocol.messages import (
    BroadcastId,
    BundleReference,
    ModelVersion,
    PeerModelNeeded,
    PeerModelTaken,
    Plan,
    TokenPassed,
    TokenTaken,
    UpdateAccepted,
    UpdateOffered,
    UpdateRejected,
    Welcome,
)
from skerry.recipe import Recipe


@dataclass(frozen=True, slots=True)
class RegionSettings:
    """What a region is told once, when it starts."""

    name: str  # of the coordinator
    region: str
    peers: tuple[str, ...]
    recipe: Recipe
    bundle: BundleReference
    part_bytes_max: int


@dataclass(frozen=True, slots=True)
class HeldUpdate:
    """An update that stands in the journal and waits for the arrival rule."""

    position: int
    arrival: Arrival


@dataclass(slots=True)
class PeerHeld:
    """Which publication of a peer the replica is."""

    lineage: str
    publication: int


@dataclass(slots=True)
class RegionState:
    """What survives a restart: the scalars of everything that is on disk."""

    lineage: str
    ages: AgeHistory  # its last entry is the model's version and age
    position: int = 0  # newest of the journal
    publication: int = 0  # newest of this coordinator
    ledger: Ledger = field(default_factory=Ledger)
    held: list[HeldUpdate] = field(default_factory=list)
    peers: dict[str, PeerHeld] = field(default_factory=dict)
    token: ring.TokenState | None = None  # None: nothing was decided about it yet


@dataclass(slots=True)
class Counts:
    """What happened since the process started."""

    accepted: int = 0
    repeats: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    merges: int = 0


class Region:
    """One region's decisions. Every method but `handle` and the named queries is its own business."""

    def __init__(self, settings: RegionSettings, state: RegionState, now_s: float) -> None:
        """Go on from `state`, which becomes the region's own."""
        self._settings = settings
        self._state = state
        self._arrival_rule = settings.recipe.arrival
        self._planner = Planner(settings.recipe.local_steps, settings.recipe.decay)
        self._links: dict[str, Downlink] = {}
        self._ring = settings.recipe.federation.start(settings.name, settings.peers, now_s, state.token)
        self._agent_stages: dict[str, Any] = msgspec.to_builtins(settings.recipe.agent_stages())
        self.counts = Counts()

    # --- queries ---

    @property
    def version(self) -> int:
        """Version of the model, the decisions of uncommitted events included."""
        return self._state.ages.last

    @property
    def age(self) -> float:
        """Its age."""
        return self._state.ages.age

    @property
    def position(self) -> int:
        """Newest position in the journal."""
        return self._state.position

    @property
    def publication(self) -> int:
        """Newest publication of this coordinator."""
        return self._state.publication

    @property
    def lineage(self) -> str:
        """The history that the versions count in."""
        return self._state.lineage

    @property
    def held(self) -> Sequence[HeldUpdate]:
        """Updates that wait for the arrival rule."""
        return self._state.held

    @property
    def links(self) -> Mapping[str, Downlink]:
        """The devices that are connected."""
        return self._links

    @property
    def planner(self) -> Planner:
        """The speeds of the devices."""
        return self._planner

    @property
    def ledger(self) -> Ledger:
        """The devices' updates."""
        return self._state.ledger

    @property
    def broadcast(self) -> BroadcastId:
        """The newest exchange of models that is known here."""
        return BroadcastId(*self._ring.token)

    @property
    def holds_token(self) -> bool:
        """Whether the federation's token is here."""
        return self._ring.holds

    @property
    def wake_at_s(self) -> float | None:
        """When the federation wants the next Tick; None: it does not mind."""
        return self._ring.wake_at_s

    def ledger_entries(self, devices: Iterable[str]) -> list[LedgerEntry]:
        """Return the lines of these devices, as they are to be written down."""
        return [entry for device in devices if (entry := self._state.ledger.entry(device)) is not None]

    def forget_before(self, version: int) -> None:
        """The journal was cut: updates that are based on versions before `version` can no longer be weighed."""
        self._state.ages.forget_before(version)

    # --- events ---

    def handle(self, event: Event, now_s: float) -> list[Effect]:
        """Advance by one event and return what must be done, in order."""
        match event:
            case UpdateArrived():
                return self._update_arrived(event, now_s)
            case DeviceConnected():
                return self._device_connected(event, now_s)
            case DeviceDisconnected(device):
                self._links.pop(device, None)
                return []
            case OfferDone(device, version):
                if (link := self._links.get(device)) is not None:
                    link.done(version.number)
                return []
            case TelemetryArrived(device, telemetry):
                if (link := self._links.get(device)) is not None:
                    link.told = telemetry
                self._hear_speed(device, telemetry.seconds_per_step, now_s)
                return [SaveTelemetry(device, telemetry)]
            case PeerModelArrived():
                return self._peer_model_arrived(event, now_s)
            case TokenArrived():
                return self._token_arrived(event, now_s)
            case PeerSeen(status):
                broadcast = status.broadcast.epoch, status.broadcast.number
                self._ring.peer_seen(status.coordinator, broadcast, now_s)
                return self._federate(())
            case PublicationNeeded(peer):
                return [SendPublication((peer,), whole=True)] if self._state.publication else []
            case Tick():
                return self._tick(now_s)
            case Evaluated():
                return [SaveEvaluation(event)]
            case TrafficCounted():
                return [SaveTraffic(event)]

    def _device_connected(self, event: DeviceConnected, now_s: float) -> list[Effect]:
        device, hello = event.device, event.hello
        self._hear_speed(device, hello.seconds_per_step, now_s)
        holds = hello.base is not None and hello.base.lineage == self.lineage
        base = hello.base.number if hello.base is not None and holds else None
        if base is not None and self._state.ages.at(base) is None:
            base = None
        self._links[device] = Downlink(base)
        welcome = Welcome(
            protocol_major=PROTOCOL_MAJOR,
            protocol_minor=PROTOCOL_MINOR,
            coordinator=self._settings.name,
            region=self._settings.region,
            bundle=self._settings.bundle,
            recipe=self._agent_stages,
            plan=self._plan(device, now_s),
            last_sequence=self.ledger.last_sequence(device),
            partial=event.partial,
            part_bytes_max=self._settings.part_bytes_max,
        )
        return [SendToDevice(device, welcome), *self._offer(device, now_s, answering=True)]

    def _update_arrived(self, event: UpdateArrived, now_s: float) -> list[Effect]:
        device, offered, ledger = event.device, event.offered, self.ledger
        if offered.sequence <= ledger.last_sequence(device):
            return self._repeat_arrived(device, offered, now_s)
        base_age = self._state.ages.at(offered.base.number) if offered.base.lineage == self.lineage else None
        fault: Malformed | _Refusal | None = self._fault(event)
        link = self._links.get(device)
        if link is not None and offered.sequence in link.rejected:
            fault = _Refusal("wrong_sequence", f"update {offered.sequence} was rejected on this stream before")
        if fault is not None or base_age is None:
            return self._reject(device, offered.sequence, fault or self._unknown(offered.base), now_s)

        self._hear_speed(device, offered.seconds_per_step, now_s)
        staleness = max(0.0, self.age - base_age)
        arrival = Arrival(
            device=device,
            sequence=offered.sequence,
            staleness=staleness,
            steps=offered.steps,
            examples=offered.examples,
            loss=offered.loss,
        )
        self._state.position += 1
        self.counts.accepted += 1
        newest = HeldUpdate(self._state.position, arrival)
        weights = self._arrival_rule.decide([*(held.arrival for held in self._state.held), arrival])
        if weights is None:
            self._state.held.append(newest)
            ledger.take(device, offered.sequence, self.version, None)
            journal = JournalUpdate(newest.position, event, offered.base.number, staleness, None, None, None)
            return [journal, *self._accept(device, offered.sequence, None, now_s)]

        effects: list[Effect] = []
        applied: list[Effect] = []
        for held, held_weight in zip(self._state.held, weights, strict=False):
            version, age, name = self._next_version(self._older()), self.age, held.arrival.device
            ledger.release(name, held.arrival.sequence, version, held_weight)
            effects.append(ReleaseUpdate(held.position, name, version, held_weight, age))
            applied.append(Apply(held.position, version, held_weight, age))
        self._state.held.clear()
        version, age, weight = self._next_version(self._older()), self.age, weights[-1]
        ledger.take(device, offered.sequence, version, weight)
        effects.append(JournalUpdate(newest.position, event, offered.base.number, staleness, version, weight, age))
        applied.append(Apply(newest.position, version, weight, age))
        effects += applied
        effects += self._accept(device, offered.sequence, weight, now_s)
        if decided := self._ring.updated(age, len(self._links), now_s):
            effects += self._federate(decided)
        return effects

    def _repeat_arrived(self, device: str, offered: UpdateOffered, now_s: float) -> list[Effect]:
        """Answer a number that is not above the highest: taken before, or passed over and then never to be taken."""
        sequence = offered.sequence
        if offered.base.lineage != self.lineage:  # the ledger is as old as the lineage: it was not taken here
            return self._reject(device, sequence, self._unknown(offered.base), now_s)
        recent = self.ledger.recall(device, sequence)
        if recent is None and not self.ledger.may_have_forgotten(device, sequence):
            last = self.ledger.last_sequence(device)
            passed_over = _Refusal("wrong_sequence", f"update {sequence} was not taken before {last} was")
            return self._reject(device, sequence, passed_over, now_s)
        self.counts.repeats += 1
        # So old that its weight is forgotten: None lets the agent return nothing to its residual, which may lose a
        # little mass but never counts any twice.
        version, weight = (self.version, None) if recent is None else (recent.version, recent.weight)
        accepted = UpdateAccepted(sequence, version, weight, self._plan(device, now_s))
        return [SendToDevice(device, accepted), *self._offer(device, now_s, answering=True)]

    def _accept(self, device: str, sequence: int, weight: float | None, now_s: float) -> list[Effect]:
        accepted = UpdateAccepted(sequence, self.version, weight, self._plan(device, now_s))
        return [SendToDevice(device, accepted), *self._offer(device, now_s, answering=True)]

    def _reject(self, device: str, sequence: int, fault: "Malformed | _Refusal", now_s: float) -> list[Effect]:
        self.counts.rejected[fault.reason] += 1
        if (link := self._links.get(device)) is not None:
            link.rejected.append(sequence)
        rejected = UpdateRejected(sequence, fault.reason, fault.detail)
        return [SendToDevice(device, rejected), *self._offer(device, now_s, answering=True)]

    def _fault(self, event: UpdateArrived) -> Malformed | None:
        if isinstance(event.vector, Malformed):
            return event.vector
        if not isfinite(event.offered.loss):
            return Malformed("not_finite", f"the update's loss is {event.offered.loss}")
        return None

    def _unknown(self, base: ModelVersion) -> "_Refusal":
        ages = self._state.ages
        return _Refusal(
            "unknown_base",
            f"base {base.lineage}@{base.number}: known are {self.lineage}@{ages.first} to {self.lineage}@{ages.last}",
        )

    def _peer_model_arrived(self, event: PeerModelArrived, now_s: float) -> list[Effect]:
        message = event.message
        assert message.coordinator in self._settings.peers, "the network shell answers strangers itself"
        held = self._state.peers.get(message.coordinator)
        same_life = held is not None and held.lineage == message.lineage
        broadcast = message.broadcast.epoch, message.broadcast.number
        if held is not None and same_life and message.publication <= held.publication:
            self._ring.peer_seen(message.coordinator, broadcast, now_s)
            return [*self._federate(()), Reply(event.key, PeerModelTaken(message.publication))]
        if message.base is not None and (held is None or not same_life or held.publication != message.base):
            has = "none" if held is None else f"{held.lineage} number {held.publication}"
            needed = PeerModelNeeded(
                f"publication {message.base} of {message.lineage} is not here; the replica is {has}"
            )
            return [Reply(event.key, needed)]
        self._state.position += 1
        self._state.peers[message.coordinator] = PeerHeld(message.lineage, message.publication)
        return [
            JournalPeerModel(self._state.position, event),
            TakePeerModel(event),
            *self._federate(
                self._ring.model_arrived(message.coordinator, broadcast, message.age, self.age, now_s),
            ),
            Reply(event.key, PeerModelTaken(message.publication)),
        ]

    def _token_arrived(self, event: TokenArrived, now_s: float) -> list[Effect]:
        message = event.message
        broadcast = message.broadcast.epoch, message.broadcast.number
        decided = self._ring.token_arrived(message.sender, broadcast, message.ages, self.age, now_s)
        # The reply first: from here on this coordinator answers for the token, wherever it goes next.
        return [*self._federate(decided, first=Reply(event.key, TokenTaken(message.broadcast)))]

    def _tick(self, now_s: float) -> list[Effect]:
        effects = self._federate(self._ring.tick(self.age, len(self._links), now_s))
        for device in self._links:
            effects += self._offer(device, now_s, answering=False)
        return effects

    # --- parts of answers ---

    def _federate(self, decided: Sequence[ring.TokenEffect], first: Reply | None = None) -> list[Effect]:
        """Translate what the federation decided; its state is on disk before any of it is performed."""
        effects: list[Effect] = []
        state = self._ring.snapshot()
        if state != (self._state.token or ring.TokenState()):
            self._state.token = state
            effects.append(SaveToken(state))
        if first is not None:
            effects.append(first)
        for effect in decided:
            match effect:
                case ring.Publish(broadcast):
                    self._state.position += 1
                    self._state.publication += 1
                    number = self._state.publication
                    effects.append(Publish(self._state.position, number, BroadcastId(*broadcast), self.age))
                    effects.append(SendPublication(self._settings.peers, whole=False))
                case ring.MergePeer(peer, weight, age):
                    self._state.position += 1
                    self.counts.merges += 1
                    version = self._next_version(age)
                    publication = self._state.peers[peer].publication
                    effects.append(JournalMerge(self._state.position, version, peer, publication, weight, age))
                    effects.append(Merge(version, peer, weight, age))
                case ring.PassToken(to, broadcast, ages):
                    token = TokenPassed(self._settings.name, BroadcastId(*broadcast), dict(ages))
                    effects.append(SendToken(to, token))
        return effects

    def _offer(self, device: str, now_s: float, *, answering: bool) -> list[Effect]:
        link = self._links.get(device)
        if link is None or not link.due(self.version, self._planner.cycle_s(now_s), now_s, answering=answering):
            return []
        base = link.offer(self.version, now_s)
        return [OfferModel(device, None if base is None or self._state.ages.at(base) is None else base)]

    def _plan(self, device: str, now_s: float) -> Plan:
        return self._planner.plan(self.ledger.updates_of(device), self.ledger.updates, now_s)

    def _hear_speed(self, device: str, seconds_per_step: float | None, now_s: float) -> None:
        if seconds_per_step:  # neither unknown nor, from a device that has not measured yet, zero
            self._planner.heard(device, seconds_per_step, now_s)

    def _older(self) -> float:
        """Return the age that one more update makes. A peer may have told an age close to what a message can say."""
        return min(self.age + 1.0, AGE_MAX)

    def _next_version(self, age: float) -> int:
        return self._state.ages.append(age)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why an update that is well-formed is not taken."""

    reason: Literal["unknown_base", "wrong_sequence"]
    detail: str
