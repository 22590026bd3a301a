"""The agent, put together: every part is built here by hand, started, and stopped in order."""

import asyncio
import fcntl
import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

from edge_agent import status, vitals
from edge_agent.bundle_file import FOLDER as BUNDLE_FOLDER
from edge_agent.bundle_file import BundleFiles, new_backoff
from edge_agent.calibration import DutyCycle
from edge_agent.config import AgentConfig, with_profile
from edge_agent.device import Bounds, Device, Identity, Memory
from edge_agent.disk import ResidualWear
from edge_agent.events import Tick, UpdateStored
from edge_agent.performer import Performer, Surroundings
from edge_agent.store import FILE_NAME, Store, Stored
from edge_agent.stream import Stream, StreamLimits
from edge_agent.task import open_task
from edge_agent.threads import RunInThread, TrainingRunner, TrainingThread, WorkThreads
from skerry import __version__
from skerry.errors import ConfigError, SkerryError, StorageError
from skerry.tasks.data import check_source

if TYPE_CHECKING:
    import aiohttp

TICK_S = 1.0

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
) -> None:
    """Run the agent until `stop` is set.

    What is on disk is complete at every moment; the cycle under way is forgotten. A simulation hands in its own
    network (`connector`), threads, training, randomness and wall clock; the loop's time is the agent's clock.

    Raises:
        StorageError: the disk refused a read or a write.
        DataError: the task cannot be trained on this device.
        ConfigError: another agent uses this state_dir.
    """
    check_source(config.data.source, config.data.dir)  # the rest waits for the task, and that for the coordinator
    work = WorkThreads() if run_in_thread is None else None
    thread = TrainingThread() if training is None else None
    _make_folders(config)
    try:
        with _only_agent(config.state_dir):
            store = Store(config.state_dir / FILE_NAME)
            try:
                agent = _Agent(config, store, connector, rng or random.Random(), wall_clock)  # noqa: S311 - jitter
                try:
                    await agent.run(stop, work or run_in_thread, thread or training)
                finally:
                    if thread is not None:
                        thread.close()
                    if work is not None:
                        work.close()  # a write that is under way ends first: the database takes one at a time
                agent.save_model()
            finally:
                store.close()
    finally:
        log.info("stopped")


