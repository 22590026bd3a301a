"""What a region decides: which update counts how much, who is offered the model, when the federation moves.

A state machine without I/O, over scalars only: it takes an event and `now_s`, and returns effects, in order. It moves
on when it decides; the engine makes sure that nothing leaves before what stands ahead of it is on disk.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from coordinator.downlink import Downlink, OfferedState
from coordinator.events import (
    Alarm,
    DeviceConnected,
    DeviceDisconnected,
    DeviceReleased,
    Effect,
    Evaluated,
    Event,
    FollowModel,
    JournalUpdate,
    LedgerAsked,
    Malformed,
    OfferDone,
    OfferModel,
    PeerAdmitted,
    PeerLedgerArrived,
    PeerModelArrived,
    PeerSeen,
    PublicationNeeded,
    Reply,
    RuleState,
    SaveEvaluation,
    SaveLedger,
    SaveRuleState,
    SaveTelemetry,
    SaveTraffic,
    SendPublication,
    SendToDevice,
    TelemetryArrived,
    Tick,
    TokenArrived,
    TrafficCounted,
    UpdateArrived,
    UpdateFound,
)
from coordinator.federation import Federation
from coordinator.guarding import Guarding, told
from coordinator.ledger import Ledger, LedgerEntry, RecentUpdate
from coordinator.planner import Planner
from coordinator.refusal import Refusal, fault_of, jumped, unknown
from coordinator.region_state import Counts, HeldUpdate, RegionSettings, RegionState
from coordinator.release import release
from coordinator.roaming import Roaming
from skerry.agent_stages import on_wire
from skerry.algorithms.arrival import Arrival, FedAvg
from skerry.algorithms.downlink import TopK
from skerry.algorithms.gain import GainControl, GainState, weigher
from skerry.algorithms.rounds import Rounds, RoundState
from skerry.protocol.limits import PROTOCOL_MAJOR, PROTOCOL_MINOR, TEXT_CHARS_MAX
from skerry.protocol.messages import (
    BroadcastId,
    Plan,
    UpdateAccepted,
    UpdateOffered,
    UpdateRejected,
    Welcome,
)


class Region:
    """One region's decisions. Every method but `handle` and the named queries is its own business."""

    def __init__(self, settings: RegionSettings, state: RegionState, now_s: float) -> None:
        """Go on from `state`, which becomes the region's own."""
        self._settings = settings
        self._state = state
        self.counts = Counts()
        recipe = settings.recipe
        stages = recipe.agent_stages()
        self._downlink = recipe.downlink
        self._arrival_rule = weigher(recipe.arrival, state.remembered(GainState))
        self._trim = recipe.arrival.trim
        self._guarding = Guarding(recipe, settings.size, settings.tail, state.conducts)
        self._planner = Planner(recipe.local_steps, recipe.decay)
        self._links: dict[str, Downlink] = {}
        self._federation = Federation(settings, state, self.counts, now_s)
        self._roaming = Roaming(settings, state, self.counts)
        self._rounds = self._start_rounds(now_s)
        self._devices_wait = stages.participation.waits
        self._offered = self.version  # of the model that devices hold, where it follows
        self._followed_at_s = now_s
        before = state.remembered(OfferedState) or OfferedState()
        self._known = state.rules[OfferedState] = before.start(self.version, follows=isinstance(self._downlink, TopK))
        self._unsaved: list[Effect] = [] if self._known == before else [SaveRuleState(self._known)]
        self._deferred = bool(state.held)  # something waits for the federation, or for a rule that has changed
        self._agent_stages: dict[str, Any] = on_wire(stages, settings.size)

    def _start_rounds(self, now_s: float) -> Rounds | None:
        rule = self._settings.recipe.arrival
        if not isinstance(rule, FedAvg):
            return None
        held = (one.arrival.device for one in self._state.held)
        return Rounds(rule, self._state.lineage, now_s, self._state.remembered(RoundState), held)

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
    def ledger_place(self) -> str:
        """Up to where peers can ask for lines of the ledger."""
        return self._roaming.place

    @property
    def broadcast(self) -> BroadcastId:
        """The newest exchange of models that is known here."""
        return self._federation.broadcast

    @property
    def quarantined(self) -> Mapping[str, str]:
        """The devices whose updates are not let in, and why."""
        return self._guarding.quarantined

    @property
    def refused_peers(self) -> Mapping[str, str]:
        """The peers whose models do not count, and why."""
        return self._state.refused_peers

    @property
    def holds_token(self) -> bool:
        """Whether the federation's token is here."""
        return self._federation.holds_token

    @property
    def round(self) -> int | None:
        """Number of the round under way, or of the last one; None: the arrival rule knows no rounds."""
        return None if self._rounds is None else self._rounds.number

    @property
    def server_rate(self) -> float | None:
        """The rate at which the arrival rule stands; None: it controls none."""
        return self._arrival_rule.rate if isinstance(self._arrival_rule, GainControl) else None

    @property
    def waits_for_peers(self) -> bool:
        """Whether an exchange of models holds everything up."""
        return self._federation.blocks

    @property
    def wake_at_s(self) -> float | None:
        """When the next Tick is wanted; None: it does not matter."""
        follow_at_s = self._follow_at_s()
        times = [at_s for at_s in (self._federation.wake_at_s, follow_at_s) if at_s is not None]
        return min(times, default=None)

    def ledger_entries(self, devices: Iterable[str]) -> list[LedgerEntry]:
        """Return the lines of these devices, as they are to be written down."""
        return [entry for device in devices if (entry := self._state.ledger.entry(device)) is not None]

    def forget_before(self, version: int) -> None:
        """The journal was cut: updates that are based on versions before `version` can no longer be weighed."""
        self._state.ages.forget_before(version)

    # --- events ---

    def handle(self, event: Event, now_s: float) -> list[Effect]:
        """Advance by one event and return what must be done, in order."""
        effects = self._decide(event, now_s)
        if self._is_to_follow(now_s):
            effects += [*self._follow(now_s), *self._offer_to_all(now_s)]
        effects += self._unsaved
        self._unsaved = []
        return effects

    def _decide(self, event: Event, now_s: float) -> list[Effect]:
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
            case PeerModelArrived(message):
                self._roaming.peer_lives(message.coordinator, message.lineage)
                return [*self._federation.peer_model_arrived(event, now_s), *self._proceed(now_s)]
            case TokenArrived():
                return self._federation.token_arrived(event, now_s)
            case PeerLedgerArrived():
                return self._roaming.ledger_arrived(event, now_s)
            case LedgerAsked():
                return self._roaming.asked(event)
            case UpdateFound():
                return self._roaming.update_found(event)
            case PeerSeen(status):
                self._roaming.peer_seen(status, now_s)
                return self._federation.peer_seen(status, now_s)
            case PublicationNeeded(peer):
                return [SendPublication((peer,), whole=True)] if self._state.publication else []
            case DeviceReleased(device, key):
                released = self._guarding.release(device)
                return [*released, Reply(key, bool(released))]
            case PeerAdmitted():
                return self._federation.admit(event)
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
        if base is not None and (base <= self._known.after or self._state.ages.at(base) is None):
            base = None
        self._links[device] = Downlink(base, minor=hello.protocol_minor)
        welcome = Welcome(
            protocol_major=PROTOCOL_MAJOR,
            protocol_minor=PROTOCOL_MINOR,
            coordinator=self._settings.name,
            region=self._settings.region,
            bundle=self._settings.bundle,
            recipe=self._agent_stages,
            plan=self._plan(device, now_s),
            last_sequence=self._roaming.last_sequence(device),
            partial=event.partial,
            part_bytes_max=self._settings.part_bytes_max,
            coordinators=self._roaming.coordinators(now_s),
            base_given_up=self._roaming.given_up(hello.base) is not None,
        )
        offer = self._offer(device, now_s, answering=True)
        return [SendToDevice(device, welcome), *offer, *self._proceed(now_s)]

    def _update_arrived(self, event: UpdateArrived, now_s: float) -> list[Effect]:
        device, offered, ledger = event.device, event.offered, self.ledger
        if not self._roaming.admits(device, offered.sequence, now_s):
            return self._reject(device, offered.sequence, jumped(self._roaming.last_sequence(device)), now_s)
        known = self._roaming.recall(device, offered.sequence)
        if known is not None or offered.sequence <= ledger.last_sequence(device):
            return self._repeat_arrived(device, offered, known, now_s)
        distance = self._roaming.distance(offered)
        link = self._links.get(device)
        if self._devices_wait and link is not None and distance is not None and not distance.abroad:
            link.done(offered.base.number)  # it trained on it: all of it has arrived
        fault = self._roaming.given_up(offered.base)
        fault = fault or fault_of(event, link, self._rounds, self._state.held if self._trim is not None else ())
        fault = fault or self._guarding.admits(whole=offered.whole)
        if fault is not None or distance is None:
            fault = fault or unknown(offered.base, self.lineage, self._state.ages)
            return self._reject(device, offered.sequence, fault, now_s)
        judged = self._guarding.judge(event)
        self.counts.alarms += sum(isinstance(effect, Alarm) for effect in judged.effects)
        if judged.fault is not None:
            refused = RecentUpdate(offered.sequence, self.version, None, offered.moves, refused=judged.fault.reason)
            ledger.take(device, refused)
            rejected = self._reject(device, offered.sequence, judged.fault, now_s)
            return [*judged.effects, SaveLedger(device), *rejected]

        self._hear_speed(device, offered.seconds_per_step, now_s)
        staleness, behind, abroad = distance
        arrival = Arrival(
            device=device,
            sequence=offered.sequence,
            staleness=staleness,
            steps=offered.steps,
            examples=offered.examples,
            loss=offered.loss,
            behind=behind,
        )
        self._state.position += 1
        self.counts.accepted += 1
        newest = HeldUpdate(self._state.position, arrival, offered.whole, judged.factor)
        if self._rounds is not None:
            self._rounds.delivered(device)
        weights = self._weights(now_s, newest)
        journal = JournalUpdate(
            newest.position, event, offered.base.number, staleness, None, None, None, None, newest.factor, abroad
        )
        if weights is None:
            self._state.held.append(newest)
            ledger.take(device, RecentUpdate(offered.sequence, self.version, None, offered.moves))
            return [*judged.effects, journal, *self._accept(device, offered.sequence, None, now_s)]

        effects = release(self._state, [*self._state.held, newest], weights, self._trim, journal)
        self._state.held.clear()
        effects += judged.effects
        effects += self._accept(device, offered.sequence, weights[-1], now_s)
        effects += self._federation.updated(len(self._links), now_s)
        effects += self._proceed(now_s)
        return effects

    def _weights(self, now_s: float, newest: HeldUpdate | None = None) -> Sequence[float] | None:
        """Return a weight for every update that is held, and for `newest` behind them; None: they wait."""
        if self._federation.blocks:
            self._deferred = True
            return None
        if self._rounds is not None:
            if not self._rounds.is_over(now_s):
                return None
            self._rounds.end()
        if isinstance(self._arrival_rule, GainControl):
            self._arrival_rule.devices = len(self._links)
        updates = self._state.held if newest is None else [*self._state.held, newest]
        weights = self._arrival_rule.decide([one.arrival for one in updates]) if updates else None
        return weights and [weight * one.factor for weight, one in zip(weights, updates, strict=True)]

    def _proceed(self, now_s: float) -> list[Effect]:
        """Do what had to wait for the federation or for time: apply what is held, begin a round, make offers."""
        if self._rounds is None and not self._deferred:
            return self._remember_arrivals()
        effects: list[Effect] = []
        weights = self._weights(now_s)
        if weights is not None:
            effects += release(self._state, self._state.held, weights, self._trim)
            self._state.held.clear()
            effects += self._federation.updated(len(self._links), now_s)
        if self._federation.blocks:
            return [*effects, *self._remember_arrivals()]
        begun = self._begin_round(now_s)
        effects += self._remember_arrivals()
        if begun or self._deferred:
            self._deferred = False
            effects += self._offer_to_all(now_s)
        return effects

    def _begin_round(self, now_s: float) -> bool:
        """Begin the next round, if none is under way and there are devices that do not rest."""
        if self._rounds is None or self._rounds.under_way:
            return False
        ready = [name for name, link in self._links.items() if link.told is None or link.told.pace != "pause"]
        return self._rounds.begin(ready, self.version, now_s)

    def _remember_arrivals(self) -> list[Effect]:
        """Return what writes down what the arrival rule must not forget, if it changed."""
        state: RuleState
        if self._rounds is not None:
            state = self._rounds.snapshot()
        elif isinstance(self._arrival_rule, GainControl):
            state = self._arrival_rule.snapshot()
        else:
            return []
        if state == self._state.rules.get(type(state), type(state)()):
            return []
        self._state.rules[type(state)] = state
        return [SaveRuleState(state)]

    def _repeat_arrived(
        self, device: str, offered: UpdateOffered, recent: RecentUpdate | None, now_s: float
    ) -> list[Effect]:
        """Answer a number that was taken before, here or elsewhere; or passed over and then is never to be taken."""
        sequence = offered.sequence
        if recent is None and offered.base_age is None and offered.base.lineage != self.lineage:
            return self._reject(device, sequence, unknown(offered.base, self.lineage, self._state.ages), now_s)
        if recent is None and not self.ledger.may_have_forgotten(device, sequence):
            last = self.ledger.last_sequence(device)
            passed_over = Refusal("wrong_sequence", f"update {sequence} was not taken before {last} was")
            return self._reject(device, sequence, passed_over, now_s)
        self.counts.repeats += 1
        if recent is not None and recent.refused is not None:
            again = UpdateRejected(sequence, told(recent.refused, self._links.get(device)), "it was refused before")
            return [SendToDevice(device, again), *self._offer(device, now_s, answering=True)]
        # So old that its weight is forgotten: None lets the agent return nothing to its residual, which may lose a
        # little mass but never counts any twice.
        version, weight = (self.version, None) if recent is None else (recent.version, recent.weight)
        accepted = UpdateAccepted(sequence, version, weight, self._plan(device, now_s))
        noted = [] if recent is None else self._roaming.answer_again(device, offered, recent)
        return [*noted, SendToDevice(device, accepted), *self._offer(device, now_s, answering=True)]

    def _accept(self, device: str, sequence: int, weight: float | None, now_s: float) -> list[Effect]:
        accepted = UpdateAccepted(sequence, self.version, weight, self._plan(device, now_s))
        return [SendToDevice(device, accepted), *self._offer(device, now_s, answering=True)]

    def _reject(self, device: str, sequence: int, fault: Malformed | Refusal, now_s: float) -> list[Effect]:
        self.counts.rejected[fault.reason] += 1
        if (link := self._links.get(device)) is not None:
            link.rejected.append(sequence)
        reason = fault.reason if isinstance(fault, Refusal) else told(fault.reason, link)
        rejected = UpdateRejected(sequence, reason, fault.detail[:TEXT_CHARS_MAX])
        if self._rounds is not None and isinstance(fault, Malformed):
            self._rounds.excuse(device)
        offer = self._offer(device, now_s, answering=True)
        return [SendToDevice(device, rejected), *offer, *self._proceed(now_s)]

    def _tick(self, now_s: float) -> list[Effect]:
        federated = self._federation.tick(len(self._links), now_s)
        return [*federated, *self._proceed(now_s), *self._offer_to_all(now_s)]

    # --- parts of answers ---

    def _offer_to_all(self, now_s: float) -> list[Effect]:
        """Offer the model to all that are due; what a base lacks is encoded once, where its devices come in a row."""
        bases = {device: self.version + 1 if link.base is None else link.base for device, link in self._links.items()}
        effects: list[Effect] = []
        for device in sorted(bases, key=bases.__getitem__):
            effects += self._offer(device, now_s, answering=False)
        return effects

    def _offer(self, device: str, now_s: float, *, answering: bool) -> list[Effect]:
        link = self._links.get(device)
        if link is None or not self._is_due(device, link, now_s, answering=answering):
            return []
        follows = isinstance(self._downlink, TopK)
        followed = self._follow(now_s) if self._devices_wait and follows else []
        base = link.offer(self._offered if follows else self.version, now_s)
        return [*followed, OfferModel(device, None if base is None or self._state.ages.at(base) is None else base)]

    def _follow_at_s(self) -> float | None:
        """When the offered model is to come nearer to the region's; None: there is nothing to bring it."""
        if not isinstance(self._downlink, TopK) or self._devices_wait or self._offered == self.version:
            return None
        return self._followed_at_s + self._downlink.interval_s(self._planner.cycle_s(self._followed_at_s))

    def _is_to_follow(self, now_s: float) -> bool:
        """Say whether the offered model is to come nearer to the region's when the event at hand has been handled."""
        follow_at_s = self._follow_at_s()
        return follow_at_s is not None and now_s >= follow_at_s

    def _follow(self, now_s: float) -> list[Effect]:
        """Bring the offered model nearer to the region's, if that has changed."""
        if self._offered == self.version:
            return []
        self._offered, self._followed_at_s = self.version, now_s
        return [FollowModel()]

    def _is_due(self, device: str, link: Downlink, now_s: float, *, answering: bool) -> bool:
        """Say whether to offer a device the model; one that waits for offers trains once for each."""
        if not self._devices_wait:
            if isinstance(self._downlink, TopK):
                return not self._is_to_follow(now_s) and link.due(self._offered, 0.0, now_s)
            cycles = self._downlink.answer_cycles if answering else self._downlink.interval_cycles
            return link.due(self.version, cycles * self._planner.cycle_s(now_s), now_s)
        if self._rounds is not None:
            return device in self._rounds.awaited and link.invite(self._rounds.number)
        if self._federation.blocks:
            self._deferred = True
            link.owed |= answering
            return False
        return link.answer() if answering or link.owed else False

    def _plan(self, device: str, now_s: float) -> Plan:
        return self._planner.plan(self.ledger.updates_of(device), self.ledger.updates, now_s)

    def _hear_speed(self, device: str, seconds_per_step: float | None, now_s: float) -> None:
        if seconds_per_step:  # neither unknown nor, from a device that has not measured yet, zero
            self._planner.heard(device, seconds_per_step, now_s)
