"""What comes back of a ledger that was lost with its disk: what peers heard of, each update once, and no more."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.age_history import AgeHistory
from coordinator.events import JournalUpdate, LedgerAsked, PeerLedgerArrived, PeerModelArrived, PeerSeen, Reply
from coordinator.former_life import ledger_of
from coordinator.ledger import MOVED_MAX, Ledger
from coordinator.region import Region
from coordinator.region_state import PeerHeld, RegionSettings, RegionState
from coordinator.roaming import KNOWN_MAX
from skerry.algorithms.arrival import FedBuff
from skerry.algorithms.downlink import Newest
from skerry.algorithms.federation import NoFederation
from skerry.protocol import ledger_lines, sparse
from skerry.protocol.ledger_lines import LedgerLine
from skerry.protocol.limits import ANSWERS_MAX, LEDGER_LINES_MAX
from skerry.protocol.messages import BroadcastId, ModelVersion, PeerLedger, PeerModel, PeerStatus
from skerry.recipe import Recipe

PEER, THIRD = "there-1", "far-1"
FORMER = "there/0000000a"
OF_FORMER = ModelVersion(FORMER, 3)
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
    assert asked(region, PEER) == [[own[2], own[0]]]  # what was held died with the disk
    assert asked(region, THIRD) == [[LedgerLine("auk", 1, 0.5, 0), LedgerLine("crow", 6, 0.5, 0)]]
    assert asked(region, "unheard-1") == [[]]


def heard_before_the_disk_was_lost(new_region: Any) -> Region:
    """A region whose replica of the peer is publication 4 of its former life."""
    state = RegionState("here/00000001", AgeHistory(0, [0.0]), peers={PEER: PeerHeld(FORMER, 4, BroadcastId(1, 2))})
    region: Region = new_region(peers=(PEER, THIRD), state=state)
    region.handle(PeerSeen(status(FORMER)), 0.4)
    lines = [LedgerLine("kite", n, 0.25, 0, published) for n, published in ((1, 0), (2, 4), (3, 5))]
    region.handle(PeerLedgerArrived(PEER, [*lines, LedgerLine("kite", 4, None, 0)]), 0.5)
    return region


def status(lineage: str) -> PeerStatus:
    return PeerStatus(PEER, "there", lineage, 1, 1.0, "0" * 64, BroadcastId(0, 0), 0)


def test_it_is_told_of_those_alone_that_the_replica_holds(new_region: Any) -> None:
    region = heard_before_the_disk_was_lost(new_region)
    assert [line.sequence for page in asked(region, PEER) for line in page] == [1, 2]


@pytest.mark.parametrize("told_by", ["status", "model"])
def test_what_a_peer_had_not_published_when_it_lost_its_state_may_come_again(
    new_region: Any, words: Any, told_by: str
) -> None:
    region = heard_before_the_disk_was_lost(new_region)
    if told_by == "model":
        values = words.vector(1, words.size)
        message = PeerModel(PEER, "there/0000000b", BroadcastId(1, 3), 1.0, 1, None, sparse.encode(values))
        region.handle(PeerModelArrived(message, values), 0.6)
    region.handle(PeerSeen(status("there/0000000b")), 0.7)
    assert [line.sequence for page in asked(region, PEER) for line in page] == [1, 2]  # its new life began from them
    for sequence in (2, 3, 4):
        effects = region.handle(words.update("kite", sequence, OF_FORMER, moves=1, base_age=0.0), 1.0)
        assert any(isinstance(one, JournalUpdate) for one in effects) == (sequence > 2)


def test_as_long_as_it_is_only_away_what_it_took_is_there(new_region: Any, words: Any) -> None:
    region = heard_before_the_disk_was_lost(new_region)
    region.handle(PeerSeen(status(FORMER)), 0.7)
    effects = region.handle(words.update("kite", 3, OF_FORMER, moves=1, base_age=0.0), 1.0)
    assert not any(isinstance(one, JournalUpdate) for one in effects)


def test_a_line_names_the_publication_that_first_holds_the_update(words: Any) -> None:
    recipe = Recipe(arrival=FedBuff(size=2), downlink=Newest(), federation=NoFederation())
    settings = RegionSettings("here-1", "here", (), recipe, words.bundle, 1 << 18, "http://here:1", "p")
    state = RegionState("here/00000001", AgeHistory(0, [0.0]), publication=6)
    region = Region(settings, state, 0.0)
    told = []
    for sequence in (1, 2):
        region.handle(words.update("kite", sequence, ModelVersion("here/00000001", 0)), 1.0)
        (reply,) = region.handle(LedgerAsked(""), 1.0)
        assert isinstance(reply, Reply)
        assert isinstance(reply.message, PeerLedger)
        told.append([(one.sequence, one.publication) for one in ledger_lines.decode(reply.message.lines)])
        state.publication += 1
    assert told == [[(1, 0)], [(1, 8), (2, 8)]]  # held, and let go behind publication 7


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
