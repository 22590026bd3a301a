"""Numbers that jump: neither a stolen device nor a peer uses up those of a name, and no honest device is shut out."""

from typing import Any

import pytest

from coordinator.age_history import AgeHistory
from coordinator.events import FindUpdate, PeerLedgerArrived, SendToDevice
from coordinator.former_life import ledger_of
from coordinator.ledger import Ledger
from coordinator.region import Region
from coordinator.region_state import RegionState
from coordinator.roaming import DEVICES_MAX
from skerry.protocol.ceiling import NEAR, STEP, STEP_S
from skerry.protocol.ledger_lines import LedgerLine
from skerry.protocol.messages import ModelVersion, UpdateAccepted, UpdateRejected, Welcome

END = 1 << 62  # the last number of all
BASE = ModelVersion("here/00000001", 0)
PEER = "there-1"
YEARS = 100_000_000  # updates of an honest device


@pytest.fixture
def region(new_region: Any) -> Region:
    started: Region = new_region(peers=(PEER, "far-1"))
    return started


def answer(region: Region, words: Any, sequence: int, now_s: float = 1.0, moves: int = 0) -> Any:
    effects = region.handle(words.update("kite", sequence, BASE, moves=moves), now_s)
    (told,) = [effect.message for effect in effects if isinstance(effect, SendToDevice)]
    return told


def welcomed_after(region: Region, words: Any, now_s: float = 1.0) -> int:
    (welcome, *_) = [
        effect.message for effect in region.handle(words.hello("kite"), now_s) if isinstance(effect, SendToDevice)
    ]
    assert isinstance(welcome, Welcome)
    return welcome.last_sequence


def told_by(peer: str, *sequences: int, device: str = "kite") -> PeerLedgerArrived:
    return PeerLedgerArrived(peer, [LedgerLine(device, sequence, 0.25, 1) for sequence in sequences])


def test_a_stolen_device_does_not_use_up_the_numbers_of_its_name(region: Region, words: Any) -> None:
    assert isinstance(answer(region, words, 7), UpdateAccepted)
    for now_s in range(1, 20):
        burnt = answer(region, words, END - now_s, float(now_s))
        assert isinstance(burnt, UpdateRejected)
        assert burnt.reason == "wrong_sequence"
        assert "above 7" in burnt.detail
    assert welcomed_after(region, words) == 7
    assert region.counts.rejected["wrong_sequence"] == 19
    assert isinstance(answer(region, words, 8), UpdateAccepted)
    assert isinstance(answer(region, words, 8 + STEP), UpdateAccepted)  # as far as it gets,
    assert welcomed_after(region, words) == 8 + STEP
    assert isinstance(answer(region, words, 9 + STEP), UpdateAccepted)  # and the device goes on behind it


def test_a_peer_does_not_either(region: Region, words: Any) -> None:
    assert isinstance(answer(region, words, 7), UpdateAccepted)
    region.handle(told_by(PEER, END, END - 1), 1.0)
    assert welcomed_after(region, words) == 7
    assert isinstance(answer(region, words, END), UpdateRejected)  # also not as what the peer has
    region.handle(told_by(PEER, 9), 1.0)
    assert welcomed_after(region, words) == 9
    highest = 7 + NEAR + STEP
    region.handle(told_by(PEER, highest), 2.0)  # as far as it gets,
    assert welcomed_after(region, words) == highest
    assert isinstance(answer(region, words, highest + 1, 3.0), UpdateAccepted)  # and the device goes on behind it


def test_an_honest_device_is_let_in_whatever_is_known_of_it(new_region: Any, words: Any, region: Region) -> None:
    assert isinstance(answer(region, words, YEARS), UpdateAccepted)  # from a region whose ledger is not here yet
    told: Region = new_region(peers=(PEER,))
    told.handle(told_by(PEER, YEARS), 0.0)
    assert welcomed_after(told, words) == YEARS
    assert answer(told, words, YEARS, moves=1).weight == 0.25
    assert isinstance(answer(told, words, YEARS + 1), UpdateAccepted)
    lost_its_disk = Ledger(ledger_of([LedgerLine("kite", YEARS, 0.25, 0)]))
    state = RegionState("here/00000001", AgeHistory(0, [0.0]), ledger=lost_its_disk)
    again: Region = new_region(state=state)
    assert welcomed_after(again, words) == YEARS
    assert isinstance(answer(again, words, YEARS + 2 * NEAR), UpdateAccepted)


def test_a_coordinator_that_lost_its_disk_takes_no_number_from_its_peers_that_no_device_comes_to() -> None:
    lines = [LedgerLine(device, sequence, 0.25, 0) for device in ("crow", "kite") for sequence in (3, END)]
    assert [(entry.device, entry.last_sequence) for entry in ledger_of(lines)] == [("crow", 3), ("kite", 3)]


def test_a_name_that_was_made_to_jump_is_let_in_where_nobody_heard_of_it(region: Region, words: Any) -> None:
    """What is refused meanwhile goes back to the device's residual."""
    answers = [answer(region, words, 3 * STEP + tried, 10.0 * tried) for tried in range(15)]
    assert [type(one) for one in answers] == [UpdateRejected] * int(2 * STEP_S / 10.0) + [UpdateAccepted] * 3


def test_what_is_taken_here_is_taken_back_also_where_the_peer_tells_of_numbers_without_end(
    region: Region, words: Any
) -> None:
    answer(region, words, 7)
    assert region.handle(told_by(PEER, END, 7), 1.0) == [FindUpdate("kite", 7)]


def test_what_is_known_of_jumps_is_bounded(region: Region) -> None:
    region._roaming._ceilings.update({f"d{number}": None for number in range(DEVICES_MAX)})  # type: ignore[misc]
    region.handle(told_by(PEER, END), 1.0)
    region.handle(told_by(PEER, NEAR, device="crow"), 1.0)
    assert len(region._roaming._ceilings) == DEVICES_MAX
    assert "kite" in region._roaming._ceilings
    assert "crow" not in region._roaming._ceilings
