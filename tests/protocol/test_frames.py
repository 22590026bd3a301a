"""What a peer may put into a frame, and what it may not."""

from typing import Any

import msgpack
import pytest

from skerry.protocol.errors import MalformedMessage
from skerry.protocol.frames import decode, encode
from skerry.protocol.limits import CONTAINERS_MAX, FRAME_BYTES_MAX, MAP_ENTRIES_MAX, TEXT_CHARS_MAX
from skerry.protocol.messages import (
    Drain,
    FromAgent,
    FromCoordinator,
    FromPeer,
    Heartbeat,
    Hello,
    PeerModel,
    UpdateRejected,
)


def hello(**changes: Any) -> bytes:
    fields = {
        "type": "hello",
        "protocol_major": 1,
        "protocol_minor": 0,
        "device": "pi",
        "agent_version": "0.1.0",
        "profile": "",
        "bundle": None,
        "base": None,
        "last_sequence": 0,
        "seconds_per_step": None,
    }
    frame: bytes = msgpack.packb({**fields, **changes})
    return frame


def assert_malformed(frame: bytes, kind: Any = FromAgent, bytes_max: int = FRAME_BYTES_MAX) -> None:
    with pytest.raises(MalformedMessage):
        decode(frame, kind, bytes_max=bytes_max)


def test_the_frame_that_the_others_here_differ_from_is_good() -> None:
    assert isinstance(decode(hello(), FromAgent, bytes_max=FRAME_BYTES_MAX), Hello)


def test_a_frame_may_be_as_long_as_the_limit_and_not_a_byte_longer() -> None:
    frame = encode(Drain(1.0))
    assert decode(frame, FromCoordinator, bytes_max=len(frame)) == Drain(1.0)
    assert_malformed(frame, FromCoordinator, bytes_max=len(frame) - 1)


def test_a_message_for_somebody_else_is_malformed() -> None:
    assert_malformed(encode(Drain(1.0)), FromAgent)
    assert_malformed(encode(Drain(1.0)), FromPeer)
    assert_malformed(encode(Drain(1.0)), Heartbeat)


def test_a_heartbeat_goes_both_ways() -> None:
    frame = encode(Heartbeat(1.0))
    assert decode(frame, FromAgent, bytes_max=64) == decode(frame, FromCoordinator, bytes_max=64) == Heartbeat(1.0)


@pytest.mark.parametrize(
    "value",
    [None, 1, [], "hello", b"hello", {}, {"type": None}, {"type": []}, {"type": "x" * 300}, {"type": b"hello"}],
)
def test_what_names_no_message_type_is_malformed(value: object) -> None:
    assert_malformed(msgpack.packb(value))


@pytest.mark.parametrize(
    "changes",
    [
        {"device": ""},
        {"device": "a" * 65},
        {"device": "../etc"},
        {"device": "pi\n"},
        {"device": b"pi"},
        {"bundle": "0" * 63},
        {"bundle": "0" * 64 + "\n"},
        {"bundle": "A" * 64},
        {"last_sequence": -1},
        {"last_sequence": 1 << 63},
        {"last_sequence": 1.5},
        {"last_sequence": "1"},
        {"last_sequence": True},
        {"seconds_per_step": -0.1},
        {"seconds_per_step": "0.1"},
        {"profile": "x" * (TEXT_CHARS_MAX + 1)},
        {"base": {"lineage": "north/0a1b2c3d"}},
        {"base": {"lineage": "x" * 100, "number": 1}},
        {"base": [1, 2]},
    ],
    ids=str,
)
def test_a_field_outside_its_bounds_is_malformed(changes: dict[str, object]) -> None:
    assert_malformed(hello(**changes))


@pytest.mark.parametrize(
    "extra",
    [
        "x" * (4 * TEXT_CHARS_MAX + 1),
        [None] * (MAP_ENTRIES_MAX + 1),
        {str(number): None for number in range(MAP_ENTRIES_MAX + 1)},
        (CONTAINERS_MAX - 1) * [[]],
        [(CONTAINERS_MAX - 2) * [{}]],
        {1: "a key that is no string"},
        msgpack.ExtType(1, b""),
        msgpack.ExtType(1, b"data"),
        msgpack.Timestamp(1, 2),
    ],
    ids=["text", "list", "map", "lists", "maps", "integer key", "empty extension", "extension", "timestamp"],
)
def test_the_limits_hold_for_unknown_fields_too(extra: object) -> None:
    assert_malformed(hello(unknown=extra))


def test_as_many_maps_and_lists_as_the_limit_are_good() -> None:
    decode(hello(unknown=(CONTAINERS_MAX - 2) * [[]]), FromAgent, bytes_max=FRAME_BYTES_MAX)


def test_text_that_is_no_utf_8_is_malformed() -> None:
    assert_malformed(hello(profile="abc").replace(b"\xa3abc", b"\xa3a\xffc"))


def test_a_second_value_behind_the_message_is_malformed() -> None:
    assert_malformed(hello() + b"\xc0")


@pytest.mark.parametrize("depth", [2_000, 100_000])
def test_nesting_without_end_is_malformed(depth: int) -> None:
    assert_malformed(b"\x91" * depth + b"\xc0")
    assert_malformed(hello(unknown=None)[:-1] + b"\x91" * depth + b"\xc0")


def test_a_recipe_may_be_deep_but_holds_no_infinite_number() -> None:
    nested: Any = float("inf")
    for _ in range(100):
        nested = [{"deeper": nested}]
    welcome = {
        "type": "welcome",
        "protocol_major": 1,
        "protocol_minor": 0,
        "coordinator": "c",
        "region": "r",
        "bundle": {"sha256": "0" * 64, "file_bytes": 1},
        "plan": {"cycle_s": 1.0, "learning_rate": 0.1},
        "last_sequence": 0,
        "partial": None,
        "part_bytes_max": 1024,
    }
    for recipe in ({"uplink": {"density": float("nan")}}, {"a": [{"b": [0.0, float("-inf")]}]}, {"deep": nested}):
        assert_malformed(msgpack.packb({**welcome, "recipe": recipe}), FromCoordinator)
    decode(msgpack.packb({**welcome, "recipe": {"a": [{"b": [0.5]}]}}), FromCoordinator, bytes_max=FRAME_BYTES_MAX)


def test_a_rejection_names_one_of_the_known_reasons() -> None:
    frame = encode(UpdateRejected(1, "malformed", "")).replace(b"malformed", b"deformed!")
    assert_malformed(frame, FromCoordinator)


def test_bytes_may_be_as_long_as_the_frame_allows() -> None:
    """A peer's model comes whole: its values are bounded by the frame, not by a text's limit."""
    from skerry.protocol.messages import BroadcastId

    model = PeerModel("north", "north/0a1b2c3d", BroadcastId(1, 1), 1.0, 1, None, bytes(3 << 20))
    assert decode(encode(model), FromPeer, bytes_max=4 << 20) == model
