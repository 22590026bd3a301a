"""What comes back of a ledger that was lost with its disk: what peers heard of, each update once, and no more."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.events import LedgerAsked, PeerLedgerArrived, Reply
from coordinator.former_life import ledger_of
from coordinator.ledger import MOVED_MAX, Ledger
from coordinator.region import Region
from coordinator.roaming import KNOWN_MAX
from skerry.protocol import ledger_lines
from skerry.protocol.ledger_lines import LedgerLine
from skerry.protocol.limits import ANSWERS_MAX, LEDGER_LINES_MAX
from skerry.protocol.messages import PeerLedger

PEER, THIRD = "there-1", "far-1"
LINES = st.builds(
    LedgerLine, st.sampled_from(["crow", "kite"]), st.integers(1, 60), st.sampled_from([None, 0.25]), st.integers(0, 3)
)


@pytest.fixture
def region(new_region: Any) -> Region:
    started: Region = new_region(peers=(PEER, THIRD))
    return started


def asked(region: Region, of: str) -> list[list[LedgerLine]]:
    """Return the pages that a coordinator is told of itself."""
    pages: list[list[LedgerLine]] = []
    after, more = "", True
    while more:
        (reply,) = region.handle(LedgerAsked(after, key=3, of=of), 1.0)
        assert isinstance(reply, Reply)
        assert reply.key == 3
        page = reply.message
        assert isinstance(page, PeerLedger)
        assert page.coordinator == of
        pages.append(ledger_lines.decode(page.lines))
        assert page.up_to > after or not page.more
        after, more = page.up_to, page.more
    return pages


def test_a_peer_that_lost_its_state_is_told_what_it_has_told_and_nothing_of_others(region: Region) -> None:
    own = [LedgerLine("kite", 1, 0.25, 0), LedgerLine("kite", 2, None, 1), LedgerLine("crow", 5, 0.5, 0)]
    region.handle(PeerLedgerArrived(PEER, own), 0.5)
    region.handle(PeerLedgerArrived(THIRD, [LedgerLine("crow", 6, 0.5, 0), LedgerLine("auk", 1, 0.5, 0)]), 0.6)
    assert asked(region, PEER) == [[own[2], own[0], own[1]]]
    assert asked(region, THIRD) == [[LedgerLine("auk", 1, 0.5, 0), LedgerLine("crow", 6, 0.5, 0)]]
    assert asked(region, "unheard-1") == [[]]


@pytest.mark.parametrize("each", [1, KNOWN_MAX - 1])
def test_it_is_told_page_by_page_every_line_once(region: Region, each: int) -> None:
    devices = 2 * LEDGER_LINES_MAX // each + 3
    lines = [LedgerLine(f"d{one}", 1 + number, 0.5, 0) for one in range(devices) for number in range(each)]
    region.handle(PeerLedgerArrived(PEER, lines), 0.5)
    pages = asked(region, PEER)
    assert len(pages) == 3
    assert max(map(len, pages)) <= LEDGER_LINES_MAX
    assert sorted(line for page in pages for line in map(tuple_of, page)) == sorted(map(tuple_of, lines))


def tuple_of(line: LedgerLine) -> tuple[str, int]:
    return line.device, line.sequence


@given(st.lists(LINES, max_size=150))
def test_of_what_peers_tell_a_ledger_is_made_that_knows_each_update_once(lines: list[LedgerLine]) -> None:
    entries = ledger_of(lines)
    ledger = Ledger(entries)
    counted = {tuple_of(line) for line in lines if line.weight is not None}
    assert {entry.device for entry in entries} == {device for device, _ in counted}
    for entry in entries:
        known = [recent.sequence for recent in entry.recent]
        assert known == sorted(set(known))
        assert len(known) <= ANSWERS_MAX + MOVED_MAX
        newest = sorted(sequence for device, sequence in counted if device == entry.device)
        assert known[-ANSWERS_MAX:] == newest[-ANSWERS_MAX:]
        assert entry.last_sequence == newest[-1]
        for recent in entry.recent:
            told = [one for one in lines if tuple_of(one) == (entry.device, recent.sequence) and one.weight is not None]
            assert (recent.version, recent.elsewhere) == (0, False)
            assert recent.moves == max(one.moves for one in told)
    for device, sequence in {tuple_of(line) for line in lines} - counted:
        assert ledger.recall(device, sequence) is None  # it was held when they heard of it: it may come again
