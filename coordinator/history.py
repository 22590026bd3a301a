"""What a region's journal tells of its past: for reports and tests. Reads only, also while the coordinator runs."""

from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from coordinator.store import Store
from skerry.database import NotMadeError
from skerry.protocol.messages import Telemetry


class UpdateEntry(NamedTuple):
    """One update, as journalled."""

    position: int
    version: int | None  # None: held by the arrival rule
    device: str
    sequence: int
    base_number: int
    steps: int
    examples: int
    loss: float
    seconds_per_step: float
    staleness: float
    weight: float | None
    age: float | None  # of the model that holds it
    payload_bytes: int
    frame_bytes: int
    received_at_s: float  # seconds since 1970


class MergeEntry(NamedTuple):
    """One merge of a peer's model."""

    version: int
    peer: str
    weight: float
    age: float
    at_s: float


class TakenBackEntry(NamedTuple):
    """One update that was taken out of the model again: it counts in another region."""

    version: int
    device: str
    sequence: int
    weight: float  # negative
    age: float
    at_s: float


class EvaluationEntry(NamedTuple):
    """One evaluation on held-out data."""

    at_s: float
    version: int
    age: float
    kind: Literal["regional", "federated"]
    examples: int
    correct: int | None  # None: predictions are neither right nor wrong
    loss: float


class TrafficEntry(NamedTuple):
    """Bytes exchanged with a device or a peer, since the state was made."""

    party: Literal["device", "peer"]
    name: str
    sent_bytes: int
    received_bytes: int


class TelemetryEntry(Telemetry, frozen=True, kw_only=True):
    """What a device reported of itself."""

    at_s: float  # seconds since 1970, when it came


class History(msgspec.Struct, frozen=True):
    """As far back as the journal reaches."""

    lineage: str = ""
    updates: list[UpdateEntry] = []  # in the order of the journal
    merges: list[MergeEntry] = []
    taken_back: list[TakenBackEntry] = []
    evaluations: list[EvaluationEntry] = []
    telemetry: dict[str, TelemetryEntry] = {}  # by device, the latest
    traffic: list[TrafficEntry] = []


def read_history(state_dir: Path) -> History:
    """Read the journal in `state_dir`; an empty history where no coordinator has made its state yet.

    Raises:
        SchemaTooNewError: another version of Skerry wrote it.
        StateDamagedError: a row is not what was written there.
        StorageError: it cannot be read.
    """
    try:
        store = Store(state_dir, read_only=True)
    except NotMadeError:
        return History()
    try:
        region = store.region()
        return History(
            lineage="" if region is None else region.lineage,
            updates=[UpdateEntry(*row) for row in store.history("updates")],
            merges=[MergeEntry(*row) for row in store.history("merges")],
            taken_back=[TakenBackEntry(*row) for row in store.history("taken_back")],
            evaluations=[EvaluationEntry(*row) for row in store.history("evaluations")],
            telemetry={
                device: TelemetryEntry(**(msgspec.structs.asdict(telemetry) | {"at_s": at_s}))
                for device, at_s, telemetry in store.telemetry()
            },
            traffic=[TrafficEntry(*row) for row in store.history("traffic")],
        )
    finally:
        store.close()
