"""The agent, put together: every part is built here by hand, started, and stopped in order."""

import asyncio
import fcntl
import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import tzinfo
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from edge_agent import reload, status
from edge_agent.board import Board
from edge_agent.board_watch import BoardWatch
from edge_agent.bundle_file import FOLDER as BUNDLE_FOLDER
from edge_agent.bundle_file import BundleFiles, new_backoff
from edge_agent.calibration import DutyCycle
from edge_agent.config import AgentConfig, with_profile
from edge_agent.credentials import Credentials, credentials_of, keep
from edge_agent.device import Device
from edge_agent.device_setup import Bounds, Identity, Memory
from edge_agent.disk import ResidualWear
from edge_agent.events import Tick
from edge_agent.flash import FlashBudget
from edge_agent.local_use import LocalUse, Shells
from edge_agent.performer import Performer, Surroundings
from edge_agent.store import FILE_NAME, Store, Stored, StoredHead
from edge_agent.stream import Stream, StreamLimits
from edge_agent.task import OpenTask, open_task
from edge_agent.threads import NICEST, RunInThread, TrainingRunner, TrainingThread, WorkThreads, in_nicer_thread
from edge_agent.vitals import ThisProcess
from skerry import __version__
from skerry.database import Database, OpenDatabase
from skerry.disk_remedy import disk_remedy
from skerry.errors import ConfigError, SkerryError, StorageError
from skerry.exposure import check_url
from skerry.reload import Differences, Reloads, follow
from skerry.service_manager import ServiceManager
from skerry.tasks.bundle import Bundle
from skerry.tasks.data import check_source
from skerry.under_way import UnderWay

if TYPE_CHECKING:
    import aiohttp
    from numpy.random import Generator

    from edge_agent.inference import Inference

TICK_S = 1.0
UNFIT_TIMES = 20.0  # a task that cannot be opened is tried so much less often than a coordinator that is away

log = logging.getLogger(__name__)


class _Stopped(Exception):  # noqa: N818 - no error
    """Somebody asked for a stop."""


async def run(
    config: AgentConfig,
    stop: asyncio.Event,
    *,
    connector: "Callable[[], aiohttp.BaseConnector] | None" = None,
    run_in_thread: RunInThread | None = None,
    training: TrainingRunner | None = None,
    rng: random.Random | None = None,
    wall_clock: Callable[[], float] = time.time,
    time_zone: tzinfo | None = None,
    board: Board | None = None,
    process: ThisProcess | None = None,
    open_database: OpenDatabase = Database,
    open_task: Callable[[Bundle, AgentConfig], OpenTask] | None = None,
    manager: ServiceManager | None = None,
    reloads: Reloads[AgentConfig] | None = None,
) -> None:
    """Run the agent until `stop` is set.

    What is on disk is complete at every moment; the cycle under way is forgotten. The loop's time is the agent's clock.
    Everything else of the world comes in by these parameters, so that a simulation can bring its own; None, or what
    stands there, is this machine's.

    Args:
        config: of this agent.
        stop: set it to stop the agent in good order.
        connector: makes the network that it connects by.
        run_in_thread: runs short work; predictions aside, which have threads of their own.
        training: runs local steps.
        rng: jitter, and the order of examples where the configuration gives no seed.
        wall_clock: Unix time, for stamps and quiet hours.
        time_zone: of quiet hours; None: the system's.
        board: the machine that the policy looks at.
        process: what the agent says of its own process.
        open_database: the disk that its state is on.
        open_task: loads engine and data, in a thread of `run_in_thread`.
        manager: is told how the agent is doing, and ends it where it hangs.
        reloads: when to read the configuration again, and how; None: never.

    Raises:
        StorageError: the disk refused a read or a write.
        DataError: the data set that the configuration names is not there, or no source of data is meant.
        ConfigError: another agent uses this state_dir.
    """
    process = process or ThisProcess()
    rng = rng or random.Random()  # noqa: S311 - no secret
    config = _with_seed(config, rng)
    under_way = UnderWay(asyncio.get_running_loop().time, config.limits.hang_s)
    work = WorkThreads(under_way=under_way) if run_in_thread is None else None
    thread = TrainingThread(config.training.nicer, under_way) if training is None else None
    side = WorkThreads(1, "skerry-side", NICEST, under_way) if run_in_thread is None else None
    _make_folders(config)
    try:
        with _only_agent(config.state_dir), _last_words(config, process, wall_clock):
            check_source(config.data.source, config.data.dir)  # the rest waits for the task
            store = Store(config.state_dir / FILE_NAME, open_database=open_database)
            try:
                for loss in store.repair():
                    log.warning("%s", loss)
                watch = BoardWatch(
                    config.policy,
                    board or Board(),
                    FlashBudget(with_profile(config).flash_bytes_per_hour),
                    config.state_dir,
                    wall_clock,
                    time_zone,
                )
                opener = open_task or _open_in_nicer_thread
                supervision = _Supervision(manager or ServiceManager(), under_way, reloads)
                credentials = credentials_of(config, wall_clock) if connector is None else None
                connector = connector if credentials is None else credentials.connector
                machine = _Machine(connector, credentials, rng, wall_clock, process, watch, opener, supervision)
                agent = _Agent(config, store, machine)
                try:
                    await agent.run(stop, work or run_in_thread, thread or training, side or run_in_thread)
                finally:
                    if thread is not None:
                        thread.close()
                    if side is not None:
                        side.close()
                    if work is not None:
                        work.close()  # a write that is under way ends first: the database takes one at a time
                agent.save_model()
            finally:
                store.close()
    finally:
        log.info("stopped")


