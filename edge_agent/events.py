"""What happens to a device, and what is done about it: the two vocabularies of `device`. Data only.

Structs, not dataclasses: a device imports them at every start, and these are made in a sixth of the time.
"""

import msgspec

from edge_agent.rejections import Rejected
from skerry.policy import Decision
from skerry.protocol.messages import BundleReference, FromCoordinator, Heartbeat, Hello, ModelVersion, Pace, Welcome
from skerry.vector import Float32

# --- events: what happened, in the past tense ---


class Connected(msgspec.Struct, frozen=True):
    """A stream to a coordinator stands; nothing was said on it yet."""


class Disconnected(msgspec.Struct, frozen=True):
    """The stream is gone."""

    reason: str


class Received(msgspec.Struct, frozen=True):
    """The coordinator said something."""

    message: FromCoordinator


class BundleOpened(msgspec.Struct, frozen=True):
    """The bundle is on disk, its engine loaded, the device's data checked against it."""

    sha256: str
    shortcoming: str = ""  # what of the configuration does not suit this task, and is left off


class TaskUnfit(msgspec.Struct, frozen=True):
    """The bundle cannot be trained on here: it is none, or the device's data do not fit. It will be tried again."""

    sha256: str
    detail: str


class Calibrated(msgspec.Struct, frozen=True):
    """The first steps were timed."""

    sha256: str  # of the bundle
    seconds: list[float]  # of each step


class CycleStarted(msgspec.Struct, frozen=True):
    """The training thread has begun."""

    cycle: int


class CycleFinished(msgspec.Struct, frozen=True, eq=False):
    """All local steps of a cycle were taken."""

    cycle: int
    base: ModelVersion  # the regional model that the difference is against
    loss: float  # mean over the steps
    examples: int  # on the device
    seconds: list[float]  # of each step
    learning_rate: float  # the highest of all steps, schedule included
    difference: Float32  # shape (size,)
    finite: bool  # loss and every entry of the difference
    base_age: float | None = None  # of the base; None: not known


class UpdateStored(msgspec.Struct, frozen=True):
    """The update is on disk, with its sequence number and the residual."""

    sequence: int
    payload_bytes: int
    crc32: int
    lineage: str = ""  # of its base


class ModelRefused(msgspec.Struct, frozen=True):
    """What the coordinator offered is no model; the device still holds `held`."""

    held: ModelVersion | None
    detail: str


class PaceDecided(msgspec.Struct, frozen=True):
    """The board was looked at."""

    decision: Decision
    stretch: float = 1.0  # cycles are to be so many times as long as the region's, at least 1: see FlashBudget


class Tick(msgspec.Struct, frozen=True):
    """Time has passed."""


Event = (
    Connected
    | Disconnected
    | Received
    | BundleOpened
    | TaskUnfit
    | Calibrated
    | CycleStarted
    | CycleFinished
    | UpdateStored
    | ModelRefused
    | PaceDecided
    | Tick
)

# --- effects: what to do, in order ---


class Progress(msgspec.Struct, frozen=True):
    """How far the device is; counts since the agent's process started."""

    uptime_s: float
    training_s: float
    idle_s: float
    paused_s: float
    cycles: int
    steps: int
    steps_per_cycle: int  # of the newest cycle, 0 before
    seconds_per_step: float | None  # None before calibration
    outbox_updates: int
    last_loss: float | None
    last_error: str
    decision: Decision  # the pace, and why
    rejected: Rejected = Rejected()


class Send(msgspec.Struct, frozen=True):
    """Write one message to the stream, if there still is one."""

    message: Hello | Heartbeat


class SendUpdate(msgspec.Struct, frozen=True):
    """Write one stored update to the stream, in parts, from part number `first_part` on."""

    sequence: int
    part_bytes: int
    first_part: int
    moves: int = 0  # how often the device has changed coordinators since it made the update
    abroad: bool = False  # the base is of another lineage than the stream's models, or may be: its age is to be told


class SendTelemetry(msgspec.Struct, frozen=True):
    """Tell the coordinator how the device is doing."""

    progress: Progress


class Reconnect(msgspec.Struct, frozen=True):
    """Leave the stream and come back: not before `wait_s`, and later still where coming back soon is `hopeless`."""

    reason: str
    wait_s: float = 0.0
    hopeless: bool = False


class FetchBundle(msgspec.Struct, frozen=True):
    """Get the bundle, from the disk or the coordinator, and open it; answered with BundleOpened."""

    bundle: BundleReference


class AdoptTask(msgspec.Struct, frozen=True):
    """Another task: forget residual, outbox and model of the one before, and write down the new one, at once."""

    welcome: Welcome
    moves: int = 0  # how often the device has changed coordinators


class SaveTask(msgspec.Struct, frozen=True):
    """Write down recipe and plan, so that training can go on after a restart without a coordinator."""

    welcome: Welcome
    moves: int = 0  # how often the device has changed coordinators


class DropUnsent(msgspec.Struct, frozen=True):
    """The recipe protects more, or their model was given up: forget residual and outbox, and save the task, at once."""

    welcome: Welcome
    moves: int = 0  # how often the device has changed coordinators


class ContinueAfter(msgspec.Struct, frozen=True):
    """The coordinator knows a higher sequence number of this device: write down that it is taken."""

    sequence: int


class SetModel(msgspec.Struct, frozen=True):
    """Set the values in `payload` in the model of `base` (None: all of them), which makes it `version`.

    A cycle that is under way gets it, too.
    """

    version: ModelVersion
    base: ModelVersion | None
    payload: bytes
    age: float = 0.0


class SaveModel(msgspec.Struct, frozen=True):
    """Write the model down."""

    first: bool = False  # of its task: without one a restarted agent needs a coordinator, so it is never put off


class Calibrate(msgspec.Struct, frozen=True):
    """Time some steps on a model that is thrown away; answered with Calibrated."""


class StartCycle(msgspec.Struct, frozen=True):
    """Take `steps` local steps from the newest model; answered with CycleStarted and CycleFinished."""

    cycle: int
    steps: int
    learning_rate: float
    uploads: int  # updates of this device that were accepted
    first_step: int  # local steps of this task that are in updates already


class SetLearningRate(msgspec.Struct, frozen=True):
    """The cycle under way goes on with this learning rate from its next step."""

    learning_rate: float


class StopCycle(msgspec.Struct, frozen=True):
    """Stop training after the step under way; what it did is forgotten."""


class SetPace(msgspec.Struct, frozen=True):
    """Keep this pace from the next step on, also in a cycle under way; "pause": that ends with the steps it has."""

    pace: Pace


class TakeDifference(msgspec.Struct, frozen=True):
    """Take the update `sequence` out of difference and residual."""

    sequence: int
    finished: CycleFinished
    seconds_per_step: float


class StoreUpdate(msgspec.Struct, frozen=True):
    """Write update, sequence number and residual to disk in one transaction; answered with UpdateStored."""

    sequence: int


class SettleUpdate(msgspec.Struct, frozen=True):
    """The update was answered: (1 - weight) of it returns to the residual, nothing if None; forget it, durably."""

    sequence: int
    weight: float | None
    accepted: bool


Effect = (
    Send
    | SendUpdate
    | SendTelemetry
    | Reconnect
    | FetchBundle
    | AdoptTask
    | SaveTask
    | DropUnsent
    | ContinueAfter
    | SetModel
    | SaveModel
    | Calibrate
    | StartCycle
    | SetLearningRate
    | StopCycle
    | SetPace
    | TakeDifference
    | StoreUpdate
    | SettleUpdate
)
