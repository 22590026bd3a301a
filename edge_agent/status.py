"""What the agent says of itself to whoever stands beside the device: status.json, replaced in one piece."""

from pathlib import Path

import msgspec
import psutil

from edge_agent.learning_rate import LearningRate
from edge_agent.rejections import Rejected
from edge_agent.vitals import ThisProcess
from skerry.agent_stages import AgentStages
from skerry.errors import StorageError
from skerry.protocol.messages import ModelVersion, Pace

FILE_NAME = "status.json"
MISSED_MAX = 4.0  # intervals without a write: then a process that lives does no work
KILLED = "it ended without a word: killed, or the power failed"


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the agent. Counts are since its process started; bytes are those of frames."""

    device: str
    region: str  # "" before the first contact
    connected: bool
    base: ModelVersion | None  # the newest regional model it holds
    uptime_s: float
    training_s: float  # inside local steps
    idle_s: float  # nothing to train on
    idle_share: float  # idle_s / uptime_s
    paused_s: float = 0.0  # at rest by policy
    pace: Pace = "train"
    reasons: tuple[str, ...] = ()  # of the pace, the worst first
    cycles: int
    steps: int
    steps_per_cycle: int
    recipe: AgentStages | None = None  # the stages that run on the device; None before the first contact
    learning_rate: LearningRate | None = None
    seconds_per_step: float | None  # None before calibration
    outbox_updates: int  # not acknowledged yet
    outbox_updates_max: int | None = None  # limits.outbox_updates_max: training waits where so many are there
    rejected: Rejected = Rejected()
    sent_bytes: int
    received_bytes: int
    resident_bytes: int
    written_bytes: int | None = None  # to disks; None: the kernel does not count them
    written_bytes_last_hour: int | None = None
    flash_bytes_per_hour: float | None = None  # the bound on them, limits.flash_bytes_per_hour
    flash_left: float | None = None  # share of it, at most 1, below 0: overdrawn; None: nobody counts
    policy_enabled: bool = True  # policy.enabled; False: nothing is read of the board, so neither are bytes counted
    temperature_c: float | None
    held_out_examples: int  # scored in the newest evaluation on held-out rows; 0: there was none
    held_out_correct: int | None  # of them, by the regional model; None: they are neither right nor wrong
    held_out_loss_sum: float  # over them
    held_out_version: ModelVersion | None = None  # of the regional model that was scored
    personal_correct: int | None  # of them, with the own head; None: there is none, or they are neither
    personal_loss_sum: float | None = None  # over them, with the own head; None: there is none
    privacy_spent: dict[float, int] = {}  # updates that left the device, by noise multiplier; under 0 at least so many
    last_loss: float | None
    last_error: str
    pid: int
    process_started_at_s: float  # with `pid`, names the process for good
    written_at_s: float  # Unix time
    running: bool  # False once it has stopped in good order


def write(folder: Path, status: Status) -> None:
    """Replace the file. Not synced: it need not survive a power cut.

    Raises:
        StorageError: the disk refused it.
    """
    path = folder / FILE_NAME
    beside = path.with_suffix(".json.new")
    try:
        beside.write_bytes(msgspec.json.format(msgspec.json.encode(status), indent=1) + b"\n")
        beside.replace(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


def read(folder: Path) -> Status | None:
    """Return what the agent wrote last; None: it never ran here. `running` tells whether that process still lives.

    One that is gone without having said why has KILLED for its last error.

    Raises:
        StorageError: the file cannot be read.
    """
    path = folder / FILE_NAME
    try:
        status = msgspec.json.decode(path.read_bytes(), type=Status)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StorageError(f"{path}: is no status of this version: {error}") from error
    if not status.running or _lives(status):
        return status
    reason = f"{KILLED}; before that: {status.last_error}" if status.last_error else KILLED
    return msgspec.structs.replace(status, running=False, connected=False, last_error=reason)


def silent_s(status: Status, interval_s: float, now_s: float) -> float | None:
    """Return for how many seconds an agent that lives has written nothing; None: not too long, or it does not run.

    `interval_s`: its limits.status_s.
    """
    age_s = now_s - status.written_at_s
    return age_s if status.running and age_s > MISSED_MAX * interval_s else None


def write_end(folder: Path, device: str, error: str, process: ThisProcess, now_s: float) -> None:
    """Leave the reason why this agent's process ends; the figures stay those that were written last, if any were.

    Raises:
        StorageError: the disk refused it.
    """
    try:
        last = read(folder)
    except StorageError:
        last = None  # it is replaced in any case
    found = last or _of_no_work(device)
    ended = msgspec.structs.replace(
        found,
        device=device,
        connected=False,
        last_error=error,
        pid=process.pid,
        process_started_at_s=process.started_at_s,
        written_at_s=now_s,
        running=False,
    )
    write(folder, ended)


def _of_no_work(device: str) -> Status:
    """Return the status of an agent that has done nothing."""
    return Status(
        device=device,
        region="",
        connected=False,
        base=None,
        uptime_s=0.0,
        training_s=0.0,
        idle_s=0.0,
        idle_share=0.0,
        cycles=0,
        steps=0,
        steps_per_cycle=0,
        seconds_per_step=None,
        outbox_updates=0,
        sent_bytes=0,
        received_bytes=0,
        resident_bytes=0,
        temperature_c=None,
        held_out_examples=0,
        held_out_correct=None,
        held_out_loss_sum=0.0,
        personal_correct=None,
        last_loss=None,
        last_error="",
        pid=0,
        process_started_at_s=0.0,
        written_at_s=0.0,
        running=False,
    )


def _lives(status: Status) -> bool:
    """Whether that very process still runs: one that was killed keeps its number until its parent has taken note."""
    try:
        process = psutil.Process(status.pid)
        ended = process.status() in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
        return not ended and abs(process.create_time() - status.process_started_at_s) < 1.0
    except psutil.NoSuchProcess:
        return False
