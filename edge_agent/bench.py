"""Measures this device: seconds per step of a task, what a durable write costs, memory. Makes a profile of it."""

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile

import numpy as np
import psutil

from edge_agent import vitals
from edge_agent.calibration import DutyCycle
from edge_agent.local_cycle import LocalCycle, Mailbox
from skerry.errors import StorageError
from skerry.profile import Measured, Profile
from skerry.recipe import AgentStages
from skerry.tasks.bundle import Bundle
from skerry.tasks.data import Dataset
from skerry.tasks.manifest import Manifest
from skerry.training.batches import Batches
from skerry.training.local_run import LocalRun
from skerry.training.made_up import batch
from skerry.training.shuffle import Shuffle
from skerry.training.trainer import EngineName, open_trainer

SYNC_BYTES = 4096
SYNCS = 20


def measure(bundle: Bundle, engine: EngineName, threads: int, steps: int, folder: Path, name: str) -> Profile:
    """Return this device's profile, from `steps` timed steps on made-up examples after as many for warm-up.

    Raises:
        StorageError: `folder` cannot be written.
    """
    trainer = open_trainer(bundle, engine, threads)
    stages = AgentStages()
    initial = bundle.initial_parameters()
    manifest = bundle.manifest
    run = LocalRun(
        trainer,
        Batches(_examples(manifest), manifest.defaults.batch_examples, Shuffle(0), manifest.noise_values),
        optimizer=stages.optimizer,
        uplink=stages.uplink,
        merge=stages.merge,
        start=initial,
        residual=np.zeros_like(initial),
        learning_rate=manifest.defaults.learning_rate,
    )
    cycle = LocalCycle(run, 2 * steps, None, Mailbox(), DutyCycle(1.0), time.monotonic)
    for _ in cycle.pauses():
        pass
    return Profile(
        name=name,
        description=f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        engine=engine,
        threads=threads,
        memory_bytes=psutil.virtual_memory().total,
        measured=Measured(
            bundle=manifest.name,
            batch_examples=manifest.defaults.batch_examples,
            seconds_per_step=median(cycle.seconds[steps:]),
            disk_sync_s=disk_sync_s(folder, time.monotonic),
            resident_bytes=vitals.resident_bytes(),
        ),
    )


def disk_sync_s(folder: Path, clock: Callable[[], float]) -> float:
    """Return the median seconds of one durable write of 4 KiB in `folder`.

    Raises:
        StorageError: it cannot be written.
    """
    seconds = []
    try:
        with TemporaryFile(dir=folder) as file:
            for _ in range(SYNCS):
                started_s = clock()
                file.write(bytes(SYNC_BYTES))
                file.flush()
                os.fsync(file.fileno())
                seconds.append(clock() - started_s)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written: {error.strerror}") from error
    return median(seconds)


def _examples(manifest: Manifest) -> Dataset:
    """Return four batches: how long a step takes does not depend on what it learns from."""
    made_up = batch(manifest, 4 * manifest.defaults.batch_examples, seed=0)
    return Dataset(made_up.x, made_up.y)
