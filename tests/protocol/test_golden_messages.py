"""The bytes of every message are written down: a changed golden file is a changed wire format."""

from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from skerry.protocol import frames, ledger_lines
from skerry.protocol.errors import MalformedMessage
from skerry.protocol.ledger_lines import LedgerLine
from skerry.protocol.limits import FRAME_BYTES_MAX
from skerry.protocol.messages import (
    BroadcastId,
    BundleReference,
    Drain,
    Enrolling,
    FromAgent,
    FromCoordinator,
    FromPeer,
    Heartbeat,
    Hello,
    Joined,
    JoinRefused,
    JoinRequested,
    ModelOffered,
    ModelVersion,
    Part,
    PartialUpdate,
    Parties,
    PeerLedger,
    PeerModel,
    PeerModelNeeded,
    PeerModelTaken,
    PeerStatus,
    Plan,
    Refused,
    RenewalRequested,
    Revocations,
    Telemetry,
    TokenPassed,
    TokenTaken,
    UpdateAccepted,
    UpdateOffered,
    UpdateRejected,
    Welcome,
)

GOLDEN = Path(__file__).parent / "golden" / "messages"
SHA256 = "0123456789abcdef" * 4
VERSION = ModelVersion("north/0a1b2c3d", 1234)
PART = Part(number=1, of=3, payload_bytes=10, crc32=0xDEADBEEF, data=b"\x00\x01\xfe\xff")
PLAN = Plan(cycle_s=2.5, learning_rate=0.05)
TELLS = (3600.0, 3500.5, 0.25, 400, 4800, 0.75, 80_000_000, 123_456, 654_321, 2, 61.5)  # every telemetry message

