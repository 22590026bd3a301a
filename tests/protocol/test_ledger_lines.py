"""Lines of a ledger: what goes in comes out, and whatever a peer sends is lines or malformed."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.protocol import ledger_lines
from skerry.protocol.errors import MalformedMessage
from skerry.protocol.ledger_lines import LedgerLine
from skerry.protocol.limits import LEDGER_LINES_MAX

LINE = LedgerLine("pi-4.kitchen", 18, 0.5, 1)


def test_lines_come_back_as_they_were() -> None:
    lines = [LINE, LedgerLine("d", 1 << 62, None, 0, 1 << 40)]
    assert ledger_lines.decode(ledger_lines.encode(lines)) == lines
    assert ledger_lines.decode(ledger_lines.encode([])) == []


def test_lines_of_other_minor_versions_are_read() -> None:
    import msgpack

    lines = [["d", 1, 0.5, 0], ["d", 2, 0.5, 0, 7, "not yet known"]]
    assert ledger_lines.decode(msgpack.packb([lines])) == [LedgerLine("d", 1, 0.5, 0), LedgerLine("d", 2, 0.5, 0, 7)]


@pytest.mark.parametrize(
    "line",
    [
        ["", 1, 0.5, 0],
        ["d\n", 1, 0.5, 0],
        ["d", 0, 0.5, 0],
        ["d", 1, -0.1, 0],
        ["d", 1, float("nan"), 0],
        ["d", 1, float("inf"), 0],
        ["d", 1, 0.5, -1],
        ["d", 1, 0.5],
        ["d", 1, 0.5, 0, -1],
        ["d", 1, "0.5", 0],
        {},
    ],
)
def test_a_line_that_cannot_be_is_malformed(line: object) -> None:
    import msgpack

    with pytest.raises(MalformedMessage, match="no lines of a ledger"):
        ledger_lines.decode(msgpack.packb([[line]]))


def test_as_many_lines_as_agreed_and_no_more() -> None:
    assert len(ledger_lines.decode(ledger_lines.encode([LINE] * LEDGER_LINES_MAX))) == LEDGER_LINES_MAX
    with pytest.raises(MalformedMessage):
        ledger_lines.decode(ledger_lines.encode([LINE] * (LEDGER_LINES_MAX + 1)))


@given(st.binary(max_size=200))
def test_anything_else_is_malformed_and_nothing_worse(data: bytes) -> None:
    try:
        lines = ledger_lines.decode(data)
    except MalformedMessage:
        return
    assert all(msgspec.convert(msgspec.to_builtins(line), LedgerLine) == line for line in lines)
