"""Rounds, barriers and devices that wait for an answer, event by event: no disk, no clock, no network."""

from typing import Any

import pytest

from coordinator.age_history import AgeHistory
from coordinator.events import (
    Apply,
    DeviceDisconnected,
    JournalUpdate,
    Malformed,
    Merge,
    OfferDone,
    OfferModel,
    PeerModelArrived,
    PeerSeen,
    Publish,
    ReleaseUpdate,
    SaveRuleState,
    SendToDevice,
    TelemetryArrived,
    Tick,
    UpdateArrived,
)
from coordinator.ledger import RecentUpdate
from coordinator.region_state import HeldUpdate, RegionState
from skerry.algorithms.arrival import Arrival, FedAvg, FedBuff, Spyker
from skerry.algorithms.barrier import BarrierState
from skerry.algorithms.downlink import Newest
from skerry.algorithms.federation import NoFederation, SynchronousExchange
from skerry.algorithms.participation import OnOffer
from skerry.algorithms.peer_guard import Measured
from skerry.algorithms.rounds import RoundState
from skerry.protocol.messages import BroadcastId, ModelVersion, PeerModel, PeerStatus, Telemetry, UpdateAccepted
from skerry.recipe import Recipe

NEAR = Measured(0.0, 1.0)
DEVICES = ("crow", "kite", "wren")
ROUNDS = Recipe(arrival=FedAvg(devices_min=3, round_timeout_s=60.0), downlink=Newest(), federation=NoFederation())
HIERARCHICAL = Recipe(
    arrival=FedAvg(devices_min=1),
    downlink=Newest(),
    federation=SynchronousExchange(every_rounds=1, barrier_timeout_s=300.0),
)
ANSWERED = Recipe(participation=OnOffer(), arrival=Spyker(), downlink=Newest(), federation=NoFederation())


def version(number: int) -> ModelVersion:
    return ModelVersion("here/00000001", number)


def of(kind: type[Any], effects: list[Any]) -> list[Any]:
    return [effect for effect in effects if isinstance(effect, kind)]


def offered(effects: list[Any]) -> list[tuple[str, int | None]]:
    return [(effect.device, effect.base) for effect in of(OfferModel, effects)]


def written(region: Any, effects: list[Any]) -> None:
    """The shell has written every offer."""
    for effect in of(OfferModel, effects):
        region.handle(OfferDone(effect.device, version(region.version)), 0.0)


def join(region: Any, words: Any, *devices: str) -> list[Any]:
    effects: list[Any] = []
    for device in devices:
        effects += region.handle(words.hello(device), 0.0)
    written(region, effects)
    return effects


@pytest.fixture
def in_round(new_region: Any, words: Any) -> Any:
    """A region whose first round has begun, with three devices."""
    region = new_region(ROUNDS)
    assert not of(OfferModel, join(region, words, "crow", "kite"))
    effects = join(region, words, "wren")
    assert offered(effects) == [("crow", None), ("kite", None), ("wren", None)]
    (saved,) = of(SaveRuleState, effects)
    assert saved.state == RoundState(1, 0, DEVICES)
    assert (region.round, region.server_rate) == (1, None)
    return region


def test_devices_of_a_region_with_rounds_wait_for_offers(in_round: Any, words: Any) -> None:
    (welcome,) = [e.message for e in of(SendToDevice, in_round.handle(words.hello("late"), 1.0))]
    assert welcome.recipe["participation"] == {"rule": "on_offer"}


def test_a_round_ends_with_one_mean_and_the_next_begins_with_one_publication(in_round: Any, words: Any) -> None:
    for device, examples in (("crow", 100), ("wren", 300)):
        effects = in_round.handle(words.update(device, 1, version(0), examples=examples), 1.0)
        assert [type(effect) for effect in effects] == [JournalUpdate, SendToDevice]
        assert effects[0].weight is None
    effects = in_round.handle(words.update("kite", 1, version(0), examples=400), 2.0)
    kinds = [type(effect) for effect in effects]
    assert kinds[:6] == [ReleaseUpdate, ReleaseUpdate, JournalUpdate, Apply, Apply, Apply]
    assert [effect.weight for effect in of(Apply, effects)] == pytest.approx([0.125, 0.375, 0.5])
    assert [effect.version for effect in of(Apply, effects)] == [1, 2, 3]
    assert offered(effects) == [("crow", 0), ("kite", 0), ("wren", 0)]
    assert kinds.index(SaveRuleState) < kinds.index(OfferModel)
    assert of(SaveRuleState, effects)[0].state == RoundState(2, 3, DEVICES)
    written(in_round, effects)
    assert not of(OfferModel, in_round.handle(Tick(), 3.0))


