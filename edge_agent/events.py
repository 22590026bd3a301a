"""What happens to a device, and what is done about it: the two vocabularies of `device`. Data only."""

from dataclasses import dataclass

from skerry.protocol.messages import BundleReference, FromCoordinator, Heartbeat, Hello, ModelVersion, Welcome
from skerry.vector import Float32

# --- events: what happened, in the past tense ---


@dataclass(frozen=True, slots=True)
class Connected:
    """A stream to a coordinator stands; nothing was said on it yet."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The stream is gone."""

    reason: str


@dataclass(frozen=True, slots=True)
class Received:
    """The coordinator said something."""

    message: FromCoordinator


@dataclass(frozen=True, slots=True)
class BundleOpened:
    """The bundle is on disk, its engine loaded, the device's data checked against it."""

    sha256: str


@dataclass(frozen=True, slots=True)
class Calibrated:
    """The first steps were timed."""

    sha256: str  # of the bundle
    seconds: list[float]  # of each step


@dataclass(frozen=True, slots=True)
class CycleStarted:
    """The training thread has begun."""

    cycle: int


@dataclass(frozen=True, slots=True, eq=False)
class CycleFinished:
    """All local steps of a cycle were taken."""

    cycle: int
    base: ModelVersion  # the regional model that the difference is against
    loss: float  # mean over the steps
    examples: int  # on the device
    seconds: list[float]  # of each step
    difference: Float32  # shape (size,)
    finite: bool  # loss and every entry of the difference


@dataclass(frozen=True, slots=True)
class UpdateStored:
    """The update is on disk, with its sequence number and the residual."""

    sequence: int
    payload_bytes: int
    crc32: int


@dataclass(frozen=True, slots=True)
class ModelRefused:
    """What the coordinator offered is no model; the device still holds `held`."""

    held: ModelVersion | None
    detail: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = (
    Connected
    | Disconnected
    | Received
    | BundleOpened
    | Calibrated
    | CycleStarted
    | CycleFinished
    | UpdateStored
    | ModelRefused
    | Tick
)

# --- effects: what to do, in order ---


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the device is; counts since the agent's process started."""

    uptime_s: float
    training_s: float
    idle_s: float
    cycles: int
    steps: int
    steps_per_cycle: int  # of the newest cycle, 0 before
    seconds_per_step: float | None  # None before calibration
    outbox_updates: int
    last_loss: float | None
    last_error: str


@dataclass(frozen=True, slots=True)
class Send:
    """Write one message to the stream, if there still is one."""

    message: Hello | Heartbeat


@dataclass(frozen=True, slots=True)
class SendUpdate:
    """Write one stored update to the stream, in parts, from part number `first_part` on."""

    sequence: int
    part_bytes: int
    first_part: int


@dataclass(frozen=True, slots=True)
class SendTelemetry:
    """Tell the coordinator how the device is doing."""

    progress: Progress


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Leave the stream and come back: not before `wait_s`, and later still where coming back soon is `hopeless`."""

    reason: str
    wait_s: float = 0.0
    hopeless: bool = False


@dataclass(frozen=True, slots=True)
class FetchBundle:
    """Get the bundle, from the disk or the coordinator, and open it; answered with BundleOpened."""

    bundle: BundleReference


@dataclass(frozen=True, slots=True)
class AdoptTask:
    """Another task: forget residual, outbox and model of the one before, and write down the new one, at once."""

    welcome: Welcome


@dataclass(frozen=True, slots=True)
class SaveTask:
    """Write down recipe and plan, so that training can go on after a restart without a coordinator."""

    welcome: Welcome


@dataclass(frozen=True, slots=True)
class ContinueAfter:
    """The coordinator knows a higher sequence number of this device: write down that it is taken."""

    sequence: int


@dataclass(frozen=True, slots=True)
class SetModel:
    """Set the values in `payload` in the model of `base` (None: all of them), which makes it `version`.

    A cycle that is under way gets it, too.
    """

    version: ModelVersion
    base: ModelVersion | None
    payload: bytes


@dataclass(frozen=True, slots=True)
class SaveModel:
    """Write the model down."""


@dataclass(frozen=True, slots=True)
class Calibrate:
    """Time some steps on a model that is thrown away; answered with Calibrated."""


@dataclass(frozen=True, slots=True)
class StartCycle:
    """Take `steps` local steps from the newest model; answered with CycleStarted and CycleFinished."""

    cycle: int
    steps: int
    learning_rate: float
    uploads: int  # updates of this device that were accepted
    first_step: int  # local steps of this task that are in updates already


@dataclass(frozen=True, slots=True)
class SetLearningRate:
    """The cycle under way goes on with this learning rate from its next step."""

    learning_rate: float


@dataclass(frozen=True, slots=True)
class StopCycle:
    """Stop training after the step under way; what it did is forgotten."""


@dataclass(frozen=True, slots=True)
class TakeDifference:
    """Take the update `sequence` out of difference and residual."""

    sequence: int
    finished: CycleFinished
    seconds_per_step: float


@dataclass(frozen=True, slots=True)
class StoreUpdate:
    """Write update, sequence number and residual to disk in one transaction; answered with UpdateStored."""

    sequence: int


@dataclass(frozen=True, slots=True)
class SettleUpdate:
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
    | ContinueAfter
    | SetModel
    | SaveModel
    | Calibrate
    | StartCycle
    | SetLearningRate
    | StopCycle
    | TakeDifference
    | StoreUpdate
    | SettleUpdate
)
