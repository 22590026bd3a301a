"""Every message on the wire. Defined here and nowhere else; `frames` turns them into bytes and back.

Agents and their coordinator exchange `FromAgent` and `FromCoordinator` over one WebSocket; coordinators post
`FromPeer` to each other over HTTP, and whoever joins exchanges `Enrolling` with one of them. Fields that a newer minor
version adds are ignored by an older one.

Every float has bounds on both sides, which keep NaN and infinity out too; `UpdateOffered.loss` alone may be either, so
that an update of a run that diverged is answered with a reason instead of ending the stream.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from skerry.protocol.limits import (
    AGE_MAX,
    MAP_ENTRIES_MAX,
    NAME_CHARS_MAX,
    PARTS_MAX,
    PAYLOAD_BYTES_MAX,
    TEXT_CHARS_MAX,
)

# \Z, not $: the latter lets a line feed through.
Name = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z",
        max_length=NAME_CHARS_MAX,
        description="of letters, digits, `.`, `_` and `-`, beginning with a letter or a digit",
        examples=["greenhouse-7"],
    ),
]
Text = Annotated[str, Meta(max_length=TEXT_CHARS_MAX)]
Count = Annotated[int, Meta(ge=0, le=1 << 62)]
Positive = Annotated[int, Meta(ge=1, le=1 << 62)]
Pace = Literal["train", "slow", "pause"]  # of a device, see skerry/policy.py
Seconds = Annotated[float, Meta(ge=0.0, le=1e12)]
Age = Annotated[float, Meta(ge=0.0, le=AGE_MAX)]  # Spyker's measure of how much training a model holds
Url = Annotated[str, Meta(pattern=r"^https?://[!-~]+\Z", max_length=TEXT_CHARS_MAX)]  # a base, without a path
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Crc32 = Annotated[int, Meta(ge=0, lt=1 << 32)]

Certificate = Annotated[bytes, Meta(max_length=8192)]  # DER
CertificateRequest = Annotated[bytes, Meta(max_length=4096)]  # PKCS #10, DER
Addresses = Annotated[tuple[Annotated[str, Meta(max_length=253)], ...], Meta(max_length=32)]

LOSS_SUM_MAX = 1e30  # of a model that diverged


class ModelVersion(msgspec.Struct, frozen=True):
    """Which regional model: `number` counts the changes of the model whose history is `lineage`.

    A lineage is made when a region's state is made (`<region>/<8 hex digits>`), so that a region that lost its disk
    never takes a version of its former life for one of its own.
    """

    lineage: Annotated[str, Meta(max_length=NAME_CHARS_MAX + 9)]
    number: Count


class Part(msgspec.Struct, frozen=True):
    """One part of a payload: `bytes` is the part, the rest describes the whole."""

    number: Annotated[int, Meta(ge=0, lt=PARTS_MAX)]  # from 0
    of: Annotated[int, Meta(ge=1, le=PARTS_MAX)]
    payload_bytes: Annotated[int, Meta(ge=0, le=PAYLOAD_BYTES_MAX)]
    crc32: Crc32  # of the whole payload
    data: bytes


class Plan(msgspec.Struct, frozen=True):
    """What the coordinator may change while an agent runs."""

    cycle_s: Annotated[float, Meta(gt=0.0, le=86400.0)]  # the time one round of local steps should take
    learning_rate: Annotated[float, Meta(ge=0.0, le=1e6)]


class BundleReference(msgspec.Struct, frozen=True):
    """The task's bundle: fetched from `/v1/bundles/{sha256}` of the same coordinator."""

    sha256: Sha256
    file_bytes: Positive


class PartialUpdate(msgspec.Struct, frozen=True):
    """An update of which the first `parts` parts have arrived; the agent goes on with part number `parts`."""

    sequence: Positive
    crc32: Crc32
    parts: Positive


