"""What a region does with what its guard says: refuse, keep apart, shorten, tell operators, write it down."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from coordinator.age_history import AgeHistory
from coordinator.config import CoordinatorConfig
from coordinator.events import (
    Alarm,
    DeviceDisconnected,
    DeviceReleased,
    JournalUpdate,
    LedgerAsked,
    PeerLedgerArrived,
    Reply,
    SaveConduct,
    SendToDevice,
)
from coordinator.recovery import recover
from coordinator.region import Region
from coordinator.region_state import RegionState
from coordinator.store import Store
from skerry.algorithms.arrival import FedAvg, FedBuff, Spyker
from skerry.algorithms.conduct import Conduct
from skerry.algorithms.downlink import Newest
from skerry.algorithms.federation import NoFederation
from skerry.algorithms.guard import Clip, GuardRule, Outliers
from skerry.algorithms.uplink import WholeModel
from skerry.protocol import ledger_lines
from skerry.protocol.ledger_lines import LedgerLine
from skerry.protocol.limits import ANSWERS_MAX
from skerry.protocol.messages import ModelVersion, UpdateRejected
from skerry.recipe import Recipe
from skerry.vector import SparseVector

LINEAGE = "here/00000001"
BASE = ModelVersion(LINEAGE, 0)
HONEST = ("kite", "tern", "gull")


def recipe(guard: GuardRule, **stages: Any) -> Recipe:
    return Recipe(guard=guard, downlink=Newest(), federation=NoFederation(), **{"arrival": Spyker()} | stages)


STRICT = Outliers(devices_min=3, strikes_max=2, release_after=3, share_max=0.5)


def of(length: float, words: Any) -> SparseVector:
    """An update of a given length."""
    return SparseVector(words.size, np.array([3]), np.array([length], np.float32))


def send(region: Region, words: Any, device: str, sequence: int, length: float = 1.0) -> list[Any]:
    return region.handle(words.update(device, sequence, BASE, vector=of(length, words)), 1.0)


def start(region: Region, words: Any, devices: Sequence[str] = HONEST) -> None:
    """Let everybody send two updates of length 1."""
    for sequence in (1, 2):
        for device in devices:
            send(region, words, device, sequence)


def told(effects: list[Any]) -> Any:
    return next(effect.message for effect in effects if isinstance(effect, SendToDevice))


def test_the_default_recipe_compares_nothing_and_writes_nothing_of_it_down(new_region: Any, words: Any) -> None:
    region = new_region(recipe(Recipe().guard))
    effects = send(region, words, "kite", 1, 1e20)
    assert [type(effect) for effect in effects if isinstance(effect, SaveConduct | Alarm)] == []
    assert told(effects).weight == 0.6


def test_an_outlier_is_refused_and_not_in_the_journal(new_region: Any, words: Any) -> None:
    region = new_region(recipe(STRICT))
    start(region, words)
    region.handle(words.hello("kite", minor=1), 1.0)
    effects = send(region, words, "kite", 3, 100.0)
    assert not any(isinstance(effect, JournalUpdate) for effect in effects)
    assert (told(effects).reason, region.counts.rejected) == ("outlier", {"outlier": 1})
    assert "100 times as long as the median device's, at most 4 times" in told(effects).detail
    assert (region.ledger.last_sequence("kite"), region.ledger.updates_of("kite")) == (3, 2)
    assert [effect.conduct.strikes for effect in effects if isinstance(effect, SaveConduct)] == [1]


def test_a_refused_update_whose_answer_was_lost_is_refused_again_and_not_judged_again(
    new_region: Any, words: Any
) -> None:
    region = new_region(recipe(STRICT))
    start(region, words)
    for minor, reason in ((1, "outlier"), (0, "not_finite"), (1, "outlier")):
        region.handle(DeviceDisconnected("kite"), 1.0)
        region.handle(words.hello("kite", minor=minor), 1.0)
        effects = send(region, words, "kite", 3, 100.0)
        assert told(effects).reason == reason
    assert [type(effect) for effect in effects] == [SendToDevice]
    assert (region.counts.rejected, region.counts.repeats) == ({"outlier": 1}, 2)
    assert region.quarantined == {}
    assert told(send(region, words, "kite", 4, 100.0)).reason == "quarantined"


def test_a_refused_update_is_none_that_peers_hear_of_or_that_is_taken_back(new_region: Any, words: Any) -> None:
    region = new_region(recipe(STRICT), peers=("there-1",))
    start(region, words)
    region.handle(words.update("kite", 3, BASE, vector=of(100.0, words), moves=1), 1.0)
    (reply,) = region.handle(LedgerAsked(""), 1.0)
    assert ledger_lines.decode(reply.message.lines) == []
    assert region.handle(PeerLedgerArrived("there-1", [LedgerLine("kite", 3, 0.25, 2)]), 1.0) == []
    for sequence in range(4, 4 + ANSWERS_MAX):
        send(region, words, "kite", sequence)
    assert region.ledger.recall("kite", 3) is None  # also of those that moved, none is kept for longer


async def test_a_refusal_outlives_a_kill(config_of: Any, open_engine: Any, new_listener: Any, words: Any) -> None:
    config: CoordinatorConfig = config_of(recipe(STRICT))
    for lives in (1, 2):
        outlet = new_listener()
        async with open_engine(config, outlet) as engine:
            if lives == 1:
                for sequence in (1, 2):
                    for device in HONEST:
                        engine.submit(words.update(device, sequence, engine.version, vector=of(1.0, words)))
                await outlet.until_accepted(6)
            engine.submit(words.update("kite", 3, engine.version, vector=of(100.0, words)))
            await outlet.until(lambda heard=outlet: any(isinstance(said, UpdateRejected) for _, said in heard.sent))
            status = engine.status()
        assert outlet.sent[-1][1].reason == "not_finite"
        assert (status.devices["kite"].updates, status.devices["kite"].quarantine) == (2, "")
    assert status.rejected == {}


def test_agents_of_before_are_told_what_they_drop_as_well(new_region: Any, words: Any) -> None:
    region = new_region(recipe(STRICT))
    start(region, words)
    region.handle(words.hello("kite"), 1.0)
    assert told(send(region, words, "kite", 3, 100.0)).reason == "not_finite"
    assert told(send(region, words, "tern", 3, 100.0)).reason == "not_finite", "of whom nothing is known"
    assert region.counts.rejected == {"outlier": 2}


def test_a_device_in_quarantine_raises_an_alarm_and_stays_there(new_region: Any, words: Any) -> None:
    region = new_region(recipe(STRICT))
    start(region, words)
    region.handle(words.hello("kite", minor=1), 1.0)
    send(region, words, "kite", 3, 100.0)
    effects = send(region, words, "kite", 4, 100.0)
    assert told(effects).reason == "quarantined"
    (alarm,) = [effect for effect in effects if isinstance(effect, Alarm)]
    assert (alarm.device, alarm.detail.partition(":")[0]) == ("kite", "in quarantine from now on")
    assert (region.counts.alarms, list(region.quarantined)) == (1, ["kite"])
    assert told(send(region, words, "kite", 5)).reason == "quarantined", "also one that is in order"
    assert isinstance(told(send(region, words, "tern", 3)).weight, float)


def test_an_operator_releases_a_device_and_is_answered(new_region: Any, words: Any) -> None:
    region = new_region(recipe(STRICT))
    start(region, words)
    for sequence in (3, 4):
        send(region, words, "kite", sequence, 100.0)
    assert region.handle(DeviceReleased("tern", 7), 1.0) == [Reply(7, message=False)]
    saved, alarm, reply = region.handle(DeviceReleased("kite", 8), 1.0)
    assert (saved.conduct.quarantine, saved.conduct.strikes) == ("", 0)
    assert alarm == Alarm("kite", "let in again by an operator")
    assert reply == Reply(8, message=True)
    assert isinstance(told(send(region, words, "kite", 5)).weight, float)
    assert region.handle(DeviceReleased("kite"), 1.0) == [Reply(0, message=False)]


def test_nobody_is_in_quarantine_where_nothing_is_compared(new_region: Any, words: Any) -> None:
    region = new_region(recipe(Recipe().guard))
    assert region.handle(DeviceReleased("kite", 3), 1.0) == [Reply(3, message=False)]
    assert region.quarantined == {}


def test_what_is_written_down_keeps_a_device_apart_after_a_restart(new_region: Any, words: Any) -> None:
    region = new_region(recipe(STRICT))
    start(region, words)
    lines: dict[str, Conduct] = {}
    for sequence in (3, 4):
        for effect in send(region, words, "kite", sequence, 100.0):
            if isinstance(effect, SaveConduct):
                lines[effect.conduct.device] = effect.conduct
    state = RegionState(LINEAGE, AgeHistory(0, [0.0]), conducts=list(lines.values()))
    again = new_region(recipe(STRICT), state=state)
    assert list(again.quarantined) == ["kite"]
    assert told(send(again, words, "kite", 5)).reason == "not_finite"
    assert again.counts.rejected == {"quarantined": 1}


def test_what_is_too_long_weighs_less_under_any_arrival_rule(new_region: Any, words: Any) -> None:
    clip = Clip(clip_factor=2.0, devices_min=3)
    region = new_region(recipe(clip))
    start(region, words)
    effects = send(region, words, "kite", 3, 10.0)
    (journal,) = [effect for effect in effects if isinstance(effect, JournalUpdate)]
    assert journal.factor == pytest.approx(0.2)
    plain = new_region(recipe(Recipe().guard))
    start(plain, words)
    assert told(effects).weight == journal.weight == pytest.approx(0.2 * told(send(plain, words, "kite", 3)).weight)

    held = new_region(recipe(clip, arrival=FedBuff(size=8, exponent=0.0)))
    start(held, words)
    assert told(send(held, words, "kite", 3, 10.0)).weight is None
    effects = send(held, words, "tern", 3)
    weights = [effect.weight for effect in effects if hasattr(effect, "members") or type(effect).__name__ == "Apply"]
    assert weights == pytest.approx([1 / 8] * 6 + [0.2 / 8, 1 / 8])


def test_a_round_does_not_wait_for_who_was_refused(new_region: Any, words: Any) -> None:
    region = new_region(recipe(STRICT, arrival=FedAvg(devices_min=3)))
    for device in HONEST:
        region.handle(words.hello(device), 0.0)
    for number in (1, 2):
        assert region.round == number
        base = ModelVersion(LINEAGE, region.version)
        for device in HONEST:
            region.handle(words.update(device, number, base, vector=of(1.0, words)), 1.0)
    base = ModelVersion(LINEAGE, region.version)
    for device, length in (("kite", 1.0), ("tern", 1.0), ("gull", 100.0)):
        region.handle(words.update(device, 3, base, vector=of(length, words)), 1.0)
    assert (region.round, region.counts.rejected) == (4, {"outlier": 1})


def test_a_whole_model_is_no_way_around_the_guard(new_region: Any, words: Any) -> None:
    full = SparseVector.full(words.initial())
    for guarded in (recipe(STRICT), recipe(Clip())):
        region = new_region(guarded)
        effects = region.handle(words.update("kite", 1, BASE, vector=full, whole=True), 1.0)
        assert told(effects).reason == "malformed"
        assert "asks for the difference" in told(effects).detail
    region = new_region(recipe(Recipe().guard))
    assert told(region.handle(words.update("kite", 1, BASE, vector=full, whole=True), 1.0)).weight == 0.6


def test_a_guard_wants_differences() -> None:
    with pytest.raises(ValueError, match=r"guard\.rule, outliers, compares differences"):
        recipe(Outliers(), uplink=WholeModel())


async def test_quarantine_and_shortened_updates_outlive_a_kill(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any
) -> None:
    guard = Outliers(devices_min=3, strikes_max=2, share_max=0.5, clip_factor=2.0)
    config: CoordinatorConfig = config_of(recipe(guard, arrival=FedBuff(size=100)))
    outlet = new_listener()
    async with open_engine(config, outlet) as engine:
        sent = 0
        for sequence, lengths in enumerate([(1, 1, 1), (1, 1, 1), (3, 90, 1), (1, 90, 1)], 1):
            for device, length in zip(HONEST, lengths, strict=True):
                engine.submit(words.update(device, sequence, engine.version, vector=of(length, words)))
                sent += 1
                await outlet.until(lambda count=sent: len(outlet.sent) == count)
        factors = {held.position: held.factor for held in engine._region.held}
        assert min(factors.values()) == pytest.approx(2 / 3)
        store = Store(config.state_dir, read_only=True)
        try:
            found = recover(store, config.state_dir, config.name)
        finally:
            store.close()
        status = engine.status()
    assert {held.position: held.factor for held in found.region.held} == factors
    assert [line.device for line in found.region.conducts if line.quarantine] == ["tern"]
    assert [name for name, device in status.devices.items() if device.quarantine] == ["tern"]
    assert (status.alarms, status.rejected) == (1, {"outlier": 1, "quarantined": 1})
    async with open_engine(config, new_listener()) as engine:
        assert list(engine._region.quarantined) == ["tern"]
        assert await engine.ask(DeviceReleased("tern")) is True
        assert await engine.ask(DeviceReleased("tern")) is False
    async with open_engine(config, new_listener()) as engine:
        assert engine._region.quarantined == {}