@dataclass(frozen=True, slots=True, eq=False)
class _Supervision:
    """Who looks after the agent's process, see `run`."""

    manager: ServiceManager
    under_way: UnderWay
    reloads: Reloads[AgentConfig] | None


@dataclass(frozen=True, slots=True, eq=False)
class _Machine:
    """What is beneath the agent, see `run`."""

    connector: "Callable[[], aiohttp.BaseConnector] | None"
    credentials: Credentials | None
    rng: random.Random
    wall_clock: Callable[[], float]
    process: ThisProcess
    watch: BoardWatch
    open_task: Callable[[Bundle, AgentConfig], OpenTask]
    supervision: _Supervision


def _with_seed(config: AgentConfig, rng: random.Random) -> AgentConfig:
    if config.training.seed is not None:
        return config
    return replace(config, training=replace(config.training, seed=rng.getrandbits(32)))


def _open_in_nicer_thread(bundle: Bundle, config: AgentConfig) -> OpenTask:
    return in_nicer_thread(lambda: open_task(bundle, config), config.training.nicer)


class _Agent:
    """The parts, and how they are joined."""

    def __init__(self, config: AgentConfig, store: Store, machine: _Machine) -> None:
        self._config, self._store, self._machine, self._watch = config, store, machine, machine.watch
        self._performer: Performer | None = None
        self._local_use: LocalUse | None = None

    async def run(
        self,
        stop: asyncio.Event,
        run_in_thread: RunInThread | None,
        training: TrainingRunner | None,
        in_side_thread: RunInThread | None,
    ) -> None:
        """Run all parts until `stop`, or until one of them fails."""
        assert run_in_thread is not None
        assert in_side_thread is not None
        assert training is not None
        config, limits, in_force = self._config, self._config.limits, with_profile(self._config)
        stored = self._store.load()
        device = self._device(stored)
        supervision = self._machine.supervision
        duty = DutyCycle(config.training.duty_cycle, config.policy.slow_duty_cycle)
        bundles = BundleFiles(
            config.state_dir / BUNDLE_FOLDER,
            in_force.bundle_bytes_max,
            limits.progress_timeout_s,
            new_backoff(limits.reconnect_min_s, limits.reconnect_max_s, self._machine.rng),
            run_in_thread,
            self._machine.connector,
        )
        inference, predicting = _inference(config)
        shells = Shells(
            in_side_thread,
            self._submit_head,
            lambda: self._watch.flash.sparing,
            asyncio.get_running_loop().time,
            self._machine.wall_clock,
        )
        self._local_use = local_use = LocalUse(config.held_out, config.personal, inference, shells, stored.head)
        stream: Stream | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                surroundings = Surroundings(
                    self._store,
                    bundles,
                    training,
                    run_in_thread,
                    self._watch,
                    self._machine.process,
                    self._open_task,
                    new_backoff(limits.reconnect_max_s, UNFIT_TIMES * limits.reconnect_max_s, self._machine.rng),
                    local_use,
                    lambda: _new_generator(self._machine.rng),
                    tasks,
                )
                self._performer = performer = Performer(
                    device,
                    stored,
                    surroundings,
                    ResidualWear(in_force.residual_bytes_per_s),
                    duty,
                    config.training.calibration_steps,
                )
                stream = self._stream(performer, stored)
                performer.attach(stream)
                tasks.create_task(performer.run())
                tasks.create_task(_converse(stream, run_in_thread))
                tasks.create_task(keep(self._machine.credentials, lambda: stream.urls, self._machine.rng))
                tasks.create_task(local_use.run())
                if inference is not None:
                    tasks.create_task(_answer(inference, local_use, config, run_in_thread))
                traffic = stream.traffic
                tasks.create_task(self._watch.run(performer.report, run_in_thread, traffic.upload_bytes_per_s))
                tasks.create_task(_every(TICK_S, lambda: performer.report(Tick())))
                tasks.create_task(_every(limits.status_s, lambda: self._write_status(device, stream)))
                tasks.create_task(_raise_on(stop))
                tasks.create_task(supervision.manager.keep(supervision.under_way))
                if supervision.reloads is not None:
                    taking = partial(self._take, duty)
                    tasks.create_task(follow(supervision.reloads, supervision.manager, taking))
                supervision.manager.ready(f"device {config.device}")
        except BaseExceptionGroup as group:
            cause = _cause(group)
            if isinstance(cause, SkerryError):
                raise cause from None
            if not isinstance(cause, _Stopped):
                raise  # a defect, with all that it ended
        finally:
            supervision.manager.stopping()
            training.stop()
            if predicting is not None:
                predicting.close()
            if stream is not None:
                self._write_status(device, stream, running=False)

    def _take(self, duty: DutyCycle, config: AgentConfig) -> Differences:
        """Take what can be taken of another configuration without a restart."""
        self._config, differences = reload.taken(self._config, config)
        duty.set(self._config.training.duty_cycle, self._config.policy.slow_duty_cycle)
        self._watch.follow(self._config.policy)
        return differences

    def save_model(self) -> None:
        """Write the model down, and the own head: the last thing before a stop in good order."""
        if self._performer is not None:
            self._performer.save_model()
        head = None if self._local_use is None else self._local_use.head_to_save()
        if head is not None:
            self._store.save_head(head)

    def _open_task(self, bundle: Bundle) -> OpenTask:
        return self._machine.open_task(bundle, self._config)

    def _submit_head(self, head: StoredHead) -> None:
        assert self._performer is not None
        self._performer.submit_write(lambda: self._store.save_head(head))

    def _device(self, stored: Stored) -> Device:
        config = self._config
        return Device(
            Identity(config.device, __version__, config.profile),
            Bounds.of(config),
            Memory.of(stored),
            asyncio.get_running_loop().time(),
        )

    def _stream(self, performer: Performer, stored: Stored) -> Stream:
        limits = self._config.limits
        stream = Stream(
            self._config.coordinators,
            StreamLimits(
                limits.reconnect_min_s,
                limits.reconnect_max_s,
                limits.heartbeat_s,
                limits.progress_timeout_s,
                limits.probe_s,
            ),
            self._machine.rng,
            performer.report,
            self._machine.connector,
            self._may_go_to,
        )
        if stored.welcome is not None:
            stream.learn(stored.welcome.coordinators)
        return stream

    def _may_go_to(self, url: str) -> bool:
        """Say whether to use a coordinator that another one named."""
        try:
            check_url(url, insecure=self._config.insecure, beyond_loopback=self._config.insecure_beyond_loopback)
        except ConfigError as error:
            log.warning("a coordinator names another one: %s", error)
            return False
        return self._config.roam

    def _write_status(self, device: Device, stream: Stream, *, running: bool = True) -> None:
        process = self._machine.process
        progress = device.progress(asyncio.get_running_loop().time())
        assert self._local_use is not None
        scores = self._local_use.scores
        regional, personal = scores.regional, scores.personal
        status.write(
            self._config.runtime_dir or self._config.state_dir,
            status.Status(
                device=self._config.device,
                region=device.region,
                connected=device.connected and running,
                base=device.model,
                sent_bytes=stream.traffic.sent_bytes,
                received_bytes=stream.traffic.received_bytes,
                resident_bytes=process.resident_bytes(),
                written_bytes=self._watch.flash.written_bytes,
                written_bytes_last_hour=self._watch.flash.last_hour_bytes,
                flash_bytes_per_hour=self._watch.flash.bytes_per_hour,
                flash_left=self._watch.flash.left,
                policy_enabled=self._config.policy.enabled,
                temperature_c=self._watch.temperature_c,
                pid=process.pid,
                process_started_at_s=process.started_at_s,
                privacy_spent={} if self._performer is None else dict(self._performer.spent),
                written_at_s=self._machine.wall_clock(),
                running=running,
                uptime_s=progress.uptime_s,
                training_s=progress.training_s,
                idle_s=progress.idle_s,
                idle_share=progress.idle_s / progress.uptime_s if progress.uptime_s > 0.0 else 0.0,
                paused_s=progress.paused_s,
                pace=progress.decision.pace,
                reasons=progress.decision.reasons,
                cycles=progress.cycles,
                steps=progress.steps,
                steps_per_cycle=progress.steps_per_cycle,
                seconds_per_step=progress.seconds_per_step,
                outbox_updates=progress.outbox_updates,
                outbox_updates_max=self._config.limits.outbox_updates_max,
                rejected=progress.rejected,
                recipe=None if device.learning_rate is None else device.stages,
                learning_rate=device.learning_rate,
                held_out_examples=regional.examples,
                held_out_correct=regional.correct,
                held_out_loss_sum=regional.reported_loss_sum,
                held_out_version=scores.version,
                personal_correct=None if personal is None else personal.correct,
                personal_loss_sum=None if personal is None else personal.reported_loss_sum,
                last_loss=progress.last_loss,
                last_error=progress.last_error,
            ),
        )


