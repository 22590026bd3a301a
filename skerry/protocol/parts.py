"""Payloads that are larger than a frame: cut into parts, put together again, resumed after a cut. No I/O."""

from collections.abc import Hashable, Iterator
from zlib import crc32

from skerry.protocol.errors import MalformedMessage
from skerry.protocol.limits import PARTS_MAX
from skerry.protocol.messages import Part


def split(payload: bytes, part_bytes: int, start: int = 0) -> list[Part]:
    """Return the parts of `payload` from number `start` on, `part_bytes` each but for the last; an empty one has one.

    Raises:
        ValueError: it would take more than PARTS_MAX parts.
    """
    return list(cut(payload, part_bytes, start))


def cut(payload: bytes, part_bytes: int, start: int = 0) -> Iterator[Part]:
    """Yield what `split` returns, each part copied only when it is due: many streams may send one large payload.

    Raises:
        ValueError: with the first part, as `split`.
    """
    of = _parts(len(payload), part_bytes)
    if of > PARTS_MAX:
        raise ValueError(f"{len(payload)} bytes in parts of {part_bytes} make {of} parts, at most {PARTS_MAX}")
    check = crc32(payload)
    for number in range(start, of):
        yield Part(number, of, len(payload), check, payload[number * part_bytes : (number + 1) * part_bytes])


class Assembler:
    """Puts the parts of one payload at a time together, in order; keeps no more than what has arrived of it.

    Whoever owns it may keep it across connections: `partial` tells the other side where to go on.
    """

    def __init__(self, payload_bytes_max: int) -> None:
        self._payload_bytes_max = payload_bytes_max
        self._key: Hashable = None
        self._first: Part | None = None  # part 0 of the payload in hand, None between payloads
        self._data: list[bytes] = []

    @property
    def partial(self) -> tuple[Hashable, int, int] | None:
        """The payload in hand as (key, parts received, CRC-32 of the whole); None between payloads."""
        return None if self._first is None else (self._key, len(self._data), self._first.crc32)

    def add(self, key: Hashable, part: Part) -> bytes | None:
        """Take the next part of payload `key`; return the payload with its last part.

        A part that was taken before is ignored. Part 0 of another payload or length, or another key, drops the one in
        hand.

        Raises:
            MalformedMessage: out of order, of the wrong length, too large, or a wrong checksum. What was in hand is
                dropped: the payload starts again from part 0.
        """
        try:
            return self._add(key, part)
        except MalformedMessage:
            self._drop()
            raise

    def _add(self, key: Hashable, part: Part) -> bytes | None:
        if self._first is None or key != self._key or (part.number == 0 and not _same_start(part, self._first)):
            self._begin(key, part)
        first = self._first
        assert first is not None
        if not _same_payload(part, first):
            raise MalformedMessage(f"part {part.number} belongs to another payload than part 0")
        if part.number < len(self._data):
            return None
        if part.number > len(self._data):
            raise MalformedMessage(f"part {part.number} where part {len(self._data)} was due")
        last = part.number == part.of - 1
        expected = part.payload_bytes - part.number * len(first.data) if last else len(first.data)
        if len(part.data) != expected:
            raise MalformedMessage(f"part {part.number} has {len(part.data)} bytes, {expected} were due")
        self._data.append(part.data)
        return self._finish(first) if last else None

    def _begin(self, key: Hashable, part: Part) -> None:
        """Drop what is in hand and start with `part`, which must be part 0 and describe a possible payload."""
        self._drop()
        if part.number != 0:
            raise MalformedMessage(f"part {part.number} of a payload whose part 0 was never seen")
        if part.payload_bytes > self._payload_bytes_max:
            raise MalformedMessage(f"payload of {part.payload_bytes} bytes, at most {self._payload_bytes_max}")
        if part.payload_bytes > 0 and not part.data:
            raise MalformedMessage("part 0 is empty")
        if part.of != _parts(part.payload_bytes, max(1, len(part.data))):
            raise MalformedMessage(f"{part.of} parts like part 0 do not make {part.payload_bytes} bytes")
        self._key, self._first = key, part

    def _finish(self, first: Part) -> bytes:
        payload = self._data[0] if len(self._data) == 1 else b"".join(self._data)
        if crc32(payload) != first.crc32:
            raise MalformedMessage("the payload's checksum is wrong")
        self._drop()
        return payload

    def _drop(self) -> None:
        self._key, self._first, self._data = None, None, []


def _parts(payload_bytes: int, part_bytes: int) -> int:
    """Return how many parts a payload takes; an empty one still takes one."""
    return max(1, -(-payload_bytes // part_bytes))


def _same_payload(part: Part, other: Part) -> bool:
    return (part.of, part.payload_bytes, part.crc32) == (other.of, other.payload_bytes, other.crc32)


def _same_start(part: Part, first: Part) -> bool:
    """Say whether `part` repeats part 0; a payload cut anew may come in as many parts of another length."""
    return _same_payload(part, first) and len(part.data) == len(first.data)
