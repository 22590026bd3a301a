"""Checks of what the agent works with: its state, the bundle, the data, the engine, its speed.

A running agent is not disturbed: its database is opened for reading only, and no step is timed beside its own.
"""

import hashlib
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import msgspec
import numpy as np

from edge_agent import status as status_file
from edge_agent.bench import percentile
from edge_agent.bundle_file import FOLDER, SUFFIX
from edge_agent.config import AgentConfig, InForce, Personal
from edge_agent.finding import Finding, failure, ok, warning
from edge_agent.learning_rate import LearningRate
from edge_agent.link_speed import CHUNK_BYTES, CoordinatorStatus, LinkFailed, open_session
from edge_agent.personal import OwnTensors
from edge_agent.recipe_text import most_steps, most_steps_text, rate_text
from edge_agent.rest_remedy import REMEDIES
from edge_agent.status import Status
from edge_agent.step_times import step_times
from edge_agent.store import FILE_NAME, Store
from skerry.agent_stages import AgentStages
from skerry.database import NotMadeError
from skerry.errors import ConfigError, DataError, SchemaTooNewError, StorageError
from skerry.protocol.messages import Welcome
from skerry.tasks import data
from skerry.tasks.bundle import Bundle, resolve
from skerry.tasks.data import Dataset
from skerry.training.batches import Batches
from skerry.training.shuffle import Shuffle
from skerry.training.trainer import Trainer, open_trainer

CHECKED_BYTES_MAX = 256 << 20  # of a database whose pages are gone through
STEPS = 40
WARM_UP_STEPS = 10
SECONDS_MAX = 10.0
CLASSES_SHOWN = 12


@dataclass(frozen=True, slots=True)
class RegionalCycle:
    """What is known of the cycle that a region plans."""

    seconds: float | None = None  # None: neither a coordinator nor the agent's state says it
    stages: AgentStages | None = None  # None: the agent was told no recipe yet, or one of another version


def check_agent(config: AgentConfig, root: Path, now_s: float) -> tuple[Finding, Status | None]:
    """See who works on the state folder; return the status of the agent that runs, None if none does."""
    name = "agent"
    folder = config.runtime_dir or config.state_dir
    try:
        found = status_file.read(folder)
    except StorageError as error:
        return warning(name, str(error), "the file is written anew when the agent starts"), None
    holder = lock_holder(root, config.state_dir / "lock")
    if found is None or not found.running:
        if holder is None:
            end = "" if found is None or not found.last_error else f"; its last error: {found.last_error}"
            return ok(name, f"does not run now{end}"), None
        return (
            failure(
                name,
                f"process {holder} holds {config.state_dir} and is not the agent that {folder} speaks of",
                "give each agent its own state_dir and runtime_dir",
            ),
            None,
        )
    if found.device != config.device:
        return (
            failure(
                name,
                f"{found.device!r} runs on {folder}, as process {found.pid}; this configuration is {config.device!r}",
                "give each agent its own state_dir and runtime_dir",
            ),
            found,
        )
    silent_s = status_file.silent_s(found, config.limits.status_s, now_s)
    about = f"runs as process {found.pid}"
    if silent_s is not None:
        return warning(name, f"{about}, but has not said anything for {silent_s:.0f} s", "look at its log"), found
    if not found.connected:
        return warning(name, f"{about}, not connected: {found.last_error or 'no reason yet'}", "see below"), found
    if found.rejected.quarantine:
        remedy = f"look at its data; an operator may let it in again: skerry-coordinator devices release {found.device}"
        return warning(name, f"{about}, in quarantine: {found.rejected.quarantine}", remedy), found
    return ok(name, f"{about}, connected to region {found.region}, {found.cycles} cycles"), found


def lock_holder(root: Path, path: Path) -> int | None:
    """Return which process holds the lock on `path`, from /proc/locks; None: nobody, or it cannot be seen."""
    try:
        inode = path.stat().st_ino
        lines = (root / "proc/locks").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if len(fields) >= 6 and fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
            return int(fields[4])
    return None


