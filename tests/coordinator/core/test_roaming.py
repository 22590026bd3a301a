"""Devices that come from another region or go there: each update counts once in the federation. No disk, no network."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.age_history import AgeHistory
from coordinator.events import (
    Apply,
    DropHeld,
    FindUpdate,
    JournalTakenBack,
    JournalUpdate,
    LedgerAsked,
    PeerLedgerArrived,
    PeerSeen,
    Reply,
    SaveLedger,
    SendToDevice,
    UpdateFound,
)
from coordinator.ledger import MOVED_MAX, RecentUpdate
from coordinator.region import Region
from coordinator.region_state import Counts, RegionSettings, RegionState
from coordinator.roaming import ALIVE_S, KNOWN_MAX, Roaming
from skerry.algorithms.arrival import FedAvg, FedBuff, Spyker
from skerry.algorithms.downlink import Newest
from skerry.algorithms.federation import NoFederation
from skerry.protocol import ledger_lines
from skerry.protocol.ledger_lines import LedgerLine
from skerry.protocol.limits import ANSWERS_MAX
from skerry.protocol.messages import BroadcastId, ModelVersion, PeerStatus, UpdateAccepted, UpdateRejected
from skerry.recipe import Recipe

PEER = "there-1"
OTHERS = ModelVersion("there/0000000a", 7)


def own(number: int) -> ModelVersion:
    return ModelVersion("here/00000001", number)


def of(kind: type[Any], effects: list[Any]) -> list[Any]:
    return [effect for effect in effects if isinstance(effect, kind)]


def answer(effects: list[Any]) -> Any:
    (told,) = [one.message for one in of(SendToDevice, effects)]
    return told


def line(sequence: int, weight: float | None = 0.25, moves: int = 0, device: str = "kite") -> LedgerLine:
    return LedgerLine(device, sequence, weight, moves)


def heard(*lines: LedgerLine, peer: str = PEER) -> PeerLedgerArrived:
    return PeerLedgerArrived(peer, lines)


def told(region: Region, after: str = "") -> list[LedgerLine]:
    (reply,) = of(Reply, region.handle(LedgerAsked(after, key=3), 1.0))
    assert reply.key == 3
    return ledger_lines.decode(reply.message.lines)


def weight_of(region: Region, sequence: int) -> float:
    recent = region.ledger.recall("kite", sequence)
    assert recent is not None
    assert recent.weight is not None
    return recent.weight


def found(words: Any, sequence: int, version: int | None, weight: float | None) -> UpdateFound:
    update = words.update("kite", sequence, own(0))
    return UpdateFound("kite", sequence, version, weight, update.payload, update.vector)


@pytest.fixture
def region(new_region: Any) -> Region:
    started: Region = new_region(peers=(PEER,))
    return started


# --- a base of another region ---


@pytest.mark.parametrize("base_age", [3.0, 7.0])
def test_an_update_of_another_regions_base_is_weighed_by_how_far_the_ages_are_apart(
    new_region: Any, words: Any, base_age: float
) -> None:
    region = new_region(state=RegionState("here/00000001", AgeHistory(0, [5.0])))
    effects = region.handle(words.update("kite", 1, OTHERS, base_age=base_age, moves=1), 1.0)
    (journal,) = of(JournalUpdate, effects)
    assert (journal.staleness, journal.abroad, journal.base_number) == (2.0, True, 7)
    assert journal.weight == pytest.approx(0.6 * 3.0**-0.5)  # Spyker's rule
    assert answer(effects).weight == journal.weight
    (home,) = of(JournalUpdate, region.handle(words.update("kite", 2, own(1)), 1.0))
    assert not home.abroad


def test_without_the_bases_age_or_as_a_whole_model_it_does_not_count(region: Region, words: Any) -> None:
    whole = words.update("kite", 1, OTHERS, base_age=3.0, whole=True, vector=words.vector(1, words.size))
    for update in (words.update("kite", 1, OTHERS), whole):
        rejected = answer(region.handle(update, 1.0))
        assert isinstance(rejected, UpdateRejected)
        assert rejected.reason == "unknown_base"


def test_an_update_of_another_regions_round_is_none_of_this_one(new_region: Any, words: Any) -> None:
    region = new_region(Recipe(arrival=FedAvg(), downlink=Newest(), federation=NoFederation()))
    region.handle(words.hello("kite"), 0.0)
    assert answer(region.handle(words.update("kite", 1, own(0), base_age=3.0), 1.0)).version == 1
    assert isinstance(answer(region.handle(words.update("kite", 2, OTHERS, base_age=3.0), 1.0)), UpdateRejected)


# --- what a peer has taken ---


def test_what_a_peer_has_taken_is_answered_as_there_and_not_applied(region: Region, words: Any) -> None:
    assert region.handle(heard(line(4), line(5, None)), 0.0) == []
    effects = region.handle(words.update("kite", 4, OTHERS, base_age=3.0, moves=1), 1.0)
    assert [type(effect) for effect in effects] == [SaveLedger, SendToDevice]
    assert (answer(effects).sequence, answer(effects).weight) == (4, 0.25)
    assert answer(region.handle(words.update("kite", 5, OTHERS, base_age=3.0, moves=1), 1.0)).weight is None
    assert region.version == 0
    assert region.ledger.updates_of("kite") == 0
    assert told(region) == []  # it counts there, not here
    again = region.handle(words.update("kite", 4, OTHERS, base_age=3.0, moves=3), 2.0)
    assert (answer(again).weight, of(SaveLedger, again)) == (0.25, [])


def test_that_a_peer_has_taken_it_is_not_forgotten_with_what_the_peer_said(
    region: Region, words: Any, new_region: Any
) -> None:
    region.handle(heard(line(4)), 0.0)
    region.handle(words.update("kite", 4, OTHERS, base_age=3.0, moves=1), 1.0)
    entries = region.ledger_entries(["kite"])
    restarted = new_region(
        state=RegionState("here/00000001", AgeHistory(0, [0.0]), ledger=type(region.ledger)(entries))
    )
    effects = restarted.handle(words.update("kite", 4, OTHERS, base_age=3.0, moves=1), 1.0)
    assert answer(effects).weight == 0.25
    assert not of(JournalUpdate, effects)


def test_a_number_that_was_passed_over_here_may_have_been_taken_there(region: Region, words: Any) -> None:
    region.handle(words.update("kite", 6, own(0)), 1.0)
    assert answer(region.handle(words.update("kite", 4, own(0)), 1.0)).reason == "wrong_sequence"
    region.handle(heard(line(4)), 1.0)
    accepted = answer(region.handle(words.update("kite", 4, own(0)), 1.0))
    assert isinstance(accepted, UpdateAccepted)
    assert accepted.weight == 0.25


def test_a_device_goes_on_above_the_numbers_that_it_used_elsewhere(region: Region, words: Any) -> None:
    assert answer(region.handle(words.hello("kite"), 0.0)).last_sequence == 0
    region.handle(heard(line(4), line(9)), 0.0)
    assert answer(region.handle(words.hello("kite"), 0.0)).last_sequence == 9


def test_what_is_known_of_a_device_elsewhere_is_bounded(region: Region, words: Any) -> None:
    region.handle(heard(*(line(sequence) for sequence in range(1, KNOWN_MAX + 3))), 0.0)
    assert len(region._roaming._elsewhere["kite"]) == KNOWN_MAX
    assert region._roaming.recall("kite", 2) is None
    assert region._roaming.recall("kite", 3) is not None


# --- what peers are told ---


def test_peers_are_told_of_updates_that_moved(region: Region, words: Any) -> None:
    assert region.ledger_place == ""
    for sequence, moves in ((1, 0), (2, 1), (3, 0)):
        region.handle(words.update("kite", sequence, own(0), moves=moves), 1.0)
    (one,) = told(region)
    assert (one.device, one.sequence, one.moves) == ("kite", 2, 1)
    assert one.weight == weight_of(region, 2)


def test_peers_are_told_of_all_updates_where_agents_are_sent_to_other_regions(words: Any) -> None:
    settings = RegionSettings("here-1", "here", (PEER,), words.lone, words.bundle, 1 << 18, "http://here:1", "p")
    state = RegionState("here/00000001", AgeHistory(0, [0.0]))
    region = Region(settings, state, 0.0)
    for sequence in range(1, ANSWERS_MAX + 3):
        region.handle(words.update("kite", sequence, own(0)), 1.0)
    remembered = list(range(3, ANSWERS_MAX + 3))  # what is forgotten is told no more
    assert [one.sequence for one in told(region)] == remembered
    assert region.ledger_place == f"p:{ANSWERS_MAX + 2}"
    again = Region(settings, state, 0.0)
    assert [one.sequence for one in told(again)] == remembered


def test_a_repeat_that_moved_further_makes_this_copy_the_later_one(region: Region, words: Any) -> None:
    region.handle(words.update("kite", 1, own(0)), 1.0)
    place = region.ledger_place
    effects = region.handle(words.update("kite", 1, own(0), moves=2), 1.0)
    assert of(SaveLedger, effects) == [SaveLedger("kite")]
    assert [one.moves for one in told(region, place)] == [2]
    assert not of(SaveLedger, region.handle(words.update("kite", 1, own(0), moves=1), 1.0))
    assert [one.moves for one in told(region)] == [2]


# --- two regions took the same update ---


def test_an_update_that_was_taken_later_elsewhere_is_taken_out_of_the_model(region: Region, words: Any) -> None:
    region.handle(words.update("kite", 1, own(0)), 1.0)
    region.handle(words.update("kite", 2, own(0)), 1.0)
    assert region.handle(heard(line(1, 0.25, moves=1)), 2.0) == [FindUpdate("kite", 1)]
    weight = weight_of(region, 1)
    asked = found(words, 1, 1, weight)
    journal, apply = region.handle(asked, 2.0)
    assert journal == JournalTakenBack(3, 3, asked, -weight, 1.0)
    assert apply == Apply(3, 3, -weight, 1.0)
    assert (region.version, region.age, region.position) == (3, 1.0, 3)
    assert region.counts.taken_back == 1
    assert answer(region.handle(words.update("kite", 1, own(0)), 3.0)).weight == 0.25  # as there
    assert region.handle(heard(line(1, 0.25, moves=1)), 4.0) == []
    assert region.handle(asked, 4.0) == []
    assert told(region) == []


def test_one_that_was_taken_earlier_elsewhere_stays(region: Region, words: Any) -> None:
    region.handle(words.update("kite", 1, own(0), moves=2), 1.0)
    assert region.handle(heard(line(1, 0.25, moves=1)), 2.0) == []
    region.handle(words.update("kite", 2, own(0)), 1.0)
    assert region.handle(heard(line(2, 0.25, moves=0), peer="zoo-1"), 2.0) == []  # of a device that counts anew
    assert told(region)[0].sequence == 1


def test_what_nobody_asked_for_is_not_taken_back(region: Region, words: Any) -> None:
    region.handle(words.update("kite", 1, own(0)), 1.0)
    region.handle(heard(line(1, 0.25, moves=1)), 2.0)
    assert region.handle(found(words, 2, 1, 0.6), 2.0) == []


def test_a_device_that_comes_back_while_its_update_is_looked_up_loses_it_in_neither_region(words: Any) -> None:
    """It is answered here by more moves then, and the other region hears so."""
    regions = []
    for name in ("here", "there"):
        settings = RegionSettings(f"{name}-1", name, (), words.lone, words.bundle, 1 << 18, f"http://{name}:1", name)
        regions.append(Region(settings, RegionState(f"{name}/00000001", AgeHistory(0, [0.0])), 0.0))
    here, there = regions
    here.handle(words.update("kite", 1, own(0)), 1.0)  # neither answer reaches the device
    there.handle(words.update("kite", 1, own(0), moves=1, base_age=0.0), 2.0)
    assert here.handle(heard(*told(there)), 3.0) == [FindUpdate("kite", 1)]
    assert answer(here.handle(words.update("kite", 1, own(0), moves=2), 3.0)).weight == weight_of(here, 1)
    later = told(here)
    assert here.handle(found(words, 1, 1, weight_of(here, 1)), 3.0) == []
    assert there.handle(heard(*later, peer="here-1"), 4.0) == [FindUpdate("kite", 1)]
    gone = there.handle(found(words, 1, 1, weight_of(there, 1)), 4.0)
    assert [type(one) for one in gone] == [JournalTakenBack, Apply]
    assert (here.counts.taken_back, there.counts.taken_back) == (0, 1)
    assert ([one.moves for one in told(here)], told(there)) == ([2], [])


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_regions_that_took_it_later_the_latest_is_the_one_to_give_way_to(
    region: Region, words: Any, order: tuple[int, int]
) -> None:
    region.handle(words.update("kite", 1, own(0)), 1.0)
    pages = heard(line(1, 0.25, moves=1)), heard(line(1, 0.5, moves=3), peer="far-1")
    effects = [effect for place in order for effect in region.handle(pages[place], 2.0)]
    assert effects == [FindUpdate("kite", 1)]
    region.handle(words.update("kite", 1, own(0), moves=2), 2.0)  # later than one of them
    assert of(JournalTakenBack, region.handle(found(words, 1, 1, 0.6), 2.0))
    assert weight_of(region, 1) == 0.5


@given(st.integers(0, 3), st.integers(0, 3), st.sampled_from([("a", "b"), ("b", "a")]))
def test_of_two_copies_exactly_one_stays(here: int, there: int, names: tuple[str, str]) -> None:
    def yields(name: str, moves: int, peer: str, peers_moves: int) -> bool:
        settings = RegionSettings(name, "r", (peer,), Recipe(), None, 1)  # type: ignore[arg-type]
        state = RegionState("r/00000001", AgeHistory(0, [0.0]))
        roaming = Roaming(settings, state, Counts())
        state.ledger.take("kite", RecentUpdate(1, 1, 0.5, moves))
        return bool(roaming.ledger_arrived(heard(line(1, 0.5, peers_moves), peer=peer), 0.0))

    one, other = names
    gone = yields(one, here, other, there) + yields(other, there, one, here)
    assert gone == (0 if here == there == 0 else 1)


def test_one_that_is_held_is_forgotten(new_region: Any, words: Any) -> None:
    region = new_region(Recipe(arrival=FedBuff(size=3), downlink=Newest(), federation=NoFederation()))
    for sequence in (1, 2):
        region.handle(words.update("kite", sequence, own(0)), 1.0)
    region.handle(heard(line(1, 0.25, moves=1)), 2.0)
    assert region.handle(found(words, 1, None, None), 2.0) == [DropHeld(1, "kite")]
    assert [held.arrival.sequence for held in region.held] == [2]
    assert region.version == 0


def test_one_that_was_let_go_while_it_was_looked_up_is_looked_up_again(new_region: Any, words: Any) -> None:
    region = new_region(Recipe(arrival=FedBuff(size=2), downlink=Newest(), federation=NoFederation()))
    region.handle(words.update("kite", 1, own(0)), 1.0)
    region.handle(heard(line(1, 0.25, moves=1)), 2.0)
    region.handle(words.update("kite", 2, own(0)), 2.0)  # lets both go
    assert region.handle(found(words, 1, None, None), 2.0) == [FindUpdate("kite", 1)]
    weight = weight_of(region, 1)
    assert [type(one) for one in region.handle(found(words, 1, 1, weight), 2.0)] == [JournalTakenBack, Apply]


def test_one_that_the_journal_has_no_more_stays_and_is_told_of(
    region: Region, words: Any, caplog: pytest.LogCaptureFixture
) -> None:
    region.handle(words.update("kite", 1, own(0)), 1.0)
    region.handle(heard(line(1, 0.25, moves=1)), 2.0)
    assert region.handle(UpdateFound("kite", 1), 2.0) == []
    assert "update 1 of kite counts twice" in caplog.text
    assert region.version == 1


def test_what_moved_is_remembered_and_told_of_longer_than_anything_else(region: Region, words: Any) -> None:
    """A peer may be down for as long as the device goes on here."""
    for sequence in range(1, 3 * ANSWERS_MAX):
        region.handle(words.update("kite", sequence, own(0), moves=int(sequence in {2, 5})), 1.0)
    assert [one.sequence for one in told(region)] == [2, 5]
    assert answer(region.handle(words.update("kite", 2, own(0)), 1.0)).weight == weight_of(region, 2)
    assert answer(region.handle(words.update("kite", 3, own(0)), 1.0)).weight is None  # forgotten, not passed over
    for sequence in range(100, 100 + ANSWERS_MAX + MOVED_MAX + 9):
        region.handle(words.update("kite", sequence, own(0), moves=1), 1.0)
    assert len(region.ledger_entries(["kite"])[0].recent) == ANSWERS_MAX + MOVED_MAX
    assert len(told(region)) == ANSWERS_MAX + MOVED_MAX


def test_one_that_the_ledger_has_forgotten_is_looked_up_in_the_journal(region: Region, words: Any) -> None:
    for sequence in range(1, ANSWERS_MAX + 5):
        region.handle(words.update("kite", sequence, own(0)), 1.0)
    newest = region.version
    late = heard(line(2, 0.25, moves=1))
    assert region.handle(late, 2.0) == [FindUpdate("kite", 2)]
    assert region.handle(UpdateFound("kite", 2), 2.0) == []  # it was passed over, or is cut away
    assert region.handle(late, 2.0) == [FindUpdate("kite", 2)]
    assert region.handle(late, 2.0) == []  # it is being looked up
    there = found(words, 2, 2, 0.5)
    assert [type(one) for one in region.handle(there, 2.0)] == [JournalTakenBack, Apply]
    assert region.handle(there, 2.0) == []  # nobody asked
    assert region.handle(late, 2.0) == [FindUpdate("kite", 2)]
    assert region.handle(UpdateFound("kite", 2), 2.0) == []  # the journal says that it was taken back
    assert region.version == newest + 1
    assert region.handle(heard(line(99, 0.25, moves=1)), 2.0) == []  # above all that were taken here


# --- where agents can go ---


def status(name: str, url: str | None) -> PeerSeen:
    return PeerSeen(PeerStatus(name, "there", OTHERS.lineage, 1, 1.0, "0" * 64, BroadcastId(0, 0), 0, url=url))


def test_agents_are_told_of_coordinators_that_live_and_take_agents(words: Any) -> None:
    recipe = Recipe(arrival=Spyker(), downlink=Newest(), federation=NoFederation())
    settings = RegionSettings("here-1", "here", (PEER, "far-1"), recipe, words.bundle, 1 << 18, "http://here:1")
    region = Region(settings, RegionState("here/00000001", AgeHistory(0, [0.0])), 0.0)
    region.handle(status(PEER, "http://there:1"), 1.0)
    region.handle(status("far-1", None), 1.0)
    all_of_them = {"here-1": "http://here:1", PEER: "http://there:1"}
    assert answer(region.handle(words.hello("kite"), 1.0 + ALIVE_S)).coordinators == all_of_them
    assert answer(region.handle(words.hello("crow"), 1.1 + ALIVE_S)).coordinators == {"here-1": "http://here:1"}


def test_nobody_is_told_of_a_coordinator_that_does_not_say_where_it_is(region: Region, words: Any) -> None:
    assert answer(region.handle(words.hello("kite"), 0.0)).coordinators == {}