def test_a_second_update_in_a_round_and_one_of_an_older_round_are_late(in_round: Any, words: Any) -> None:
    in_round.handle(words.update("crow", 1, version(0)), 1.0)
    (answer,) = of(SendToDevice, in_round.handle(words.update("crow", 2, version(0)), 1.0))
    assert answer.message.reason == "late"
    for device in ("kite", "wren"):
        written(in_round, in_round.handle(words.update(device, 1, version(0)), 1.0))
    (answer,) = of(SendToDevice, in_round.handle(words.update("kite", 2, version(0)), 1.0))
    assert answer.message.reason == "late"
    assert in_round.counts.rejected == {"late": 2}
    (answer,) = of(SendToDevice, in_round.handle(words.update("kite", 3, version(3)), 1.0))
    assert isinstance(answer.message, UpdateAccepted)


def test_a_repeat_in_a_round_is_answered_as_the_first_time(in_round: Any, words: Any) -> None:
    in_round.handle(words.update("crow", 1, version(0)), 1.0)
    (answer,) = of(SendToDevice, in_round.handle(words.update("crow", 1, version(0)), 2.0))
    assert isinstance(answer.message, UpdateAccepted)
    assert answer.message.weight is None
    assert in_round.counts.repeats == 1


def test_a_dead_device_stops_no_round_for_longer_than_the_time_out(in_round: Any, words: Any) -> None:
    in_round.handle(DeviceDisconnected("kite"), 1.0)
    for device in ("crow", "wren"):
        in_round.handle(words.update(device, 1, version(0)), 1.0)
    assert in_round.handle(Tick(), 59.0) == []
    join(in_round, words, "dove")
    effects = in_round.handle(Tick(), 60.0)
    assert [type(effect) for effect in effects[:4]] == [ReleaseUpdate, ReleaseUpdate, Apply, Apply]
    assert [effect.weight for effect in of(Apply, effects)] == [0.5, 0.5]
    assert offered(effects) == [("crow", 0), ("wren", 0), ("dove", None)]


def test_a_round_without_any_update_is_drawn_again(in_round: Any) -> None:
    effects = in_round.handle(Tick(), 60.0)
    assert not of(Apply, effects)
    assert of(SaveRuleState, effects)[0].state == RoundState(2, 0, DEVICES)
    assert offered(effects) == [("crow", 0), ("kite", 0), ("wren", 0)], "the same model again, as an invitation"


def test_a_device_whose_update_is_malformed_does_not_hold_up_the_round(in_round: Any, words: Any) -> None:
    update = words.update("crow", 1, version(0))
    in_round.handle(UpdateArrived("crow", update.offered, b"", Malformed("malformed", "torn"), 90), 1.0)
    in_round.handle(words.update("kite", 1, version(0)), 1.0)
    effects = in_round.handle(words.update("wren", 1, version(0)), 1.0)
    assert [effect.weight for effect in of(Apply, effects)] == [0.5, 0.5]


def test_a_selected_device_that_comes_back_is_invited_again_and_another_is_not(new_region: Any, words: Any) -> None:
    rule = FedAvg(fraction=0.5, devices_min=4)
    region = new_region(Recipe(arrival=rule, downlink=Newest(), federation=NoFederation()))
    effects = join(region, words, "crow", "kite", "wren", "dove")
    selected = of(SaveRuleState, effects)[0].state.selected
    assert len(selected) == len(offered(effects)) == 2
    for device in ("crow", "kite", "wren", "dove"):
        region.handle(DeviceDisconnected(device), 1.0)
        again = region.handle(words.hello(device, version(0)), 2.0)
        assert offered(again) == ([(device, 0)] if device in selected else [])