def check_state(config: AgentConfig) -> tuple[Finding, Welcome | None]:
    """Look into the database, for reading only; return the task that the agent was last given."""
    name, path = "state", config.state_dir / FILE_NAME
    aside = f"move {path} away to start afresh; updates that were not acknowledged are lost with it"
    try:
        store = Store(path, look_only=True)
        try:
            damage = store.damage() if path.stat().st_size <= CHECKED_BYTES_MAX else ""
            if damage:
                return failure(name, f"{path}: damaged: {damage}", aside), None
            stored = store.load()
        finally:
            store.close()
    except NotMadeError:
        return ok(name, f"{path}: none yet, as before the first start"), None
    except SchemaTooNewError as error:
        return failure(name, str(error), "install that version of Skerry again"), None
    except StorageError as error:
        return failure(name, str(error), aside), None
    welcome, waiting = stored.welcome, sum(update.settled_event is None for update in stored.updates)
    task = "no task yet" if welcome is None else f"task {welcome.bundle.sha256[:12]} of {welcome.coordinator}"
    made = f"{stored.last_sequence} updates made, {stored.uploads} accepted, {waiting} in the outbox"
    found = f"{path}: intact, {made}, {task}"
    if waiting >= config.limits.outbox_updates_max:
        return warning(name, found, "the outbox is full and training pauses: look at the connection"), welcome
    return ok(name, found), welcome


async def check_bundle(
    config: AgentConfig,
    in_force: InForce,
    wanted: str | None,
    urls: tuple[str, ...],
    folder: Callable[[], Path],
    context: ssl.SSLContext | None = None,
) -> tuple[Finding, Bundle | None]:
    """Find the task's bundle: the agent's own, else the one of a coordinator that answered, fetched to `folder()`.

    `wanted` is its SHA-256; None: no coordinator answered, and there never was one. `context`: what the device shows.
    """
    name = "bundle"
    if wanted is None:
        return warning(name, "no coordinator says which task there is", "name one to check with: --bundle"), None
    own = config.state_dir / FOLDER / f"{wanted}{SUFFIX}"
    if own.exists():
        try:
            with own.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            return failure(name, f"{own}: cannot be read: {error.strerror}", "run this as the agent's user"), None
        if found == wanted:
            return open_bundle(own, "the agent's own, intact")
        return (
            warning(name, f"{own}: damaged: its sha256 is {found}", "the agent fetches it again when it starts"),
            None,
        )
    if not urls:
        return warning(name, f"{wanted[:12]}: not downloaded yet, and no coordinator answers", "see above"), None
    copy = folder() / f"{wanted}{SUFFIX}"
    try:
        await _fetch(context, urls[0], wanted, copy, in_force.bundle_bytes_max)
    except (LinkFailed, StorageError) as error:
        return failure(name, str(error), "see docs/agent.md, limits.bundle_bytes_max, and the coordinator's log"), None
    return open_bundle(copy, f"the agent has none yet; {urls[0]} gives it intact")


def open_bundle(spec: Path | str, about: str) -> tuple[Finding, Bundle | None]:
    """Open and verify a bundle."""
    try:
        bundle = resolve(str(spec))
    except DataError as error:
        return failure("bundle", str(error), "fetch or build the bundle again"), None
    manifest = bundle.manifest
    return ok("bundle", f"{manifest.name}, {manifest.layout.size} parameters, {about}"), bundle


async def _fetch(context: ssl.SSLContext | None, url: str, sha256: str, path: Path, bytes_max: int) -> None:
    origin = f"{url.rstrip('/')}/v1/bundles/{sha256}"
    digest, received = hashlib.sha256(), 0
    try:
        async with open_session(context, url) as session, session.get(origin) as response:
            if response.status != 200:
                raise LinkFailed(f"{origin}: answers {response.status}")
            with path.open("wb") as file:
                async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                    received += len(chunk)
                    if received > bytes_max:
                        raise LinkFailed(f"{origin}: larger than limits.bundle_bytes_max, {bytes_max} bytes")
                    digest.update(chunk)
                    file.write(chunk)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from error
    if digest.hexdigest() != sha256:
        raise LinkFailed(f"{origin}: is a foreign file: its sha256 is {digest.hexdigest()}")


def check_data(config: AgentConfig, bundle: Bundle, batch_examples: int) -> tuple[Finding, Dataset | None]:
    """Read the data, check them against the bundle, and count the classes."""
    name, source, manifest = "data", config.data.source, bundle.manifest
    try:
        dataset = data.load(source, manifest, data_dir=config.data.dir)
    except DataError as error:
        return failure(name, str(error), "correct the file or `data.source`: docs/data.md"), None
    found = f"{source}: {len(dataset)} examples"
    found += "" if dataset.label_column is None else f", label: column {dataset.label_column}"
    label = manifest.label
    if label.classes is not None and not label.shape:
        counts = Counter(dataset.y[dataset.y >= 0].tolist())
        names = label.names or tuple(map(str, range(label.classes)))
        shown = sorted(counts)[:CLASSES_SHOWN]
        found += ": " + ", ".join(f"{names[kind]} {counts[kind]}" for kind in shown)
        found += f" and {len(counts) - len(shown)} more classes" if len(counts) > len(shown) else ""
        if len(counts) < 2:
            return warning(
                name, found, "collect examples of more than one class: from one there is nothing to learn"
            ), dataset
    if len(dataset) < batch_examples:
        return warning(name, f"{found}, fewer than the {batch_examples} of a batch", "collect more examples"), dataset
    return ok(name, found), dataset


