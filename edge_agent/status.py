"""What the agent says of itself to whoever stands beside the device: status.json, replaced in one piece."""

from pathlib import Path

import msgspec
import psutil

from edge_agent.learning_rate import LearningRate
from skerry.errors import StorageError
from skerry.protocol.messages import ModelVersion, Pace
from skerry.recipe import AgentStages

FILE_NAME = "status.json"


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
    sent_bytes: int
    received_bytes: int
    resident_bytes: int
    written_bytes: int | None = None  # to disks; None: the kernel does not count them
    written_bytes_last_hour: int | None = None
    flash_bytes_per_hour: float | None = None  # the bound on them, limits.flash_bytes_per_hour
    flash_left: float | None = None  # share of it, at most 1, below 0: overdrawn; None: nobody counts
    temperature_c: float | None
    held_out_examples: int  # scored in the newest evaluation on held-out rows; 0: there was none
    held_out_correct: int | None  # of them, by the regional model; None: they are neither right nor wrong
    held_out_loss_sum: float  # over them
    personal_correct: int | None  # of them, with the own head; None: there is none, or they are neither
    personal_loss_sum: float | None = None  # over them, with the own head; None: there is none
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
    """Return what the agent wrote last, `running` telling whether that process still lives; None: it never ran here.

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
    except msgspec.MsgspecError as error:
        raise StorageError(f"{path}: is no status of this version: {error}") from error
    return msgspec.structs.replace(status, running=status.running and _lives(status))


def _lives(status: Status) -> bool:
    """Whether that very process still runs: one that was killed keeps its number until its parent has taken note."""
    try:
        process = psutil.Process(status.pid)
        ended = process.status() in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
        return not ended and abs(process.create_time() - status.process_started_at_s) < 1.0
    except psutil.NoSuchProcess:
        return False
