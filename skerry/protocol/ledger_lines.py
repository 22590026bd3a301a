"""Which updates a coordinator has taken, as its peers are told: lines of a PeerLedger to bytes and back. No I/O."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from skerry.protocol.errors import MalformedMessage
from skerry.protocol.limits import LEDGER_LINES_MAX
from skerry.protocol.messages import Count, Name, Positive

Weight = Annotated[float, Meta(ge=0.0, le=1e6)]


class LedgerLine(msgspec.Struct, frozen=True, array_like=True):
    """One update that counts in a region's model, or will when the arrival rule lets it go."""

    device: Name
    sequence: Positive
    weight: Weight | None  # None: it is held
    moves: Count  # of the copy that was taken, or answered again: see UpdateOffered
    publication: Count = 0  # of its coordinator, the first that holds it; 0: every one does, or it is not known


class _Lines(msgspec.Struct, frozen=True, array_like=True):
    lines: Annotated[list[LedgerLine], Meta(max_length=LEDGER_LINES_MAX)]


_decoder = msgspec.msgpack.Decoder(_Lines)


def encode(lines: Sequence[LedgerLine]) -> bytes:
    """Return the bytes of at most LEDGER_LINES_MAX lines."""
    return msgspec.msgpack.encode(_Lines(list(lines)))


def decode(data: bytes) -> list[LedgerLine]:
    """Read a peer's lines. Memory: some hundred bytes for each byte of `data` at most, which the caller bounds.

    Raises:
        MalformedMessage: they are none; no other error.
    """
    try:
        return _decoder.decode(data).lines
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise MalformedMessage(f"no lines of a ledger: {error}") from error