def check_personal(personal: Personal, bundle: Bundle) -> Finding:
    """See that the own head is made of tensors that the task's model has."""
    name = "personal"
    try:
        own = OwnTensors(bundle.manifest.layout, personal.layers, bundle.manifest.name)
    except ConfigError as error:
        remedy = "correct `personal.layers`: names of these tensors, * and ? allowed"
        return warning(name, f"{error}; the agent trains without an own head", remedy)
    return ok(name, f"own head of {len(own.entries)} values: {', '.join(own.names)}")


def check_engine(in_force: InForce, bundle: Bundle) -> tuple[Finding, Trainer | None]:
    """Load the bundle into the engine that the agent would use."""
    name = "engine"
    try:
        trainer = open_trainer(bundle, in_force.engine, in_force.threads, in_force.providers)
    except ConfigError as error:
        return failure(name, str(error), 'install it, or set `training.engine = "onnx"`'), None
    except DataError as error:
        return failure(name, str(error), "the bundle does not suit this version of onnxruntime: build it again"), None
    wanted = in_force.providers[0] if in_force.providers else None
    if wanted is not None and wanted not in trainer.runs_on.partition(" (")[0]:
        return (
            warning(
                name, trainer.runs_on, f"install an onnxruntime that offers {wanted}, or take it out of `providers`"
            ),
            trainer,
        )
    return ok(name, trainer.runs_on), trainer


def check_speed(
    trainer: Trainer,
    bundle: Bundle,
    dataset: Dataset,
    batch_examples: int,
    duty_cycle: float,
    cycle: RegionalCycle,
    clock: Callable[[], float],
) -> Finding:
    """Time a few steps on the device's own data: how many fit the region's cycle?"""
    batches = Batches(dataset, batch_examples, Shuffle(0), bundle.manifest.noise_values)
    with np.errstate(all="ignore"):  # a model that diverges on these data takes no longer
        seconds = step_times(
            trainer, bundle, batches, steps=STEPS, warm_up=WARM_UP_STEPS, seconds_max=SECONDS_MAX, clock=clock
        )
    found = f"{median(seconds) * 1e3:.4g} ms per step, 95th percentile {percentile(seconds, 0.95) * 1e3:.4g} ms"
    return judge_speed(median(seconds) / duty_cycle, cycle, found)


def check_schedule(rate: LearningRate) -> Finding:
    """See that a running agent's steps still change something."""
    found = rate_text(rate)
    if rate.over:
        return warning("schedule", found, REMEDIES["schedule"])
    return ok("schedule", found)


def judge_speed(seconds_per_step: float, cycle: RegionalCycle, found: str) -> Finding:
    """Say whether steps of this length, rests included, suit the region's cycle."""
    name = "speed"
    if cycle.seconds is None:
        return ok(name, found)
    fit = cycle.seconds / seconds_per_step
    found = f"{found}; {fit:.3g} steps fit a cycle of {cycle.seconds:.3g} s"
    limit = None if cycle.stages is None else most_steps(cycle.stages, fit)
    if limit is not None:
        return ok(name, f"{found}, but {most_steps_text(limit, seconds_per_step)}")
    if fit < 1.0:
        return warning(
            name,
            f"{found}: not even one",
            "lengthen the region's cycle (recipe, local_steps.cycle_max_s), raise training.duty_cycle, or use smaller "
            "batches: the updates of this device will be late",
        )
    return ok(name, found)


def cycle_of(statuses: list[CoordinatorStatus], welcome: Welcome | None) -> RegionalCycle:
    """Return the region's cycle, its length as a coordinator says now, all else as the agent was told last."""
    if welcome is None:
        return RegionalCycle(statuses[0].cycle_s if statuses else None)
    try:
        stages = msgspec.convert(welcome.recipe, AgentStages)
    except msgspec.ValidationError:
        stages = None
    return RegionalCycle(statuses[0].cycle_s if statuses else welcome.plan.cycle_s, stages)