async def _converse(stream: Stream, run_in_thread: RunInThread) -> None:
    """Run the stream. aiohttp takes long to import: meanwhile what is on disk is opened, and trained on."""
    await run_in_thread(lambda: import_module("aiohttp"))
    await stream.run()


def _new_generator(rng: random.Random) -> "Generator":
    """Return where noise is drawn from. Brings in 3 MB that devices without it do without."""
    from numpy.random import PCG64, Generator

    return Generator(PCG64(rng.getrandbits(128)))


def _inference(config: AgentConfig) -> "tuple[Inference, WorkThreads] | tuple[None, None]":
    limits = config.inference
    if not limits.enabled:
        return None, None
    from edge_agent.inference import Inference

    predicting = WorkThreads(limits.concurrent_max, "skerry-predictions")
    inference = Inference(
        predicting,
        examples_max=limits.examples_max,
        concurrent_max=limits.concurrent_max,
        queue_max=limits.queue_max,
        timeout_s=limits.timeout_s,
    )
    return inference, predicting


async def _answer(inference: "Inference", local_use: LocalUse, config: AgentConfig, run_in_thread: RunInThread) -> None:
    """Answer those who ask for predictions, until cancelled. Brings in a web server that most agents do not need."""
    await run_in_thread(lambda: import_module("edge_agent.predict_api"))
    from edge_agent.predict_api import PredictApi, serve

    api = PredictApi(inference, local_use.about, config.inference.request_bytes_max)
    async with serve(api, *config.inference.address, config.inference.timeout_s):
        log.info("predictions at http://%s", config.inference.listen)
        await asyncio.Future()