# --- agent to coordinator ---


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The first frame of a stream."""

    protocol_major: Count
    protocol_minor: Count
    device: Name
    agent_version: Text
    profile: Text  # device type, "" if unknown
    bundle: Sha256 | None  # the bundle the agent holds
    base: ModelVersion | None  # the regional model the agent holds: the next one may come as a difference to it
    last_sequence: Count  # highest number given to an update so far
    seconds_per_step: Seconds | None  # None before calibration


class UpdateOffered(msgspec.Struct, frozen=True, tag="update_offered", omit_defaults=True):
    """The result of one local training run, or one part of it. A field that has a default may be absent."""

    sequence: Positive  # per device, rises by one; the same on every retry
    base: ModelVersion  # the regional model that the difference is against
    steps: Positive  # local steps taken
    examples: Positive  # examples on the device: its share of the data
    loss: float  # mean over the run's steps; NaN or infinite after a run that diverged
    seconds_per_step: Annotated[float, Meta(gt=0.0, le=1e6)]
    part: Part  # sparse vector, see `sparse`
    whole: bool = False  # every entry of the model that was trained, not what to add to the base
    base_age: Age | None = None  # of the base, where its lineage may be another one; None: not known
    moves: Count = 0  # how often the device has changed coordinators since it made this update


class Telemetry(msgspec.Struct, frozen=True, tag="telemetry", omit_defaults=True):
    """How the device is doing; counts since the agent's process started. A field that has a default may be absent."""

    uptime_s: Seconds
    training_s: Seconds  # of it, inside local steps
    idle_s: Seconds  # of it, with nothing to train on: no model, no bundle, no room in the outbox
    cycles: Count
    steps: Count
    seconds_per_step: Seconds
    resident_bytes: Count
    sent_bytes: Count  # frames to the coordinator
    received_bytes: Count
    outbox_updates: Count  # not acknowledged yet
    temperature_c: Annotated[float, Meta(ge=-273.15, le=1e4)] | None
    held_out_examples: Count = 0  # scored in the newest evaluation on the device's own held-out rows; 0: there was none
    held_out_correct: Count = 0  # of them, by the regional model
    held_out_loss_sum: Annotated[float, Meta(ge=0.0, le=LOSS_SUM_MAX)] = 0.0  # over them
    personal_correct: Count | None = None  # of them, by the model with the device's own head; None: it has none
    pace: Pace = "train"
    reasons: Annotated[tuple[Text, ...], Meta(max_length=16)] = ()  # of the pace, the worst first: a word, then figures
    written_bytes: Count = 0  # to disks; 0: the kernel does not count them
    held_out_version: Count | None = None  # of the regional model that was scored; None: none was, or an older agent


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat", omit_defaults=True):
    """Either way: I am alive. The coordinator returns an agent's heartbeat with the same stamp.

    In it goes what has changed since the welcome, so that a stream may stand for weeks.
    """

    stamp_s: Seconds  # on the sender's own clock
    coordinators: Annotated[dict[Name, Url], Meta(max_length=MAP_ENTRIES_MAX)] | None = None  # None: as before


# --- coordinator to agent ---


class Welcome(msgspec.Struct, frozen=True, tag="welcome", omit_defaults=True):
    """The answer to Hello: the task, the recipe and the plan. A field that has a default may be absent."""

    protocol_major: Count
    protocol_minor: Count
    coordinator: Name
    region: Name
    bundle: BundleReference
    recipe: dict[str, Any]  # the agent's stages of the recipe: `skerry.recipe.AgentStages` as a map
    plan: Plan
    last_sequence: Count  # highest update of this device that is in the journal; 0: none
    partial: PartialUpdate | None
    part_bytes_max: Positive  # what the coordinator takes in one part
    coordinators: Annotated[dict[Name, Url], Meta(max_length=MAP_ENTRIES_MAX)] = {}  # that live and serve agents
    base_given_up: bool = False  # the model that the device holds: what it made so far counts no more, and is dropped


