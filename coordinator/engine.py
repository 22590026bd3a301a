"""Performs what the region decides: group by group, on disk first, then in memory, then outwards.

Everything that was submitted while a group is being written forms the next one, so that groups grow with the load and
a lone update pays one sync. Decides nothing itself but when to take a checkpoint.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import count
from typing import Any, Literal

from msgspec.structs import replace

from coordinator import publications
from coordinator.backlog import Backlog
from coordinator.checkpoint import Checkpoint
from coordinator.checkpointer import Checkpointer
from coordinator.config import CoordinatorConfig
from coordinator.engine_status import DeviceStatus, EngineStatus, ModelSnapshot, ReplicaStatus, describe, peer_status
from coordinator.events import (
    Alarm,
    Answer,
    Apply,
    ApplyBuffer,
    DeviceReleased,
    DropHeld,
    Effect,
    Event,
    FindUpdate,
    FollowModel,
    LedgerAsked,
    Merge,
    OfferModel,
    PeerAdmitted,
    PeerAlarm,
    PeerModelArrived,
    Publish,
    Reply,
    SendPublication,
    SendToDevice,
    SendToken,
    TakePeerModel,
    Tick,
    TokenArrived,
)
from coordinator.former_life import FormerLife
from coordinator.group import Group, collect
from coordinator.model_state import ModelState, Replica, buffered
from coordinator.offered_model import OfferedModel
from coordinator.outlet import Observer, Outlet
from coordinator.publications import Prepared, publication_of
from coordinator.region import Region
from coordinator.region_state import RegionSettings
from coordinator.state_dir import StateDir, open_state
from coordinator.store import Batch, RegionRow
from coordinator.taking_back import found
from coordinator.threads import RunInThread, T
from skerry.algorithms.age_weighting import federated_model
from skerry.algorithms.downlink import TopK
from skerry.algorithms.federation import NoFederation
from skerry.database import Database, OpenDatabase
from skerry.errors import StorageError
from skerry.protocol.messages import BundleReference, ModelVersion, PeerStatus
from skerry.vector import Float32, SparseVector

__all__ = ["DeviceStatus", "Engine", "EngineStatus", "ModelSnapshot", "Observer", "Outlet", "ReplicaStatus"]

log = logging.getLogger(__name__)

GROUP_EVENTS_MAX = 1024  # bounds how long one group keeps the event loop from anything else
COMPUTE_INLINE_ENTRIES_MAX = 1 << 16  # what a device lacks of a larger model is found out in a thread
REPORTS_S = 1.0  # telemetry and traffic wait so long for a commit that has to be made anyway
TICK_S = 1.0
TICK_MIN_S = 0.01  # however soon the federation wants to be woken

Toll = Callable[[Apply | ApplyBuffer | Merge], Awaitable[None]]  # a simulated server's work before such a change


class Engine:
    """One region at work. Open, run, close; all within one event loop."""

    def __init__(
        self,
        settings: RegionSettings,
        state_dir: StateDir,
        checkpointer: Checkpointer,
        outlet: Outlet,
        observer: Observer | None,
        *,
        backlog: Backlog,
        run_in_thread: RunInThread,
        wall_clock: Callable[[], float],
        tail: int,
        toll: Toll | None = None,
    ) -> None:
        """Put the parts together; `Engine.open` makes them."""
        self._loop = asyncio.get_running_loop()
        self._settings, self._state_dir = settings, state_dir
        self._state: ModelState = state_dir.recovered.vectors
        self._vectors: dict[int, SparseVector] = state_dir.recovered.held  # journalled, not in the model yet
        self._region = Region(settings, state_dir.recovered.region, self._loop.time())
        self._tail, downlink = tail, settings.recipe.downlink
        self._follower = OfferedModel(downlink, self._state, tail) if isinstance(downlink, TopK) else None
        self._checkpointer = checkpointer
        self._outlet, self._observer = outlet, observer
        self._backlog, self._run_in_thread = backlog, run_in_thread
        self._wall_clock, self._toll = wall_clock, toll

        self._events: list[Event] = []
        self._arrived = asyncio.Event()
        self._answers: dict[int, asyncio.Future[Answer]] = {}
        self._keys = count(1)
        self._prepared: dict[int, Prepared] = {}  # by number: the publications of the group at hand
        self._offered: tuple[tuple[int, int | None], bytes] | None = None  # the last difference that was encoded
        self._working: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failed = self._cancelled = self._closing = False
        self._reports = Batch()  # telemetry and traffic, which wait for the next commit for a while
        self._reports_due_s, self._commits = 0.0, 0
        self._refused = self._region.refused_peers  # behind the commit, as the replicas are
        self._perform: dict[type[Any], Callable[[Any], None]] = {
            Apply: self._apply,
            ApplyBuffer: self._apply_buffer,
            DropHeld: self._drop_held,
            TakePeerModel: self._take_peer_model,
            Merge: self._merge,
            Publish: self._publish,
            SendToDevice: self._send_to_device,
            SendPublication: self._send_publication,
            SendToken: self._send_token,
            Reply: self._reply,
            Alarm: self._alarm,
            PeerAlarm: self._peer_alarm,
        }

    @classmethod
    def open(
        cls,
        config: CoordinatorConfig,
        bundle: BundleReference,
        initial: Float32,
        outlet: Outlet,
        observer: Observer | None = None,
        *,
        run_in_thread: RunInThread,
        wall_clock: Callable[[], float],
        rng: random.Random,
        tail: int,
        open_database: OpenDatabase = Database,
        toll: Toll | None = None,
        former: FormerLife = FormerLife(),  # noqa: B008 - immutable
    ) -> "Engine":
        """Open or create the state of a region, and bring it to memory as it was. Synchronous, in a running loop.

        Args:
            config: of the coordinator, its recipe read.
            bundle: of the task.
            initial: the model to start with, where there is no state yet; float32 of shape (size,).
            outlet: takes what leaves.
            observer: counts.
            run_in_thread: runs what waits for the disk.
            wall_clock: seconds since 1970, for stamps.
            rng: draws the lineage.
            tail: how many entries at the model's end are not trainable.
            open_database: the disk that the state is on.
            toll: what each change of the model takes beyond the real work; None: nothing.
            former: what the initial model comes with.

        Raises:
            ConfigError: the state is of another coordinator or another bundle.
            SchemaTooNewError: a newer Skerry wrote it.
            StorageError: it cannot be read or written, or another coordinator is running on it.
        """
        lineage = f"{config.region}/{rng.getrandbits(32):08x}"
        expected = RegionRow(config.name, config.region, bundle.sha256, lineage)
        state_dir = open_state(config.state_dir, expected, initial, wall_clock(), open_database, former)
        process = f"{rng.getrandbits(32):08x}"
        settings = RegionSettings.of(config, bundle, process=process, size=len(initial), tail=tail)
        checkpointer = Checkpointer(
            config.state_dir,
            config.checkpoints,
            state_dir.store.checkpoints(),
            run_in_thread,
            wall_clock,
            asyncio.get_running_loop().time(),
        )
        return cls(
            settings,
            state_dir,
            checkpointer,
            outlet,
            observer,
            backlog=Backlog(config.limits.commit_queue_updates_max, config.limits.commit_queue_bytes_max),
            run_in_thread=run_in_thread,
            wall_clock=wall_clock,
            tail=tail,
            toll=toll,
        )

    # --- what comes in ---

    def submit(self, event: Event) -> None:
        """Hand over what happened. Its effects follow when it is on disk."""
        self._backlog.add(event)
        self._events.append(event)
        self._arrived.set()

    async def ask(self, event: PeerModelArrived | TokenArrived | LedgerAsked | DeviceReleased | PeerAdmitted) -> Answer:
        """Hand over a peer's message, or an operator's wish; return the answer once what it promises is on disk.

        Raises:
            StorageError: it will never be.
        """
        key = next(self._keys)
        answer: asyncio.Future[Answer] = self._loop.create_future()
        if self._failed:
            raise StorageError("the coordinator is stopping: its disk refused a write")
        self._answers[key] = answer
        self.submit(replace(event, key=key))
        try:
            return await answer
        finally:
            self._answers.pop(key, None)

    async def room(self) -> None:
        """Wait while too much is on its way to the disk."""
        await self._backlog.room()

    # --- what can be asked ---

    @property
    def size(self) -> int:
        """Number of entries of the model."""
        return self._state.size

    @property
    def lineage(self) -> str:
        """The history that the model's versions count in."""
        return self._region.lineage

    @property
    def version(self) -> ModelVersion:
        """Of the model: everything in it is on disk."""
        return ModelVersion(self.lineage, self._state.version)

    @property
    def age(self) -> float:
        """Of the model."""
        return self._state.age

    def replica(self, of: str) -> Replica | None:
        """Return what peer `of` published last, as far as it is known here; not to be changed."""
        return self._state.replicas.get(of)

    def model(self, kind: Literal["regional", "federated"] = "regional") -> ModelSnapshot:
        """Copy a model as it is now."""
        state = self._state
        if kind == "regional":
            return ModelSnapshot(self.version, state.age, state.model.copy(), state.trained)
        replicas = state.replicas_of(set(self._settings.peers) - self._refused.keys())
        values = federated_model(state.model, state.age, replicas)
        return ModelSnapshot(self.version, state.age, values, state.trained or bool(replicas))

    def peer_status(self, bundle: str) -> PeerStatus:
        """Return what peers are told; `bundle` is its sha256."""
        return peer_status(self._settings, self._region, self._state, bundle)

    def status(self) -> EngineStatus:
        """Return the state in numbers."""
        return describe(
            self._region,
            self._state,
            cycle_s=self._region.planner.cycle_s(self._loop.time()),
            uncommitted_updates=self._backlog.updates,
            checkpoint_version=self._checkpointer.version,
            commits=self._commits,
        )

    # --- the life of a group ---

    async def run(self) -> None:
        """Work until cancelled; then `close`.

        Raises:
            StorageError: the disk refused a write. What was not acknowledged by then never will be.
        """
        self._schedule_tick()
        self._working = self._loop.create_task(self._work_on())
        try:
            # Cancelling must not tear a group apart: its write goes on in its thread whatever happens here.
            await asyncio.shield(self._working)
        except asyncio.CancelledError:
            self._cancelled = True
            self._arrived.set()
            raise
        except BaseException:
            self._failed = True
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(StorageError("the coordinator is stopping: its disk refused a write"))
            raise
        finally:
            self._stop_timer()

    async def close(self) -> None:
        """Bring everything that was submitted to disk, take a last checkpoint, close the state.

        Raises:
            StorageError: the disk refused.
        """
        self._closing = True
        try:
            if self._working is not None:
                await asyncio.wait([self._working])
                if not self._failed:
                    self._working.result()
            await self._checkpointer.settle()
            if not self._failed:
                await self._work()  # records a checkpoint that has just been written
                while self._events:
                    await self._work()
                if self._checkpointer.position != self._region.position:
                    self._start_checkpoint()
                    await self._checkpointer.settle()
                await self._work()
        finally:
            self._stop_timer()
            self._state_dir.close()

    async def _work_on(self) -> None:
        """Work on group after group, until `run` was cancelled and the group under way is done."""
        await self._arrived.wait()
        while not self._cancelled:
            await self._work()
            await self._arrived.wait()

    async def _work(self) -> None:
        """Handle what has arrived, bring it to disk, then perform it."""
        events, self._events = self._events[:GROUP_EVENTS_MAX], self._events[GROUP_EVENTS_MAX:]
        if not self._events:
            self._arrived.clear()
        if self._settings.recipe.federation.distance_max > 0.0:
            for place, event in enumerate(events):
                if isinstance(event, PeerModelArrived):
                    events[place] = await self._compute(partial(publications.measured, event, self._state))
        now_s = self._loop.time()
        effects: list[Effect] = []
        for event in events:
            effects += self._region.handle(event, now_s)
        group = collect(effects, self._region.ledger_entries, self._wall_clock())
        if (taken := self._checkpointer.finished()) is not None:
            group.batch.checkpoint, group.batch.cut = taken
        self._vectors |= group.vectors

        group.batch.add_reports(self._reports)
        written = group.publishes or group.batch.promises or now_s >= self._reports_due_s or self._closing
        if written and (group.publishes or group.batch):
            await self._run_in_thread(lambda: self._write(group))
            self._commits += 1
            self._reports_due_s = now_s + REPORTS_S
        self._reports = Batch() if written else group.batch
        for effect in effects:
            if isinstance(effect, OfferModel):
                await self._offer_model(effect)
            elif isinstance(effect, FollowModel):
                await self._follow_model()
            elif isinstance(effect, FindUpdate):
                self.submit(await self._run_in_thread(partial(found, self._state_dir.store, effect, self.size)))
            elif (perform := self._perform.get(type(effect))) is not None:
                if self._toll is not None and isinstance(effect, Apply | ApplyBuffer | Merge):
                    await self._toll(effect)
                perform(effect)
        self._prepared.clear()
        self._refused = self._region.refused_peers
        if group.batch.cut is not None:
            self._region.forget_before(group.batch.cut.version + 1)

        self._account(events, group, now_s)
        if self._closing:  # `close` takes the last checkpoint, and time passes no more
            return
        if self._checkpointer.due(self._state.version, self._region.position, now_s):
            self._start_checkpoint()
        self._schedule_tick()

    def _write(self, group: Group) -> None:
        """Write a group to disk. Runs in a thread; the event loop leaves the vectors alone meanwhile."""
        if group.publishes:
            prepared = publications.prepare(group, self._state.copy(), self._vectors, self._difference, self.lineage)
            self._prepared = {one.publication.number: one for one in prepared}
            at_s = self._wall_clock()
            group.batch.publications += publications.rows(group, prepared, self._settings.name, at_s)
        store = self._state_dir.store
        store.write(group.batch)
        if group.batch.cut is not None:
            self._checkpointer.remove(group.batch.cut.checkpoints)

    def _difference(self, state: ModelState) -> bytes:
        federation = self._settings.recipe.federation
        assert not isinstance(federation, NoFederation), "it never publishes"
        return state.difference_to_publish(federation.density, federation.values.beside(self._tail))

    def _account(self, events: Sequence[Event], group: Group, started_s: float) -> None:
        updates = self._backlog.remove(events)
        if self._observer is not None and updates:
            self._observer.committed(self._loop.time() - started_s, updates)
            for row in group.batch.journal:
                if row.kind in {"update", "model"}:
                    self._observer.update_applied(row.staleness)

    def _start_checkpoint(self) -> None:
        checkpoint = Checkpoint(self.lineage, self._region.position, self._state.copy())
        self._checkpointer.start(checkpoint, self._loop.time(), self._arrived.set)

    def _schedule_tick(self) -> None:
        """Have time pass for the region after a second, or sooner if the federation wants it."""
        now_s = self._loop.time()
        at_s = now_s + TICK_S
        if (wake_at_s := self._region.wake_at_s) is not None:
            at_s = min(at_s, max(wake_at_s, now_s + TICK_MIN_S))
        if self._timer is not None and not self._timer.cancelled() and now_s < self._timer.when() <= at_s:
            return
        self._stop_timer()
        self._timer = self._loop.call_at(at_s, self.submit, Tick())

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    # --- effects that change the vectors ---

    def _apply(self, effect: Apply) -> None:
        vector = self._vectors.pop(effect.position)
        self._state.apply(vector, effect.weight, effect.version, effect.age, whole=effect.whole)

    def _apply_buffer(self, effect: ApplyBuffer) -> None:
        updates = buffered(effect.members, self._vectors.pop)
        self._state.apply_buffer(updates, effect.trim, effect.version, effect.age)

    def _drop_held(self, effect: DropHeld) -> None:
        del self._vectors[effect.position]

    def _take_peer_model(self, effect: TakePeerModel) -> None:
        message = effect.arrived.message
        self._state.take_peer_model(message.coordinator, publication_of(message), effect.arrived.values)

    def _merge(self, effect: Merge) -> None:
        self._state.merge(effect.peer, effect.weight, effect.version, effect.age, effect.entries)

    def _publish(self, effect: Publish) -> None:
        prepared = self._prepared[effect.number]
        self._state.publish(prepared.publication, prepared.values)

    # --- effects that leave ---

    def _send_to_device(self, effect: SendToDevice) -> None:
        self._outlet.send_to_device(effect.device, effect.message)

    async def _offer_model(self, effect: OfferModel) -> None:
        """Encode what a device lacks, and give the event loop a turn: a region's devices may all come back at once."""
        base = None if effect.base is None else ModelVersion(self.lineage, effect.base)
        offered = self._follower or self._state
        which = offered.version, effect.base
        if self._offered is None or self._offered[0] != which:  # many devices may come for the same one
            self._offered = which, await self._compute(partial(offered.changes_since, effect.base))
            await asyncio.sleep(0)
        version = ModelVersion(self.lineage, offered.version)
        self._outlet.offer_model(effect.device, version, base, offered.age, self._offered[1])

    async def _follow_model(self) -> None:
        assert self._follower is not None, "only the downlink `top_k` has a model that follows"
        await self._compute(partial(self._follower.follow, self._state))

    async def _compute(self, work: Callable[[], T]) -> T:
        """Return what `work` does; where the model is large, in a thread."""
        return await self._run_in_thread(work) if self._state.size > COMPUTE_INLINE_ENTRIES_MAX else work()

    def _send_publication(self, effect: SendPublication) -> None:
        published = self._state.published
        assert published is not None
        prepared = None if effect.whole else self._prepared[published.number]
        message = publications.message_of(self._settings.name, published, prepared)
        for peer in effect.peers:
            self._outlet.send_to_peer(peer, message)

    def _alarm(self, effect: Alarm) -> None:
        log.warning("device %s: %s", effect.device, effect.detail)

    def _peer_alarm(self, effect: PeerAlarm) -> None:
        log.warning("peer %s: %s", effect.peer, effect.detail)

    def _send_token(self, effect: SendToken) -> None:
        self._outlet.send_to_peer(effect.to, effect.message)

    def _reply(self, effect: Reply) -> None:
        answer = self._answers.get(effect.key)
        if answer is not None and not answer.done():  # whoever asked may have gone
            answer.set_result(effect.message)