class _Agent:
    """The parts, and how they are joined."""

    def __init__(
        self,
        config: AgentConfig,
        store: Store,
        connector: "Callable[[], aiohttp.BaseConnector] | None",
        rng: random.Random,
        wall_clock: Callable[[], float],
    ) -> None:
        self._config, self._store, self._connector = config, store, connector
        self._rng, self._wall_clock = rng, wall_clock
        self._process = status.this_process()
        self._performer: Performer | None = None

    async def run(
        self, stop: asyncio.Event, run_in_thread: RunInThread | None, training: TrainingRunner | None
    ) -> None:
        """Run all parts until `stop`, or until one of them fails."""
        assert run_in_thread is not None
        assert training is not None
        config, limits, in_force = self._config, self._config.limits, with_profile(self._config)
        stored = self._store.load()
        device = self._device(stored)
        bundles = BundleFiles(
            config.state_dir / BUNDLE_FOLDER,
            in_force.bundle_bytes_max,
            limits.progress_timeout_s,
            new_backoff(limits.reconnect_min_s, limits.reconnect_max_s, self._rng),
            run_in_thread,
            self._connector,
        )
        stream: Stream | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                surroundings = Surroundings(
                    self._store, bundles, training, run_in_thread, lambda bundle: open_task(bundle, config), tasks
                )
                self._performer = performer = Performer(
                    device,
                    stored,
                    surroundings,
                    ResidualWear(in_force.residual_bytes_per_s),
                    DutyCycle(config.training.duty_cycle),
                    config.training.calibration_steps,
                )
                stream = self._stream(performer)
                performer.attach(stream)
                tasks.create_task(performer.run())
                tasks.create_task(_converse(stream, run_in_thread))
                tasks.create_task(_every(TICK_S, lambda: performer.report(Tick())))
                tasks.create_task(_every(limits.status_s, lambda: self._write_status(device, stream)))
                tasks.create_task(_raise_on(stop))
        except BaseExceptionGroup as group:
            error = _cause(group)
            if not isinstance(error, _Stopped):
                raise error from None
        finally:
            training.stop()
            if stream is not None:
                self._write_status(device, stream, running=False)

    def save_model(self) -> None:
        """Write the model down: the last thing before a stop in good order."""
        if self._performer is not None:
            self._performer.save_model()

    def _device(self, stored: Stored) -> Device:
        config = self._config
        return Device(
            Identity(config.device, __version__, config.profile),
            Bounds(config.limits.outbox_updates_max, config.limits.telemetry_s, config.limits.model_save_s),
            Memory(
                stored.last_sequence,
                stored.uploads,
                stored.welcome,
                None if stored.model is None else stored.model.version,
                tuple(
                    UpdateStored(update.sequence, len(update.payload), crc32(update.payload))
                    for update in stored.updates
                    if update.settled_event is None
                ),
                stored.steps,
            ),
            asyncio.get_running_loop().time(),
        )

    def _stream(self, performer: Performer) -> Stream:
        limits = self._config.limits
        return Stream(
            self._config.coordinators,
            StreamLimits(limits.reconnect_min_s, limits.reconnect_max_s, limits.heartbeat_s, limits.progress_timeout_s),
            self._rng,
            performer.report,
            self._connector,
        )

    def _write_status(self, device: Device, stream: Stream, *, running: bool = True) -> None:
        pid, process_started_at_s = self._process
        progress = device.progress(asyncio.get_running_loop().time())
        status.write(
            self._config.runtime_dir or self._config.state_dir,
            status.Status(
                device=self._config.device,
                region=device.region,
                connected=device.connected and running,
                base=device.model,
                sent_bytes=stream.traffic.sent_bytes,
                received_bytes=stream.traffic.received_bytes,
                resident_bytes=vitals.resident_bytes(),
                temperature_c=vitals.temperature_c(),
                pid=pid,
                process_started_at_s=process_started_at_s,
                written_at_s=self._wall_clock(),
                running=running,
                uptime_s=progress.uptime_s,
                training_s=progress.training_s,
                idle_s=progress.idle_s,
                idle_share=progress.idle_s / progress.uptime_s if progress.uptime_s > 0.0 else 0.0,
                cycles=progress.cycles,
                steps=progress.steps,
                steps_per_cycle=progress.steps_per_cycle,
                seconds_per_step=progress.seconds_per_step,
                outbox_updates=progress.outbox_updates,
                last_loss=progress.last_loss,
                last_error=progress.last_error,
            ),
        )


async def _converse(stream: Stream, run_in_thread: RunInThread) -> None:
    """Run the stream. aiohttp takes long to import: meanwhile what is on disk is opened, and trained on."""
    await run_in_thread(lambda: import_module("aiohttp"))
    await stream.run()


async def _every(seconds: float, work: Callable[[], None]) -> None:
    while True:
        work()
        await asyncio.sleep(seconds)


async def _raise_on(stop: asyncio.Event) -> None:
    await stop.wait()
    raise _Stopped


def _cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return what ended the parts: a defect, as the whole group, before what a person can mend, before a stop."""
    _, defects = group.split((SkerryError, _Stopped))
    if defects is not None:
        return group
    mendable, _ = group.split(SkerryError)
    error: BaseException = mendable or group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _make_folders(config: AgentConfig) -> None:
    for folder in (config.state_dir, config.runtime_dir):
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StorageError(f"{folder}: cannot be made: {error.strerror}") from error


@contextmanager
def _only_agent(state_dir: Path) -> Iterator[None]:
    """Hold the state for this process: two agents would give the same sequence numbers to different updates."""
    path = state_dir / "lock"
    try:
        file = path.open("w")
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"state_dir {state_dir}: another agent runs on it") from error
        yield
