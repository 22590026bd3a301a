"""Payloads arrive whole, in order and unchanged, or not at all."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.protocol.errors import MalformedMessage
from skerry.protocol.limits import PARTS_MAX
from skerry.protocol.messages import Part
from skerry.protocol.parts import Assembler, split

PAYLOAD = bytes(range(10))  # in parts of 4: 4, 4 and 2 bytes


def fed(*parts: Part, payload_bytes_max: int = 100) -> Assembler:
    assembler = Assembler(payload_bytes_max)
    for part in parts:
        assert assembler.add("update 1", part) is None
    return assembler


def changed(part: Part, **changes: object) -> Part:
    return msgspec.structs.replace(part, **changes)


@given(payload=st.binary(max_size=300), part_bytes=st.integers(1, 400), repeats=st.lists(st.integers(0, 5), max_size=5))
@settings(deadline=None)
def test_what_was_split_is_put_together_again(payload: bytes, part_bytes: int, repeats: list[int]) -> None:
    parts = split(payload, part_bytes)
    assert all(len(part.data) <= part_bytes for part in parts)
    assembler = Assembler(300)
    for part in parts[:-1]:
        assert assembler.add("key", part) is None
        for repeat in repeats:
            assert assembler.add("key", parts[min(repeat, part.number)]) is None
        assert assembler.partial == ("key", part.number + 1, part.crc32)
    assert assembler.add("key", parts[-1]) == payload
    assert assembler.partial is None


@given(payload=st.binary(min_size=1, max_size=300), part_bytes=st.integers(1, 50), data=st.data())
@settings(deadline=None)
def test_a_payload_that_was_cut_goes_on_where_partial_says(
    payload: bytes, part_bytes: int, data: st.DataObject
) -> None:
    parts = split(payload, part_bytes)
    cut = data.draw(st.integers(0, len(parts) - 1))
    assembler = Assembler(300)
    for part in parts[:cut]:
        assembler.add("key", part)
    received = assembler.partial[1] if assembler.partial else 0
    assert received == cut
    rest = split(payload, part_bytes, received)
    assert rest == parts[cut:]
    assert [assembler.add("key", part) for part in rest][-1] == payload


def test_an_empty_payload_has_one_empty_part() -> None:
    (part,) = split(b"", 4)
    assert Assembler(0).add("key", part) == b""


def test_a_payload_that_is_sent_again_comes_out_again() -> None:
    """An acknowledgement may get lost: whoever reads the payloads drops repeats, not the assembler."""
    assembler = Assembler(100)
    for _ in range(2):
        assert [assembler.add("key", part) for part in split(PAYLOAD, 4)] == [None, None, PAYLOAD]


def test_another_key_drops_what_is_in_hand() -> None:
    first, second, third = split(PAYLOAD, 4)
    assembler = fed(first, second)
    assert assembler.add("update 2", first) is None
    assert assembler.partial == ("update 2", 1, first.crc32)
    with pytest.raises(MalformedMessage):
        assembler.add("update 2", third)


def test_part_0_of_another_payload_starts_anew_under_the_same_key() -> None:
    assembler = fed(*split(PAYLOAD, 4)[:2])
    assert [assembler.add("update 1", part) for part in split(PAYLOAD, 6)] == [None, PAYLOAD]


def test_a_payload_may_be_cut_anew_into_as_many_parts_of_another_length() -> None:
    payload = bytes(9)
    assembler = fed(*split(payload, 3)[:2])
    assert [assembler.add("update 1", part) for part in split(payload, 4)] == [None, None, payload]


FIRST, SECOND, THIRD = split(PAYLOAD, 4)


@pytest.mark.parametrize(
    ("taken", "bad"),
    [
        ([], SECOND),
        ([FIRST], THIRD),
        ([FIRST], changed(SECOND, number=3)),
        ([FIRST], changed(SECOND, number=7)),
        ([FIRST], changed(SECOND, crc32=1)),
        ([FIRST], changed(SECOND, payload_bytes=11)),
        ([FIRST], changed(SECOND, of=4)),
        ([FIRST], changed(SECOND, data=b"123")),
        ([FIRST], changed(SECOND, data=b"12345")),
        ([FIRST, SECOND], changed(THIRD, data=b"1")),
        ([FIRST, SECOND], changed(THIRD, data=b"123")),
        ([FIRST, SECOND], changed(THIRD, data=b"12")),
        ([], changed(FIRST, data=b"", of=10)),
        ([], changed(FIRST, of=1)),
        ([], changed(FIRST, of=4)),
        ([], changed(FIRST, payload_bytes=101, of=26)),
    ],
    ids=[
        "no part 0", "a gap", "number is of", "number above of", "other crc", "other length", "other count",
        "short", "long", "short end", "long end", "wrong checksum", "empty", "too few", "too many", "too large",
    ],
)  # fmt: skip
def test_a_part_that_does_not_fit_is_malformed_and_drops_the_payload(taken: list[Part], bad: Part) -> None:
    assembler = fed(*taken)
    with pytest.raises(MalformedMessage):
        assembler.add("update 1", bad)
    assert assembler.partial is None
    assert [assembler.add("update 1", part) for part in split(PAYLOAD, 4)][-1] == PAYLOAD


def test_no_payload_is_cut_into_more_parts_than_the_wire_allows() -> None:
    assert len(split(bytes(PARTS_MAX), 1)) == PARTS_MAX
    with pytest.raises(ValueError, match="parts"):
        split(bytes(PARTS_MAX + 1), 1)