def test_resting_devices_are_not_selected(new_region: Any, words: Any) -> None:
    region = new_region(Recipe(arrival=FedAvg(devices_min=2), federation=NoFederation()))
    join(region, words, "crow")
    telemetry = Telemetry(1.0, 1.0, 0.0, 1, 1, 0.05, 1, 1, 1, 0, None, pace="pause", reasons=("battery 9 %",))
    region.handle(TelemetryArrived("crow", telemetry), 1.0)
    assert not of(OfferModel, join(region, words, "kite"))
    assert offered(join(region, words, "wren")) == [("kite", None), ("wren", None)]


def test_an_offer_that_is_still_being_written_delays_only_that_devices_invitation(new_region: Any, words: Any) -> None:
    region = new_region(Recipe(arrival=FedAvg(devices_min=2), federation=NoFederation()))
    region.handle(words.hello("crow"), 0.0)
    region.handle(words.hello("kite"), 0.0)
    region.handle(words.update("kite", 1, version(0)), 0.0)
    effects = region.handle(Tick(), 601.0)  # crow is still taking the first model
    assert offered(effects) == [("kite", 0)]
    region.handle(OfferDone("crow", version(0)), 602.0)
    assert offered(region.handle(Tick(), 603.0)) == [("crow", 0)]


def test_a_restart_in_a_round_goes_on_with_it(in_round: Any, new_region: Any, words: Any) -> None:
    in_round.handle(words.update("crow", 1, version(0)), 1.0)
    state = in_round._state
    again = new_region(
        ROUNDS,
        state=RegionState(
            state.lineage,
            AgeHistory(0, [0.0]),
            position=1,
            ledger=state.ledger,
            held=list(state.held),
            rules=dict(state.rules),
        ),
    )
    assert offered(join(again, words, "dove", "crow")) == []
    assert offered(join(again, words, "kite", "wren")) == [("kite", None), ("wren", None)]
    again.handle(words.update("kite", 1, version(0)), 2.0)
    effects = again.handle(words.update("wren", 1, version(0)), 3.0)
    assert [effect.weight for effect in of(Apply, effects)] == pytest.approx([1 / 3] * 3)


# --- barriers ---


def peer_model(exchange: int, age: float) -> PeerModel:
    return PeerModel(
        coordinator="there-1",
        lineage="there/00000002",
        broadcast=BroadcastId(0, exchange),
        age=age,
        publication=exchange,
        base=None if exchange == 1 else exchange - 1,
        values=b"",
    )


def test_no_round_begins_while_the_region_waits_for_its_peers(new_region: Any, words: Any) -> None:
    region = new_region(HIERARCHICAL, ("there-1",))
    join(region, words, "crow")
    effects = region.handle(words.update("crow", 1, version(0)), 1.0)
    assert of(Publish, effects)[0].broadcast == BroadcastId(0, 1)
    assert offered(effects) == []
    states = {type(effect.state): effect.state for effect in of(SaveRuleState, effects)}
    assert states[BarrierState].waiting
    assert states[RoundState].selected == ()
    assert offered(join(region, words, "kite")) == []
    (late,) = of(SendToDevice, region.handle(words.update("crow", 2, version(0)), 1.5))
    assert late.message.reason == "late"
    assert region.waits_for_peers
    effects = region.handle(PeerModelArrived(peer_model(1, 3.0), words.vector(1), 5, NEAR), 2.0)
    assert not region.waits_for_peers
    (merge,) = of(Merge, effects)
    assert (merge.weight, merge.age, merge.version) == (0.5, 2.0, 2)
    assert offered(effects) == [("crow", 0), ("kite", None)]
    assert effects.index(merge) < effects.index(of(OfferModel, effects)[0])