EXAMPLES: dict[str, frames.Message] = {
    "hello": Hello(1, 0, "pi-4.kitchen", "0.1.0", "raspberry-pi-4", SHA256, VERSION, 17, 0.0125),
    "hello.first_time": Hello(1, 0, "d", "0.1.0", "", None, None, 0, None),
    "update_offered": UpdateOffered(18, VERSION, 12, 480, 0.6931471805599453, 0.0125, PART),
    "update_offered.whole": UpdateOffered(18, VERSION, 12, 480, 0.6931471805599453, 0.0125, PART, whole=True),
    "update_offered.moved": UpdateOffered(
        18, VERSION, 12, 480, 0.6931471805599453, 0.0125, PART, base_age=1180.25, moves=2
    ),
    "telemetry": Telemetry(*TELLS),
    "telemetry.held_out": Telemetry(
        *TELLS,
        held_out_examples=256,
        held_out_correct=201,
        held_out_loss_sum=153.5,
        personal_correct=230,
    ),
    "telemetry.held_out_version": Telemetry(
        *TELLS,
        held_out_examples=256,
        held_out_correct=201,
        held_out_loss_sum=153.5,
        held_out_version=17,
    ),
    "telemetry.paused": Telemetry(
        *TELLS,
        pace="slow",
        reasons=("temperature 81.0 C, slows at 75.0 C",),
        written_bytes=7_654_321,
    ),
    "heartbeat": Heartbeat(99.5),
    "welcome": Welcome(
        1,
        0,
        "coordinator-north",
        "north",
        BundleReference(SHA256, 654_321),
        {"uplink": {"rule": "top_k", "density": 0.05}, "merge": {"rule": "carry_over"}},
        PLAN,
        17,
        PartialUpdate(18, 0xDEADBEEF, 1),
        262_144,
    ),
    "welcome.on_offer": Welcome(
        1,
        0,
        "coordinator-north",
        "north",
        BundleReference(SHA256, 654_321),
        {"participation": {"rule": "on_offer"}, "uplink": {"rule": "dense"}},
        PLAN,
        17,
        None,
        262_144,
    ),
    "welcome.coordinators": Welcome(
        1,
        1,
        "coordinator-north",
        "north",
        BundleReference(SHA256, 654_321),
        {},
        PLAN,
        17,
        None,
        262_144,
        {"coordinator-north": "https://north.example:8470", "coordinator-south": "https://south.example:8470"},
    ),
    "update_accepted": UpdateAccepted(18, 1235, 0.6, PLAN),
    "update_accepted.held": UpdateAccepted(18, 1234, None, PLAN),
    "update_rejected": UpdateRejected(18, "not_finite", "NaN or infinite values"),
    "update_rejected.late": UpdateRejected(18, "late", "the round is over"),
    "model_offered": ModelOffered(VERSION, ModelVersion("north/0a1b2c3d", 1200), 1180.25, PART),
    "model_offered.whole": ModelOffered(VERSION, None, 0.0, PART),
    "refused": Refused("busy", "20000 devices are connected", retry=True),
    "drain": Drain(3.0),
    "peer_model": PeerModel("coordinator-north", "north/0a1b2c3d", BroadcastId(1, 7), 1180.25, 5, 4, b"\x01\x02"),
    "peer_model_taken": PeerModelTaken(5),
    "peer_model_needed": PeerModelNeeded("publication 4 is not here"),
    "token_passed": TokenPassed("coordinator-north", BroadcastId(1, 7), {"north": 1180.25, "south": 990.0}),
    "token_taken": TokenTaken(BroadcastId(1, 7)),
    "peer_status": PeerStatus(
        "coordinator-north", "north", "north/0a1b2c3d", 1234, 1180.25, SHA256, BroadcastId(1, 7), 3
    ),
    "peer_status.roaming": PeerStatus(
        "coordinator-north",
        "north",
        "north/0a1b2c3d",
        1234,
        1180.25,
        SHA256,
        BroadcastId(1, 7),
        3,
        url="https://north.example:8470",
        ledger="5e6f7081:42",
    ),
    "peer_ledger": PeerLedger(
        "coordinator-north",
        ledger_lines.encode([LedgerLine("pi-4.kitchen", 18, 0.5, 1, 7), LedgerLine("d", 1, None, 0)]),
        "5e6f7081:42",
        more=False,
    ),
    "peer_status.revocations": PeerStatus(
        "coordinator-north", "north", "north/0a1b2c3d", 1234, 1180.25, SHA256, BroadcastId(1, 7), 3, revocations=SHA256
    ),
    "refused.revoked": Refused("revoked", "the certificate of pi-4.kitchen was revoked", retry=False),
    "revocations": Revocations((f"agent/pi-4.kitchen/{SHA256}", f"coordinator/south/{SHA256}"), more=False),
    "peer_status.parties": PeerStatus(
        "coordinator-north",
        "north",
        "north/0a1b2c3d",
        1234,
        1180.25,
        SHA256,
        BroadcastId(1, 7),
        3,
        parties="5e6f7081:2",
    ),
    "parties": Parties((f"agent/pi-4.kitchen/{SHA256}/north/1800000000.5",), "5e6f:2", more=True),
    "join_requested": JoinRequested(bytes(8), bytes(range(16)), "agent", "pi-4.kitchen", b"\x30\x00"),
    "join_requested.coordinator": JoinRequested(
        bytes(8), bytes(range(16)), "coordinator", None, b"\x30\x00", b"\x30\x01\x00", ("south.example", "10.0.0.7")
    ),
    "renewal_requested": RenewalRequested(b"\x30\x00"),
    "joined": Joined(
        "pi-4.kitchen", "north", (b"\x30\x00", b"\x30\x01\x00"), coordinators={"north": "https://north.example:8470"}
    ),
    "joined.coordinator": Joined("south", "south", (b"\x30\x00",), issuer=b"\x30\x01\x00"),
    "join_refused": JoinRefused("expired", "the join token expired: ask for another one"),
}
KINDS: dict[type, Any] = {
    member: kind for kind in (FromAgent, FromCoordinator, FromPeer, Enrolling) for member in get_args(kind)
}
EVERY_EXAMPLE = pytest.mark.parametrize("name", EXAMPLES)