class UpdateAccepted(msgspec.Struct, frozen=True, tag="update_accepted"):
    """The update is in the journal. `weight` is what its values were multiplied with before they were added.

    None: the arrival rule holds the update for later; it will be applied, with a weight not known yet. Or it is a
    repeat of one so long ago that its weight is not known any more.
    """

    sequence: Positive
    version: Count  # of the regional model that holds it, or of the newest one where it is held for later
    weight: Annotated[float, Meta(ge=0.0, le=1e6)] | None
    plan: Plan


class UpdateRejected(msgspec.Struct, frozen=True, tag="update_rejected"):
    """The update will never be applied: the agent returns its mass to the residual, or drops it.

    It drops what is `not_finite`, an `outlier` or of a device in quarantine, which would come back with the next one;
    agents of protocol 1.0 are told `not_finite` for all three. `late`: it is of a round that is over, or one of too
    many that wait; only agents that know rounds are told so.
    """

    sequence: Positive
    reason: Literal[
        "malformed",
        "not_finite",
        "wrong_size",
        "unknown_base",
        "too_large",
        "wrong_sequence",
        "late",
        "outlier",
        "quarantined",
    ]
    detail: Text


class ModelOffered(msgspec.Struct, frozen=True, tag="model_offered"):
    """A newer regional model, or one part of it: exact float32 values.

    With a `base`, the entries that changed since it; without, every entry.
    """

    version: ModelVersion
    base: ModelVersion | None
    age: Age
    part: Part  # sparse vector of values to set


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The stream ends here; `retry` says whether coming back later can help."""

    reason: Literal["protocol", "malformed", "superseded", "busy", "revoked"]
    detail: Text
    retry: bool


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """The coordinator is about to stop; come back after `reconnect_after_s`."""

    reconnect_after_s: Seconds


# --- coordinator to coordinator ---


class BroadcastId(msgspec.Struct, frozen=True, order=True):
    """Which token, and which exchange of models under it.

    `epoch` rises when a lost token is made anew, `number` with every hop of the token and with every exchange.
    """

    epoch: Count
    number: Count


class PeerModel(msgspec.Struct, frozen=True, tag="peer_model"):
    """A coordinator's model for its peers' replicas.

    `values` is added to publication `base` of the same lineage, or to zero where `base` is None.
    """

    coordinator: Name
    lineage: Annotated[str, Meta(max_length=NAME_CHARS_MAX + 9)]
    broadcast: BroadcastId
    age: Age
    publication: Positive  # counts what this coordinator has published
    base: Count | None
    values: bytes  # sparse vector


class PeerModelTaken(msgspec.Struct, frozen=True, tag="peer_model_taken"):
    """The model is in the receiver's journal, or was there already."""

    publication: Count


class PeerModelNeeded(msgspec.Struct, frozen=True, tag="peer_model_needed"):
    """The receiver does not hold publication `base`: send the model whole."""

    detail: Text


class TokenPassed(msgspec.Struct, frozen=True, tag="token_passed"):
    """The one token of the federation, handed to the receiver."""

    sender: Name
    broadcast: BroadcastId
    ages: Annotated[dict[Name, Age], Meta(max_length=MAP_ENTRIES_MAX)]


class TokenTaken(msgspec.Struct, frozen=True, tag="token_taken"):
    """The receiver holds the token, or knows of a newer one."""

    broadcast: BroadcastId


class PeerStatus(msgspec.Struct, frozen=True, tag="peer_status", omit_defaults=True):
    """What a coordinator tells any peer that asks; also the sign of life. A field that has a default may be absent."""

    coordinator: Name
    region: Name
    lineage: Annotated[str, Meta(max_length=NAME_CHARS_MAX + 9)]
    version: Count
    age: Age
    bundle: Sha256
    broadcast: BroadcastId
    devices: Count  # connected now
    url: Url | None = None  # where agents reach it; None: they are not to be sent there
    ledger: Text = ""  # up to where there are lines to ask for, see PeerLedger; "": there are none
    revocations: Sha256 | None = None  # of those that it knows, see Revocations; None: there are none
    parties: Text = ""  # up to where there are some to ask for, see Parties; "": there are none


