"""A region's part in the federation: what its peers published, and what the recipe's machine decides. Pure."""

from collections.abc import Sequence

import msgspec

from coordinator.events import (
    Effect,
    JournalMerge,
    JournalPeerModel,
    Merge,
    PeerAdmitted,
    PeerAlarm,
    PeerModelArrived,
    Publish,
    Reply,
    SaveRuleState,
    SaveToken,
    SendPublication,
    SendToken,
    TakePeerModel,
    TokenArrived,
)
from coordinator.region_state import Counts, PeerHeld, RegionSettings, RegionState
from skerry.algorithms import token as ring
from skerry.algorithms.barrier import BarrierMachine, BarrierState
from skerry.algorithms.peer_guard import PeerDistances, PeerGuard
from skerry.protocol.messages import (
    BroadcastId,
    PeerModelNeeded,
    PeerModelTaken,
    PeerStatus,
    TokenPassed,
    TokenTaken,
)


class Federation:
    """One region among its peers; shares the region's state."""

    def __init__(self, settings: RegionSettings, state: RegionState, counts: Counts, now_s: float) -> None:
        """Go on from `state`."""
        self._settings = settings
        self._state = state
        self._counts = counts
        barrier = state.remembered(BarrierState)
        if barrier is not None:  # a state may hold no replica of a peer that has arrived: then it has to come again
            arrived = {peer: one for peer, one in barrier.arrived.items() if peer in state.peers}
            barrier = msgspec.structs.replace(barrier, arrived=arrived)
        rule = settings.recipe.federation
        self._machine = rule.start(settings.name, settings.peers, now_s, state.token, barrier)
        self._guard = PeerGuard(rule.distance_max, state.remembered(PeerDistances), settings.peers)
        state.rules[PeerDistances] = self._guard.snapshot()

    @property
    def broadcast(self) -> BroadcastId:
        """The newest exchange of models that is known here."""
        return BroadcastId(*self._machine.token)

    @property
    def holds_token(self) -> bool:
        """Whether the federation's token is here."""
        return self._machine.holds

    @property
    def blocks(self) -> bool:
        """Whether the region waits for its peers, and applies no update meanwhile."""
        return self._machine.blocks

    @property
    def wake_at_s(self) -> float | None:
        """When the federation wants the next Tick; None: it does not mind."""
        return self._machine.wake_at_s

    def peer_model_arrived(self, event: PeerModelArrived, now_s: float) -> list[Effect]:
        """Take in what a peer published, if it builds on what is here."""
        message = event.message
        assert message.coordinator in self._settings.peers, "the network shell answers strangers itself"
        held = self._state.peers.get(message.coordinator)
        same_life = held is not None and held.lineage == message.lineage
        broadcast = message.broadcast.epoch, message.broadcast.number
        old = held is not None and same_life and message.publication <= held.publication
        # The peer was restored from an older copy of its state: its numbers mean other models now.
        rewound = old and held is not None and message.broadcast > held.broadcast
        if old and not rewound:
            self._machine.peer_seen(message.coordinator, broadcast, now_s)
            return [*self._translate((), now_s), Reply(event.key, PeerModelTaken(message.publication))]
        builds = held is not None and same_life and not rewound and held.publication == message.base
        if message.base is not None and not builds:
            has = "none" if held is None else f"{held.lineage} number {held.publication}"
            needed = PeerModelNeeded(
                f"publication {message.base} of {message.lineage} is not here; the replica is {has}"
            )
            return [Reply(event.key, needed)]
        self._state.position += 1
        self._state.peers[message.coordinator] = PeerHeld(message.lineage, message.publication, message.broadcast)
        journal, take = JournalPeerModel(self._state.position, event), TakePeerModel(event)
        counts, judged = self._judge(event, now_s)
        age = self._state.ages.age
        decided = self._machine.model_arrived(message.coordinator, broadcast, message.age, age, now_s, counts=counts)
        return [
            journal,
            take,
            *judged,
            *self._translate(decided, now_s),
            Reply(event.key, PeerModelTaken(message.publication)),
        ]

    def admit(self, event: PeerAdmitted) -> list[Effect]:
        """Let a peer's models count again, and say whether they did not."""
        if not self._guard.admit(event.peer):
            return [Reply(event.key, message=False)]
        alarm = PeerAlarm(event.peer, "its next model is merged: an operator says so")
        return [*self._remember_distances(), alarm, Reply(event.key, message=True)]

    def _judge(self, event: PeerModelArrived, now_s: float) -> tuple[bool, list[Effect]]:
        """Say whether a peer's model may be merged, and what of that is to be told."""
        message, age = event.message, self._state.ages.age
        merges = not self._machine.is_far_behind(message.age, age)
        judged = self._guard.judge(message.coordinator, event.measured, age, message.age, now_s, merges=merges)
        self._counts.peer_models_refused[message.coordinator] += not judged.counts
        alarms: list[Effect] = [PeerAlarm(message.coordinator, judged.alarm)] if judged.alarm else []
        return judged.counts, alarms

    def _remember_distances(self) -> list[Effect]:
        """Return what writes down what the guard knows, if it changed."""
        known = self._guard.snapshot()
        if known == self._state.rules[PeerDistances]:
            return []
        self._state.rules[PeerDistances] = known
        return [SaveRuleState(known)]

    def token_arrived(self, event: TokenArrived, now_s: float) -> list[Effect]:
        """Take the token over."""
        message = event.message
        broadcast = message.broadcast.epoch, message.broadcast.number
        age = self._state.ages.age
        decided = self._machine.token_arrived(message.sender, broadcast, message.ages, age, now_s)
        # The reply first: from here on this coordinator answers for the token, wherever it goes next.
        return self._translate(decided, now_s, first=Reply(event.key, TokenTaken(message.broadcast)))

    def peer_seen(self, status: PeerStatus, now_s: float) -> list[Effect]:
        """Take note of a peer's sign of life."""
        self._machine.peer_seen(status.coordinator, (status.broadcast.epoch, status.broadcast.number), now_s)
        return self._translate((), now_s)

    def updated(self, devices: int, now_s: float) -> list[Effect]:
        """Go on after the arrival rule has applied updates; `devices`: that are connected."""
        decided = self._machine.updated(self._state.ages.age, devices, now_s)
        # For every update: only a barrier, which counts them, has anything to write down where nothing was decided.
        return self._translate(decided, now_s) if decided or isinstance(self._machine, BarrierMachine) else []

    def tick(self, devices: int, now_s: float) -> list[Effect]:
        """Let time pass; `devices`: that are connected."""
        return self._translate(self._machine.tick(self._state.ages.age, devices, now_s), now_s)

    def _translate(self, decided: Sequence[ring.TokenEffect], now_s: float, first: Reply | None = None) -> list[Effect]:
        """Return the effects of what the machine decided; its state is on disk before any of them is performed."""
        for effect in decided:
            if isinstance(effect, ring.MergePeer):
                self._guard.merged(effect.peer, now_s)
        effects = [*self._remember(), *self._remember_distances()]
        if first is not None:
            effects.append(first)
        for effect in decided:
            match effect:
                case ring.Publish(broadcast):
                    self._state.position += 1
                    self._state.publication += 1
                    number, age = self._state.publication, self._state.ages.age
                    effects.append(Publish(self._state.position, number, BroadcastId(*broadcast), age))
                    effects.append(SendPublication(self._settings.peers, whole=False))
                case ring.MergePeer(peer, weight, age):
                    self._state.position += 1
                    self._counts.merges += 1
                    version = self._state.ages.append(age)
                    publication = self._state.peers[peer].publication
                    entries = self._settings.recipe.federation.merge_entries
                    effects.append(JournalMerge(self._state.position, version, peer, publication, weight, age, entries))
                    effects.append(Merge(version, peer, weight, age, entries))
                case ring.PassToken(to, broadcast, ages):
                    token = TokenPassed(self._settings.name, BroadcastId(*broadcast), dict(ages))
                    effects.append(SendToken(to, token))
        return effects

    def _remember(self) -> list[Effect]:
        """Return what writes the machine's state down, if it changed."""
        match self._machine.snapshot():
            case BarrierState() as barrier if barrier != self._state.rules.get(BarrierState, BarrierState()):
                self._state.rules[BarrierState] = barrier
                return [SaveRuleState(barrier)]
            case ring.TokenState() as token if token != (self._state.token or ring.TokenState()):
                self._state.token = token
                return [SaveToken(token)]
        return []