def golden(name: str) -> bytes:
    return bytes.fromhex((GOLDEN / f"{name}.hex").read_text())


@EVERY_EXAMPLE
def test_a_message_has_the_bytes_that_were_agreed(name: str) -> None:
    assert frames.encode(EXAMPLES[name]).hex() == golden(name).hex()


@EVERY_EXAMPLE
def test_the_agreed_bytes_give_the_message(name: str) -> None:
    message = EXAMPLES[name]
    assert frames.decode(golden(name), KINDS[type(message)], bytes_max=FRAME_BYTES_MAX) == message
    assert frames.decode(golden(name), type(message), bytes_max=FRAME_BYTES_MAX) == message


def test_every_message_type_has_golden_bytes() -> None:
    assert {type(message) for message in EXAMPLES.values()} == set(KINDS)
    assert {path.stem for path in GOLDEN.glob("*.hex")} == set(EXAMPLES)


@EVERY_EXAMPLE
def test_a_frame_that_ends_early_is_malformed(name: str) -> None:
    frame, kind = golden(name), KINDS[type(EXAMPLES[name])]
    for length in range(len(frame)):
        with pytest.raises(MalformedMessage):
            frames.decode(frame[:length], kind, bytes_max=FRAME_BYTES_MAX)


@EVERY_EXAMPLE
def test_fields_of_a_newer_minor_version_are_ignored(name: str) -> None:
    fields = msgspec.msgpack.decode(golden(name))

    def add_unknown(node: Any, path: tuple[str, ...]) -> None:
        if not isinstance(node, dict) or path[-1:] in {
            ("recipe",),
            ("ages",),
            ("coordinators",),
        }:  # maps with free keys
            return
        for key, value in node.items():
            add_unknown(value, (*path, key))
        node["not_yet_known"] = {"nested": [1, None, True, b"bytes", "text", 1.5]}

    add_unknown(fields, ())
    frame = msgspec.msgpack.encode(fields)
    assert frames.decode(frame, KINDS[type(EXAMPLES[name])], bytes_max=FRAME_BYTES_MAX) == EXAMPLES[name]


def float_leaves(node: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if isinstance(node, dict):
        return [leaf for key, value in node.items() for leaf in float_leaves(value, (*path, key))]
    return [path] if isinstance(node, float) else []


def float_fields(message_type: Any) -> set[str]:
    """Names of the fields of a message, nested ones too, that can hold a float."""
    names = set()
    for field in msgspec.structs.fields(message_type):
        if "float" in str(field.type):
            names.add(field.name)
        for inner in (Plan, ModelVersion, Part, BundleReference, PartialUpdate, BroadcastId):
            if field.type is inner:
                names |= float_fields(inner)
    return names


@EVERY_EXAMPLE
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_no_number_of_a_message_is_nan_or_infinite(name: str, number: float) -> None:
    """Ages, weights and plans would carry it on; only the loss of a run that diverged may be one."""
    kind = KINDS[type(EXAMPLES[name])]
    for path in float_leaves(msgspec.msgpack.decode(golden(name))):
        fields = msgspec.msgpack.decode(golden(name))
        node = fields
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = number
        frame = packed(fields)
        if path == ("loss",):
            offered = frames.decode(frame, kind, bytes_max=FRAME_BYTES_MAX)
            assert repr(offered.loss) == repr(number)
        else:
            with pytest.raises(MalformedMessage):
                frames.decode(frame, kind, bytes_max=FRAME_BYTES_MAX)


@pytest.mark.parametrize("message_type", KINDS)
def test_the_examples_have_every_float_that_a_message_can_have(message_type: type) -> None:
    seen = {
        part
        for message in EXAMPLES.values()
        if type(message) is message_type
        for path in float_leaves(msgspec.to_builtins(message, builtin_types=(bytes,)))
        for part in path
    }
    assert float_fields(message_type) <= seen


def packed(fields: object) -> bytes:
    import msgpack

    frame: bytes = msgpack.packb(fields)  # msgspec would write NaN as nil
    return frame