class PeerLedger(msgspec.Struct, frozen=True, tag="peer_ledger"):
    """Updates that a coordinator has on its disk: those behind the place that it was asked for, the oldest first."""

    coordinator: Name
    lines: bytes  # see `ledger_lines`
    up_to: Text  # the place behind them: what to ask for next time
    more: bool  # there are further lines


class Revocations(msgspec.Struct, frozen=True, tag="revocations"):
    """Certificates that count no more, whoever issued them: those behind the one that was asked for, in order.

    Each is text, `ROLE/NAME/KEY`: KEY is the SHA-256 of the public key, and covers every certificate for that key.
    """

    revoked: Annotated[tuple[Annotated[str, Meta(max_length=160)], ...], Meta(max_length=MAP_ENTRIES_MAX)]
    more: bool  # there are further ones


class Parties(msgspec.Struct, frozen=True, tag="parties"):
    """Who was enrolled: those behind the place that was asked for, in the order in which the coordinator heard of them.

    Each is text, `ROLE/NAME/KEY/REGION/SECONDS`: KEY as in Revocations, SECONDS since 1970 when it was enrolled first.
    """

    parties: Annotated[tuple[Annotated[str, Meta(max_length=256)], ...], Meta(max_length=MAP_ENTRIES_MAX)]
    up_to: Text  # the place behind them: what to ask for next time
    more: bool  # there are further ones


# --- enrolment: over HTTP, from whoever has no certificate yet or wants a new one ---


class JoinRequested(msgspec.Struct, frozen=True, tag="join_requested", omit_defaults=True):
    """To become a party of the federation. A field that has a default may be absent."""

    join_token: Annotated[bytes, Meta(min_length=8, max_length=8)]  # its identifier
    secret: Annotated[bytes, Meta(min_length=16, max_length=16)]  # of the join token
    role: Literal["agent", "coordinator"]
    name: Name | None  # None: as the join token says, or the coordinator chooses
    request: CertificateRequest
    issuer_request: CertificateRequest | None = None  # of a coordinator: for the key that it will sign devices with
    addresses: Addresses = ()  # of a coordinator: host names and IP addresses that it is reached by

    def __repr__(self) -> str:
        """Leave the secret out: this may end up in a log."""
        return f"JoinRequested({self.join_token.hex()}, {self.role}, {self.name})"


class RenewalRequested(msgspec.Struct, frozen=True, tag="renewal_requested", omit_defaults=True):
    """For another certificate like the one that the connection shows. A field that has a default may be absent."""

    request: CertificateRequest  # for the same key
    issuer_request: CertificateRequest | None = None  # of a coordinator
    addresses: Addresses = ()  # of a coordinator


class Joined(msgspec.Struct, frozen=True, tag="joined", omit_defaults=True):
    """The answer to both. A field that has a default may be absent."""

    name: Name
    region: Name
    certificates: Annotated[tuple[Certificate, ...], Meta(min_length=1, max_length=4)]  # own one, then who signed it
    issuer: Certificate | None = None  # of a coordinator: for its `issuer_request`
    coordinators: Annotated[dict[Name, Url], Meta(max_length=MAP_ENTRIES_MAX)] = {}  # that live and serve agents


class JoinRefused(msgspec.Struct, frozen=True, tag="join_refused"):
    """The other answer to both; `detail` names cause and remedy."""

    reason: Literal[
        "malformed", "unknown", "expired", "used", "revoked", "wrong_role", "name", "name_taken", "no_root", "busy"
    ]
    detail: Text


FromAgent = Hello | UpdateOffered | Telemetry | Heartbeat
FromCoordinator = Welcome | UpdateAccepted | UpdateRejected | ModelOffered | Heartbeat | Refused | Drain
FromPeer = (
    PeerModel
    | PeerModelTaken
    | PeerModelNeeded
    | TokenPassed
    | TokenTaken
    | PeerStatus
    | PeerLedger
    | Revocations
    | Parties
)
Enrolling = JoinRequested | RenewalRequested | Joined | JoinRefused