def test_a_peer_that_died_ends_the_wait(new_region: Any, words: Any) -> None:
    region = new_region(HIERARCHICAL, ("there-1",))
    join(region, words, "crow")
    region.handle(words.update("crow", 1, version(0)), 1.0)
    region.handle(
        PeerSeen(PeerStatus("there-1", "there", "there/00000002", 0, 0.0, "0" * 64, BroadcastId(0, 0), 1)), 2.0
    )
    assert region.wake_at_s == 12.0
    assert region.handle(Tick(), 11.9) == []
    effects = region.handle(Tick(), 12.0)
    assert not of(Merge, effects)
    assert offered(effects) == [("crow", 0)]


def test_updates_that_come_at_a_barrier_are_held_and_answered_behind_it(new_region: Any, words: Any) -> None:
    rule = SynchronousExchange(interval_s=5.0)
    region = new_region(
        Recipe(participation=OnOffer(), arrival=Spyker(), downlink=Newest(), federation=rule), ("there-1",)
    )
    join(region, words, "crow")
    assert of(Publish, region.handle(Tick(), 5.0))
    effects = region.handle(words.update("crow", 1, version(0)), 5.1)
    assert [type(effect) for effect in effects] == [JournalUpdate, SendToDevice]
    effects = region.handle(PeerModelArrived(peer_model(1, 3.0), words.vector(1), 5, NEAR), 6.0)
    kinds = [type(effect) for effect in effects]
    assert kinds.index(Merge) < kinds.index(Apply) < kinds.index(OfferModel)
    (apply,) = of(Apply, effects)
    assert apply.weight == pytest.approx(0.6)
    assert offered(effects) == [("crow", 0)]
    assert region.held == []


def test_updates_that_a_former_rule_held_are_let_go_after_a_restart(new_region: Any, words: Any) -> None:
    held = HeldUpdate(1, Arrival("crow", 1, 0.0, 100, 0.5, 20))
    state = RegionState("here/00000001", AgeHistory(0, [0.0]), position=1, held=[held])
    state.ledger.take("crow", RecentUpdate(1, 0, None))
    effects = new_region(Recipe(arrival=Spyker(), downlink=Newest(), federation=NoFederation()), state=state).handle(
        Tick(), 1.0
    )
    assert [type(effect) for effect in effects] == [ReleaseUpdate, Apply]
    assert effects[1].weight == pytest.approx(0.6)


# --- devices that wait for an answer ---


def test_every_update_is_answered_with_a_model_at_once(new_region: Any, words: Any) -> None:
    region = new_region(ANSWERED)
    assert offered(join(region, words, "crow")) == [("crow", None)]
    for sequence in range(1, 4):
        effects = region.handle(words.update("crow", sequence, version(sequence - 1)), 0.001 * sequence)
        assert offered(effects) == [("crow", sequence - 1)]
        written(region, effects)
    for second in range(100):
        assert region.handle(Tick(), float(second)) == [], "an offer that nobody asked for would be one cycle more"


def test_an_update_that_is_held_or_rejected_is_answered_with_the_model_at_hand(new_region: Any, words: Any) -> None:
    region = new_region(Recipe(participation=OnOffer(), arrival=FedBuff(5), federation=NoFederation()))
    join(region, words, "crow")
    effects = region.handle(words.update("crow", 1, version(0)), 1.0)
    assert offered(effects) == [("crow", 0)]
    written(region, effects)
    effects = region.handle(words.update("crow", 2, ModelVersion("here/0000000f", 0)), 1.0)
    assert of(SendToDevice, effects)[0].message.reason == "unknown_base"
    assert offered(effects) == [("crow", 0)]


def test_an_update_that_overtakes_the_word_that_its_base_was_written_is_answered(new_region: Any, words: Any) -> None:
    region = new_region(ANSWERED)
    region.handle(words.hello("crow"), 0.0)
    assert offered(region.handle(words.update("crow", 1, version(0)), 1.0)) == [("crow", 0)]


def test_an_offer_on_its_way_is_the_answer(new_region: Any, words: Any) -> None:
    region = new_region(ANSWERED)
    join(region, words, "crow", "kite")
    written(region, region.handle(words.update("kite", 1, version(0)), 1.0))
    region.handle(words.update("crow", 1, version(0)), 1.0)  # offers version 2, which is not written yet
    assert offered(region.handle(words.update("crow", 2, version(0)), 1.0)) == []
