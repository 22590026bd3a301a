"""Measures this device: seconds per step of a task, what a durable write costs, memory, link. Makes a profile of it."""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, log
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile

import msgspec
import psutil

from edge_agent import vitals
from edge_agent.link_speed import LinkSpeed
from edge_agent.step_times import Progress, step_times
from skerry import profile
from skerry.errors import ConfigError, StorageError
from skerry.profile import Jitter, Lab, Link, Measured, Profile
from skerry.tasks.bundle import Bundle
from skerry.tasks.data import Dataset
from skerry.training.batches import Batches
from skerry.training.made_up import batch
from skerry.training.shuffle import Shuffle
from skerry.training.trainer import EngineName, open_trainer

SYNC_BYTES = 4096
SYNCS = 20
WARM_UP_STEPS = 50
DATA_BATCHES = 4  # made up; more would take memory
Z95 = 1.645  # a standard normal variable is below that in 95 of 100 cases


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is measured, and how thoroughly."""

    bundle: Bundle
    engine: EngineName
    threads: int
    providers: tuple[str, ...]
    batch_examples: int | None  # None: the bundle's default
    steps: int
    seconds_max: float
    folder: Path  # on the disk that is timed


def measure(subject: Subject, name: str, link: LinkSpeed | None, progress: Progress) -> Profile:
    """Return this device's profile, from timed steps on made-up examples.

    Raises:
        ConfigError: the engine is not installed.
        DataError: the engine cannot run this bundle.
        StorageError: the folder cannot be written.
    """
    bundle = subject.bundle
    manifest = bundle.manifest
    trainer = open_trainer(bundle, subject.engine, subject.threads, subject.providers)
    batch_examples = subject.batch_examples or manifest.defaults.batch_examples
    made_up = batch(manifest, DATA_BATCHES * batch_examples, seed=0)
    batches = Batches(Dataset(made_up.x, made_up.y), batch_examples, Shuffle(0), manifest.noise_values)
    seconds = step_times(
        trainer,
        bundle,
        batches,
        steps=subject.steps,
        warm_up=min(subject.steps, WARM_UP_STEPS),
        seconds_max=subject.seconds_max,
        clock=time.monotonic,
        progress=progress,
    )
    syncs = disk_syncs_s(subject.folder, time.monotonic)
    return Profile(
        name=name,
        description=f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        engine=subject.engine,
        providers=subject.providers,
        threads=subject.threads,
        batch_examples=subject.batch_examples,
        memory_bytes=psutil.virtual_memory().total,
        link=None if link is None else _link(link),
        lab=Lab(jitter=Jitter(sigma=sigma(seconds))),
        measured=Measured(
            runs_on=trainer.runs_on,
            bundle=manifest.name,
            batch_examples=batch_examples,
            steps=len(seconds),
            seconds_per_step=median(seconds),
            seconds_per_step_p95=percentile(seconds, 0.95),
            disk_sync_s=median(syncs),
            disk_sync_p95_s=percentile(syncs, 0.95),
            resident_bytes=vitals.ThisProcess().resident_bytes(),
            round_trip_s=None if link is None else link.round_trip_s,
        ),
    )


def with_slowdown(found: Profile, reference: Profile) -> Profile:
    """Return `found` with its slowdown, from the one that `reference`, measured with the same task, has.

    Raises:
        ConfigError: the two were not measured with the same task and batch.
    """
    own, other = found.measured, reference.measured
    assert own is not None
    if other is None or (other.bundle, other.batch_examples) != (own.bundle, own.batch_examples):
        raise ConfigError(
            f"--reference: profile {reference.name!r} was not measured with {own.bundle} in batches of "
            f"{own.batch_examples}: run `skerry-agent bench` with the same bundle and batch there"
        )
    slowdown = max(1.0, reference.lab.slowdown * own.seconds_per_step / other.seconds_per_step)
    return msgspec.structs.replace(found, lab=msgspec.structs.replace(found.lab, slowdown=slowdown))


def to_toml(found: Profile, version: str, reference: str | None) -> str:
    """Return the profile as TOML text in which every value says where it comes from; `reference` is a profile's file.

    The first line names what was not measured: it is left out, or marked as the default that it is.
    """
    measured, system = f"measured: skerry-agent {version} bench", "system: as it says of itself"
    unknown = [
        "throttling",
        *(["the link, without --coordinator"] if found.link is None else ["losses", "bytes upwards"]),
        *(["slowdown, without --reference"] if reference is None else []),
    ]
    return profile.to_toml(
        found,
        f"By skerry-agent {version} bench. Not measured: {'; '.join(unknown)}.",
        {
            "name": "choice: --name",
            "description": system,
            "memory_bytes": system,
            "engine": "choice: --engine",
            "providers": "choice: --provider",
            "threads": "choice: --threads",
            "batch_examples": "choice: --batch-examples",
            "link": measured,
            "link.loss_share": "not measured: the default",
            "lab": f"{measured}, against {reference}",
            "lab.jitter": f"{measured}: from the 95th percentile and the median",
            "measured": measured,
            "measured.bundle": "choice: --bundle",
            "measured.batch_examples": "choice: --batch-examples, else the bundle's",
        },
    )


def text(found: Profile, link: LinkSpeed | None) -> str:
    """Return what a person wants to know of it."""
    figures = found.measured
    assert figures is not None
    assert found.memory_bytes is not None
    rows = [
        ("device", f"{found.name}: {found.description}"),
        ("task", f"{figures.bundle}, batches of {figures.batch_examples}"),
        ("engine", f"{figures.runs_on}, {found.threads} thread{'s' if found.threads > 1 else ''}"),
        (
            "step",
            f"{figures.seconds_per_step * 1e3:.4g} ms (median of {figures.steps}), "
            f"95th percentile {figures.seconds_per_step_p95 * 1e3:.4g} ms",
        ),
        ("jitter", f"{found.lab.jitter.sigma:.3f} (sigma of a lognormal distribution)"),
        (
            "disk sync",
            f"{figures.disk_sync_s * 1e3:.4g} ms (median), 95th percentile {figures.disk_sync_p95_s * 1e3:.4g} ms",
        ),
        ("memory", f"{figures.resident_bytes / 2**20:.1f} MiB of {found.memory_bytes / 2**20:.0f} MiB"),
    ]
    if link is None:
        rows.append(("link", "not measured: name a coordinator with --coordinator"))
    else:
        down = "not measured" if link.down_bytes_per_s is None else f"{link.down_bytes_per_s / 1e6:.4g} MB/s"
        rows += [
            ("round trip", f"{link.round_trip_s * 1e3:.4g} ms (median), shortest {2e3 * link.latency_s:.4g} ms"),
            ("down", down),
            ("up", "not measured: a coordinator takes nothing but updates"),
        ]
    return "\n".join(f"{label:<10} {value}" for label, value in rows)


def percentile(values: list[float], share: float) -> float:
    """Return the smallest of `values` that at least `share` of them do not exceed; not empty."""
    return sorted(values)[max(0, ceil(share * len(values)) - 1)]


def sigma(seconds: list[float]) -> float:
    """Return the sigma of the lognormal distribution with this median and 95th percentile, in [0, 2]."""
    return min(2.0, max(0.0, log(percentile(seconds, 0.95) / median(seconds)) / Z95))


def disk_syncs_s(folder: Path, clock: Callable[[], float], count: int = SYNCS) -> list[float]:
    """Return the seconds of each of `count` durable writes of 4 KiB in `folder`.

    Raises:
        StorageError: it cannot be written.
    """
    seconds = []
    try:
        with TemporaryFile(dir=folder) as file:
            for _ in range(count):
                started_s = clock()
                file.write(bytes(SYNC_BYTES))
                file.flush()
                os.fsync(file.fileno())
                seconds.append(clock() - started_s)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written: {error.strerror}") from error
    return seconds


def _link(found: LinkSpeed) -> Link | None:
    if found.down_bytes_per_s is None:
        return None
    return Link(latency_s=found.latency_s, jitter_s=found.jitter_s, down_bytes_per_s=found.down_bytes_per_s)
