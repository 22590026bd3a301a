"""Performs what the device's core asks for, in order. The only place that holds arrays: model, outbox, running cycle.

Effects run one after another in one task, arithmetic on whole vectors in a worker thread meanwhile; so nothing else
touches the residual while an update is taken out of it or returns to it. Disk writes have a queue of their own, in the
same order: what is on disk is always what memory once was.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING
from zlib import crc32

from edge_agent.backoff import Backoff
from edge_agent.board_watch import BoardWatch
from edge_agent.bundle_file import BundleFiles
from edge_agent.calibration import DutyCycle
from edge_agent.device import Device
from edge_agent.disk import DiskQueue, ModelWear, ResidualWear
from edge_agent.events import (
    AdoptTask,
    BundleOpened,
    Calibrate,
    Calibrated,
    ContinueAfter,
    CycleFinished,
    CycleStarted,
    DropUnsent,
    Effect,
    Event,
    FetchBundle,
    ModelRefused,
    Reconnect,
    SaveModel,
    SaveTask,
    Send,
    SendTelemetry,
    SendUpdate,
    SetLearningRate,
    SetModel,
    SetPace,
    SettleUpdate,
    StartCycle,
    StopCycle,
    StoreUpdate,
    TakeDifference,
    TaskUnfit,
    UpdateStored,
)
from edge_agent.held_out import HeldOutScores
from edge_agent.local_cycle import LocalCycle, Mailbox, RegionalModel
from edge_agent.local_use import LocalUse
from edge_agent.outbox import Outbox, Update
from edge_agent.store import Store, Stored, StoredModel
from edge_agent.stream import Connection, Stream
from edge_agent.task import OpenTask
from edge_agent.threads import RunInThread, TrainingRunner
from edge_agent.vitals import ThisProcess
from skerry.errors import DataError, StateDamagedError, StorageError
from skerry.protocol import sparse
from skerry.protocol.errors import MalformedVector
from skerry.protocol.messages import BundleReference, ModelVersion, Telemetry
from skerry.tasks.bundle import Bundle
from skerry.training.local_run import LocalRun
from skerry.vector import Float32

if TYPE_CHECKING:
    from numpy.random import Generator

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Surroundings:
    """The shells that effects act on."""

    store: Store
    bundles: BundleFiles
    training: TrainingRunner
    run_in_thread: RunInThread
    watch: BoardWatch
    process: ThisProcess
    open_task: Callable[[Bundle], OpenTask]
    retries: Callable[[], Backoff]  # of a task that cannot be opened
    local_use: LocalUse
    new_generator: "Callable[[], Generator]"  # of noise that protects data
    tasks: asyncio.TaskGroup  # an error in one of them ends the agent


class Performer:
    """The device's body; `device` is its mind."""

    def __init__(
        self,
        device: Device,
        stored: Stored,
        surroundings: Surroundings,
        wear: ResidualWear,
        duty: DutyCycle,
        calibration_steps: int,
    ) -> None:
        self.device = device
        self.stream: Stream | None = None  # set by `attach`
        self._store, self._bundles = surroundings.store, surroundings.bundles
        self._training, self._run_in_thread = surroundings.training, surroundings.run_in_thread
        self._watch, self._process = surroundings.watch, surroundings.process
        self._open_task, self._tasks = surroundings.open_task, surroundings.tasks
        self._retries = surroundings.retries
        self._local_use = surroundings.local_use
        self._wear, self._duty, self._calibration_steps = wear, duty, calibration_steps
        self._clock = asyncio.get_running_loop().time
        # Each with the stream that stood when it was decided: nothing is said on another, however long it waited.
        self._effects: asyncio.Queue[tuple[Effect, Connection | None]] = asyncio.Queue()
        self._disk = DiskQueue(surroundings.run_in_thread)
        self._fetching: asyncio.Task[None] | None = None
        self._task: OpenTask | None = None
        self._outbox = _restore(stored)
        self._model = None if stored.model is None else _regional(stored.model)
        self._mailbox = Mailbox()  # of the newest cycle
        self._calibration = Mailbox()  # of the newest calibration
        self._model_wear = ModelWear()
        self.spent = dict(stored.spent)  # updates by noise multiplier
        self._noise: dict[int, float] = {}  # noise multiplier of the updates that are about to be stored
        self._generator = cache(surroundings.new_generator)

    def attach(self, stream: Stream) -> None:
        """Give it the stream that it sends on."""
        self.stream = stream

    def submit_write(self, write: Callable[[], None]) -> None:
        """Ask for a write behind those asked for so far."""
        self._disk.submit(write)

    def report(self, event: Event) -> None:
        """Tell the core what happened; its effects come to pass in their turn."""
        self._ask(self.device.handle(event, self._clock()))

    async def run(self) -> None:
        """Perform effects until cancelled.

        Raises:
            StorageError: the disk refused a write.
        """
        self._tasks.create_task(self._disk.run())
        self._ask(self.device.start())
        while True:
            await self._perform(*await self._effects.get())

    def save_model(self) -> None:
        """Write down what waits for the disk, then the model: the last thing before a stop in good order."""
        self._disk.finish()  # the model may be of a task that is not written down yet
        if self._model is not None:
            self._store.save_model(_stored(self._model))

    def _ask(self, effects: list[Effect]) -> None:
        connection = None if self.stream is None else self.stream.connection
        for effect in effects:
            self._effects.put_nowait((effect, connection))

    async def _perform(self, effect: Effect, connection: Connection | None) -> None:
        match effect:
            case Send() | SendUpdate() | SendTelemetry() | Reconnect():
                if connection is not None:
                    self._say(effect, connection)
            case FetchBundle(bundle):
                if self._fetching is not None:
                    self._fetching.cancel()
                self._fetching = self._tasks.create_task(self._fetch(bundle))
            case AdoptTask(welcome, moves):
                self._task = self._outbox = self._model = None
                self._mailbox = Mailbox()
                self._wear.forget()
                self._local_use.task_left()
                self._disk.submit(lambda: self._store.adopt_task(welcome, moves))
            case SaveTask(welcome, moves):
                self._disk.submit(lambda: self._store.save_task(welcome, moves))
            case DropUnsent(welcome, moves):
                if self._outbox is not None:
                    unsent = len(self._outbox.waiting)
                    why = "their model was given up" if welcome.base_given_up else "the recipe protects more"
                    log.warning("%s: %d updates and the residual of before are dropped", why, unsent)
                    self._outbox.drop()
                self._disk.submit(lambda: self._store.drop_unsent(welcome, moves))
            case ContinueAfter(sequence):
                self._disk.submit(lambda: self._store.continue_after(sequence))
            case SetModel():
                await self._set_model(effect)
            case SaveModel(first):
                if first or self._model_wear.due(sparing=self._watch.flash.sparing):
                    self._write_model()
            case Calibrate():
                assert self._task is not None
                self._calibration = Mailbox()
                self._tasks.create_task(self._calibrate(self._task, self._calibration))
            case StartCycle():
                self._start_cycle(effect)
            case SetLearningRate(learning_rate):
                self._mailbox.learning_rate = learning_rate
            case StopCycle():
                self._mailbox.ending = self._calibration.ending = True  # also of what has not begun yet
                self._training.stop()
            case SetPace(pace):
                self._duty.slow = pace == "slow"
                self._local_use.paused = pace == "pause"
                if pace == "pause":
                    self._mailbox.ending = self._calibration.ending = True
            case TakeDifference():
                await self._take_difference(effect)
            case StoreUpdate(sequence):
                self._store_update(sequence)
            case SettleUpdate(sequence):
                if connection is not None:
                    connection.drop_update(sequence)
                await self._settle(effect)

    def _say(self, effect: Send | SendUpdate | SendTelemetry | Reconnect, connection: Connection) -> None:
        match effect:
            case Send(message):
                connection.send(message)
            case SendUpdate(sequence, part_bytes, first_part, moves, abroad):
                if self._outbox is not None and sequence in self._outbox.waiting:
                    update = self._outbox.waiting[sequence]
                    connection.send_update(update, part_bytes, first_part, moves=moves, abroad=abroad)
            case SendTelemetry():
                connection.send(self._telemetry(effect))
            case Reconnect(reason, wait_s, hopeless):
                connection.leave(reason, wait_s=wait_s, hopeless=hopeless)

    # --- task and model ---

    async def _fetch(self, wanted: BundleReference) -> None:
        bundle, task = await self._open_until_it_fits(wanted)
        size = task.layout.size
        if self._outbox is None:
            self._outbox = Outbox(size)
        kept = [self._outbox.residual] + ([] if self._model is None else [self._model.parameters])
        if any(len(vector) != size for vector in kept):
            raise StorageError(f"the stored model has another size than bundle {wanted.sha256}: move the state away")
        self._task = task
        self._local_use.task_opened(task, self._model)
        log.info("task %s: %d parameters, %d examples", bundle.manifest.name, size, task.examples)
        if task.shortcoming:
            log.warning(task.shortcoming)
        self.report(BundleOpened(wanted.sha256, task.shortcoming))

    async def _open_until_it_fits(self, wanted: BundleReference) -> tuple[Bundle, OpenTask]:
        """Try until bundle and data suit each other: the device is not to be visited for a coordinator's mistake."""
        retries = self._retries()
        while True:
            try:
                return await self._open(wanted)
            except DataError as error:
                wait_s = retries.failed()
                log.warning("this device cannot train the task: %s; next attempt in %.0f s", error, wait_s)
                self.report(TaskUnfit(wanted.sha256, str(error)))
                await asyncio.sleep(wait_s)

    async def _open(self, wanted: BundleReference) -> tuple[Bundle, OpenTask]:
        assert self.stream is not None
        stream = self.stream
        bundle = await self._bundles.get(wanted, lambda: stream.url, self.device.note_error)
        return bundle, await self._run_in_thread(lambda: self._open_task(bundle))

    async def _set_model(self, effect: SetModel) -> None:
        held = self._model
        if self._task is None or (effect.base is not None and (held is None or held.version != effect.base)):
            return  # of a task that was left, or behind a model that was refused
        start = None if effect.base is None or held is None else held.parameters
        size = self._task.layout.size
        try:
            parameters = await self._run_in_thread(lambda: _patched(start, effect.payload, size))
        except MalformedVector as error:
            self.report(ModelRefused(None if held is None else held.version, str(error)))
            return
        self._model = RegionalModel(effect.version, parameters, effect.age)
        self._mailbox.put(self._model)
        self._local_use.model_changed(self._model)

    def _write_model(self) -> None:
        model = self._model
        if model is not None:
            self._disk.submit(lambda: self._store.save_model(_stored(model)))

    # --- training ---

    async def _calibrate(self, task: OpenTask, mailbox: Mailbox) -> None:
        run = self._local_run(task, task.initial, task.learning_rate, uploads=0, first_step=0)
        cycle = LocalCycle(
            run,
            2 * self._calibration_steps,
            None,
            mailbox,
            self._duty,
            self._clock,
            self._training.computed_s,
        )
        if await self._training.run(cycle.pauses()):
            timed = cycle.seconds[self._calibration_steps :] or cycle.seconds[-1:]  # a pause came early
            self.report(Calibrated(task.sha256, timed))

    def _start_cycle(self, effect: StartCycle) -> None:
        if self._task is None or self._model is None:
            return  # of a task that was left
        run = self._local_run(
            self._task, self._model.parameters, effect.learning_rate, effect.uploads, effect.first_step
        )
        self._mailbox = Mailbox()
        cycle = LocalCycle(
            run,
            effect.steps,
            self._model.version,
            self._mailbox,
            self._duty,
            self._clock,
            self._training.computed_s,
            self._model.age,
        )
        self._tasks.create_task(self._train(effect.cycle, cycle, self._task.examples))

    def _local_run(
        self, task: OpenTask, start: Float32, learning_rate: float, uploads: int, first_step: int
    ) -> LocalRun:
        assert self._outbox is not None
        stages = self.device.stages
        return LocalRun(
            task.trainer,
            task.batches,
            optimizer=stages.optimizer,
            uplink=stages.uplink,
            merge=stages.merge,
            start=start,
            residual=self._outbox.residual,
            learning_rate=learning_rate,
            uploads=uploads,
            schedule=stages.schedule,
            first_step=first_step,
        )

    async def _train(self, number: int, cycle: LocalCycle, examples: int) -> None:
        self.report(CycleStarted(number))
        if not await self._training.run(cycle.pauses()):
            return
        assert isinstance(cycle.base, ModelVersion)
        difference = await self._run_in_thread(cycle.difference)
        finite = cycle.is_finite(difference)
        if not self._mailbox.ending:  # for a pause: own head and evaluation rest, too
            self._local_use.cycle_finished()
        self.report(
            CycleFinished(
                number,
                cycle.base,
                cycle.loss,
                examples,
                cycle.seconds,
                cycle.learning_rate,
                difference,
                finite,
                cycle.base_age,
            )
        )

    # --- outbox ---

    async def _take_difference(self, effect: TakeDifference) -> None:
        outbox, task = self._outbox, self._task
        if outbox is None or task is None:
            return  # of a task that was left
        finished = effect.finished
        uplink, privacy, layout = self.device.stages.uplink, self.device.stages.privacy, task.layout
        update = Update(
            sequence=effect.sequence,
            base=finished.base,
            steps=len(finished.seconds),
            examples=finished.examples,
            loss=0.0 if privacy.noise_multiplier else finished.loss,  # which tells of the data, and has no noise
            seconds_per_step=effect.seconds_per_step,
            learning_rate=finished.learning_rate,
            payload=b"",
            event=0,
            whole=uplink.whole,
            base_age=finished.base_age,
        )
        learned = finished.difference if task.alter is None else task.alter(finished.difference)
        generator = self._generator
        self._noise[effect.sequence] = privacy.noise_multiplier
        await self._run_in_thread(lambda: outbox.take(update, privacy.protect(learned, generator), uplink, layout))

    def _store_update(self, sequence: int) -> None:
        if self._outbox is None or sequence not in self._outbox.waiting:
            return  # of a task that was left
        update, residual = self._outbox.waiting[sequence], self._outbox.residual
        sparing = self._watch.flash.sparing
        due = self._wear.due(residual.nbytes, len(update.payload), self._clock(), sparing=sparing)
        stored = UpdateStored(sequence, len(update.payload), crc32(update.payload), update.base.lineage)
        spends = self._spend(self._noise.pop(sequence))
        self._disk.submit(
            lambda: self._store.put_update(update, residual if due else None, spends), lambda: self.report(stored)
        )

    def _spend(self, noise_multiplier: float) -> float | None:
        """Count an update; return what to count it under on disk. Without noise only the first is: it gets no worse."""
        if noise_multiplier == 0.0 and 0.0 in self.spent:
            return None
        self.spent[noise_multiplier] = self.spent.get(noise_multiplier, 0) + 1
        return noise_multiplier

    async def _settle(self, effect: SettleUpdate) -> None:
        outbox = self._outbox
        if outbox is None or effect.sequence not in outbox.waiting:
            return  # of a task that was left
        settled = await self._run_in_thread(lambda: outbox.settle(effect.sequence, effect.weight))
        self._disk.submit(lambda: self._store.settle(settled, accepted=effect.accepted))

    def _telemetry(self, effect: SendTelemetry) -> Telemetry:
        assert self.stream is not None
        progress = effect.progress
        private = self.device.stages.privacy.noise_multiplier > 0.0
        scores = HeldOutScores() if private else self._local_use.scores  # which tell of the data, and have no noise
        return Telemetry(
            uptime_s=progress.uptime_s,
            training_s=progress.training_s,
            idle_s=progress.idle_s,
            cycles=progress.cycles,
            steps=progress.steps,
            seconds_per_step=progress.seconds_per_step or 0.0,
            resident_bytes=self._process.resident_bytes(),
            sent_bytes=self.stream.traffic.sent_bytes,
            received_bytes=self.stream.traffic.received_bytes,
            outbox_updates=progress.outbox_updates,
            temperature_c=self._watch.temperature_c,
            pace=progress.decision.pace,
            reasons=progress.decision.reasons,
            written_bytes=self._watch.flash.written_bytes or 0,
            held_out_examples=scores.regional.examples,
            held_out_correct=scores.reported_correct,
            held_out_loss_sum=scores.regional.reported_loss_sum,
            personal_correct=scores.reported_personal_correct,
            held_out_version=None if scores.version is None else scores.version.number,
        )


def _regional(stored: StoredModel) -> RegionalModel:
    return RegionalModel(stored.version, stored.parameters, stored.age)


def _stored(model: RegionalModel) -> StoredModel:
    return StoredModel(model.version, model.parameters, model.age)


def _restore(stored: Stored) -> Outbox | None:
    """Return the outbox as it was, None where nothing was ever in it: the first update brings a residual along."""
    if stored.residual is None:
        return None
    outbox = Outbox(len(stored.residual), stored.events, stored.residual, stored.residual_learning_rate)
    try:
        outbox.replay(stored.updates, after=stored.residual_event)
    except MalformedVector as error:
        raise StateDamagedError(
            f"the stored outbox is damaged: {error}; move the state away to start afresh"
        ) from error
    return outbox


def _patched(start: Float32 | None, payload: bytes, size: int) -> Float32:
    """Return `start`, None being zeros, with the values in `payload` set.

    Raises:
        MalformedVector: they are no sparse vector of that size.
    """
    values = sparse.decode(payload, size=size)
    if start is None:
        return values.dense()
    patched = start.copy()
    values.set_in(patched)
    return patched
