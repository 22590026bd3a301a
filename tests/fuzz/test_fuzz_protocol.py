"""Any bytes at all give a result or MalformedMessage, nothing else, and memory stays bounded."""

import struct
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from skerry.protocol import frames, sparse
from skerry.protocol.errors import MalformedMessage, MalformedVector
from skerry.protocol.limits import FRAME_BYTES_MAX, PARTS_MAX, PAYLOAD_BYTES_MAX
from skerry.protocol.messages import Enrolling, FromAgent, FromCoordinator, FromPeer, Part
from skerry.protocol.parts import Assembler, split

GOLDEN = Path(__file__).parent.parent / "protocol" / "golden"
FRAMES = [bytes.fromhex(path.read_text()) for path in sorted((GOLDEN / "messages").glob("*.hex"))]
VECTORS = [bytes.fromhex(path.read_text()) for path in sorted((GOLDEN / "vectors").glob("*.hex"))]
KINDS: tuple[Any, ...] = (FromAgent, FromCoordinator, FromPeer, Enrolling)
FRAME_OBJECTS_BYTES_MAX = 8 << 20  # for a frame, besides 5 bytes for each of its own: see docs/wire_format.md
LARGE_FRAME_BYTES_MAX = 8 << 20  # a peer's
FUZZ = settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def damaged(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """Draw a good message with some bytes replaced, inserted, removed, or taken from another one."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        removed = draw(st.integers(0, 4))
        other = draw(st.sampled_from(originals))
        start = draw(st.integers(0, len(other)))
        data[at : at + removed] = draw(st.binary(max_size=6) | st.just(other[start : start + 20]))
    return bytes(data)


def peak_bytes(work: Callable[[], object]) -> int:
    """Return how much memory `work` had at most at any one time, whether it succeeded or found its input malformed."""
    tracemalloc.start()
    try:
        with suppress(MalformedMessage):
            work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@given(frame=st.binary(max_size=200) | damaged(FRAMES))
@example(frame=b"\x81\xa4type\xa5hello")
@FUZZ
def test_any_bytes_are_a_message_or_malformed(frame: bytes) -> None:
    for kind in KINDS:
        with suppress(MalformedMessage):
            message = frames.decode(frame, kind, bytes_max=FRAME_BYTES_MAX)
            frames.decode(frames.encode(message), kind, bytes_max=2 * FRAME_BYTES_MAX)


@given(data=st.binary(max_size=200) | damaged(VECTORS), size=st.sampled_from([0, 3, 16, 1000]))
@FUZZ
def test_any_bytes_are_a_vector_or_malformed(data: bytes, size: int) -> None:
    with suppress(MalformedVector):
        vector = sparse.decode(data, size=size)
        assert len(vector.indices) == len(vector.values) <= size == vector.size
        assert (np.diff(vector.indices, prepend=-1) > 0).all()
        assert (vector.indices < size).all()
        assert np.isfinite(vector.values).all()


@given(
    form=st.integers(0, 3),
    encoding=st.integers(0, 4),
    parameter=st.integers(0, 26),
    count=st.integers(0, 40),
    rest=st.binary(max_size=60),
)
@FUZZ
def test_any_bytes_behind_a_plausible_header_are_a_vector_or_malformed(
    form: int, encoding: int, parameter: int, count: int, rest: bytes
) -> None:
    data = struct.pack("<BBBBII", form, encoding, parameter, 0, 1 << 20, count) + rest
    with suppress(MalformedVector):
        vector = sparse.decode(data, size=1 << 20)
        assert len(vector) == count
        assert (np.diff(vector.indices, prepend=-1) > 0).all()
        assert (vector.indices < 1 << 20).all()


PAYLOAD = bytes(range(100))
ANY_PARTS = st.builds(
    Part,
    number=st.integers(0, 6) | st.integers(0, PARTS_MAX - 1),
    of=st.integers(1, 6) | st.integers(1, PARTS_MAX),
    payload_bytes=st.integers(0, 120) | st.integers(0, PAYLOAD_BYTES_MAX),
    crc32=st.sampled_from([0, split(PAYLOAD, 30)[0].crc32]),
    data=st.binary(max_size=40),
)


@given(
    steps=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(split(PAYLOAD, 30)) | ANY_PARTS), max_size=12),
    payload_bytes_max=st.sampled_from([0, 100, 1000]),
)
@FUZZ
def test_any_parts_are_a_payload_or_malformed(steps: list[tuple[str, Part]], payload_bytes_max: int) -> None:
    assembler = Assembler(payload_bytes_max)
    for key, part in steps:
        with suppress(MalformedMessage):
            payload = assembler.add(key, part)
            assert payload is None or len(payload) == part.payload_bytes <= payload_bytes_max
        held = assembler.partial
        assert held is None or 0 < held[1] < PARTS_MAX


def test_an_assembler_keeps_no_more_than_what_has_arrived() -> None:
    """A part that announces 256 MiB costs what it holds."""
    assembler = Assembler(PAYLOAD_BYTES_MAX)
    part = Part(0, PARTS_MAX, PAYLOAD_BYTES_MAX, 0, bytes(PAYLOAD_BYTES_MAX // PARTS_MAX))
    assert peak_bytes(lambda: assembler.add("key", part)) < 10_000
    assert assembler.partial is not None


def filled(unit: bytes) -> bytes:
    """Return hello with an unknown field: three levels of lists around as many units as fit a peer's frame."""
    inner = b"\xdc\x00\xff" + 255 * unit
    middle = b"\xdc\x00\xff" + 255 * inner
    count = min(255, LARGE_FRAME_BYTES_MAX // len(middle))
    return b"\x82\xa4type\xa5hello\xa1x\xdc" + struct.pack(">H", count) + count * middle


def maps() -> bytes:
    """Return hello with an unknown field: as many maps as are allowed, full of different keys and floats."""
    entries = b"".join(b"\xa2%02x\xcb" % key + struct.pack(">d", key + 0.5) for key in range(255))
    return b"\x82\xa4type\xa5hello\xa1x\xdc\x00\xfe" + 254 * (b"\xde\x00\xff" + entries)


def text(chars: int) -> bytes:
    """Return a text that takes four bytes a character in memory and hardly more than one on the wire."""
    encoded = "\N{GRINNING FACE}".encode() + (chars - 1) * b"x"
    return b"\xda" + struct.pack(">H", len(encoded)) + encoded


@pytest.mark.parametrize(
    "frame",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\xdc\x01\x00" * 300_000,
        b"\xde\x01\x00\xa0" * 250_000,
        filled(b"\x80"),
        filled(b"\x90"),
        filled(b"\xc0"),
        filled(b"\x81\xa0\x80"),
        filled(b"\x92\xa2ab\x81\xa2cd\xc0"),
        filled(text(100)),
        maps(),
        filled(b"\xcb\x3f\xf1\x99\x99\x99\x99\x99\x9a"),
    ],
    ids=[
        "list",
        "map",
        "bytes",
        "text",
        "extension",
        "lists",
        "maps",
        "{}",
        "[]",
        "nil",
        "{'': {}}",
        "pairs",
        "texts",
        "full maps",
        "floats",
    ],
)
def test_a_frame_takes_memory_for_what_it_holds_not_for_what_it_claims(frame: bytes) -> None:
    peak = peak_bytes(lambda: frames.decode(frame, FromAgent, bytes_max=2 * LARGE_FRAME_BYTES_MAX))
    assert peak < FRAME_OBJECTS_BYTES_MAX + 5 * len(frame)


def hostile(size: int, count: int, parameter: int, rest: bytes, form: int = 1, encoding: int = 3) -> bytes:
    return struct.pack("<BBBBII", form, encoding, parameter, 0, size, count) + rest


@pytest.mark.parametrize(
    "data",
    [
        hostile(1 << 31, 1 << 31, 0, bytes(10)),
        hostile(1 << 31, 1 << 31, 0, bytes(10), form=2),
        hostile(1 << 31, 1, 24, bytes(100)),
        hostile(1 << 31, 1, 0, b"\xff" * 100_000),
        hostile(1 << 31, 1, 0, bytes(100_000)),
        hostile(1 << 31, 1, 0, bytes(99_995) + b"\x01" + bytes(5)),
        hostile(1 << 31, 50_000, 0, b"\xff" * 50_000 + bytes(50_004)),
        hostile(1 << 31, 80_000, 0, b"\xff" * 10_000 + bytes(80_004)),
        hostile(1 << 31, 1000, 24, bytes(3000) + b"\xff" * 125 + bytes(1004)),
    ],
    ids=["sparse", "dense", "low bits", "ones", "zeros", "one far out", "too many ones", "all", "large gaps"],
)
def test_a_vector_takes_memory_for_what_it_holds_not_for_what_it_claims(data: bytes) -> None:
    """At most 8 bytes for a byte of input and 40 for an entry, of which each takes a byte at least."""
    assert peak_bytes(lambda: sparse.decode(data, size=1 << 31)) < 48 * len(data) + 10_000


@pytest.mark.parametrize(
    "data",
    [
        hostile(1000, 1, 0, bytes(1_000_000)),
        hostile(1000, 1, 0, b"\x01" + bytes(1_000_000)),
        hostile(1000, 500_000, 0, b"\xff" * 62_500 + bytes(500_004)),
        hostile(1000, 500_000, 0, bytes(500_004), form=2),
    ],
    ids=["zeros", "zeros behind a one", "more entries than the vector has", "dense"],
)
def test_a_long_payload_for_a_small_model_costs_no_more_than_itself(data: bytes) -> None:
    """A device may send 256 MiB whatever the size of the model."""
    assert peak_bytes(lambda: sparse.decode(data, size=1000)) < 1.2 * len(data)