async def _every(seconds: float, work: Callable[[], None]) -> None:
    while True:
        work()
        await asyncio.sleep(seconds)


async def _raise_on(stop: asyncio.Event) -> None:
    await stop.wait()
    raise _Stopped


def _cause(error: BaseException) -> BaseException:
    """Return the one of a group that ended the agent: a defect before what a person can mend, before a stop."""
    while isinstance(error, BaseExceptionGroup):
        defects = error.split((SkerryError, _Stopped))[1]
        mendable = error.split(SkerryError)[0]
        error = (defects or mendable or error).exceptions[0]
    return error


@contextmanager
def _last_words(config: AgentConfig, process: ThisProcess, wall_clock: Callable[[], float]) -> Iterator[None]:
    """Leave in the status why the agent ends, unless it was asked to."""
    try:
        yield
    except Exception as error:
        cause = _cause(error)
        reason = str(cause) if isinstance(cause, SkerryError) else f"a defect, {type(cause).__name__}: {cause}"
        try:
            folder = config.runtime_dir or config.state_dir
            status.write_end(folder, config.device, f"the agent ended: {reason}", process, wall_clock())
        except StorageError as failed:
            log.warning("%s", failed)
        raise


def _make_folders(config: AgentConfig) -> None:
    for folder in (config.state_dir, config.runtime_dir):
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StorageError(f"{folder}: cannot be made: {error.strerror}{disk_remedy(error)}") from error


@contextmanager
def _only_agent(state_dir: Path) -> Iterator[None]:
    """Hold the state for this process: two agents would give the same sequence numbers to different updates."""
    path = state_dir / "lock"
    try:
        file = path.open("w")
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}{disk_remedy(error)}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"state_dir {state_dir}: another agent runs on it") from error
        yield
