"""The core alone: events in, effects out, in order."""

import logging
from typing import Any

import pytest

from edge_agent.device import EARLY_OFFERS_MAX, UNFIT, Device
from edge_agent.device_setup import Bounds, Identity, Memory
from edge_agent.events import (
    AdoptTask,
    BundleOpened,
    Calibrate,
    Calibrated,
    Connected,
    ContinueAfter,
    Disconnected,
    FetchBundle,
    ModelRefused,
    Received,
    Reconnect,
    SaveModel,
    SaveTask,
    Send,
    SendTelemetry,
    SendUpdate,
    SetLearningRate,
    SetModel,
    SettleUpdate,
    StartCycle,
    StopCycle,
    StoreUpdate,
    TakeDifference,
    TaskUnfit,
    Tick,
    UpdateStored,
)
from edge_agent.rejections import Rejected
from skerry.policy import Decision
from skerry.protocol.messages import (
    BundleReference,
    Drain,
    Hello,
    PartialUpdate,
    Plan,
    Refused,
    UpdateAccepted,
    UpdateRejected,
)
from tests.edge_agent.device_core import (
    OTHER_SHA,
    PAYLOAD,
    PLAN,
    SHA,
    at,
    finished,
    new_device,
    offer,
    stored,
    tell,
    welcome,
)


def test_a_new_device_asks_for_its_task() -> None:
    device = new_device()
    assert device.start() == []
    (said,) = tell(device, Connected())
    assert isinstance(said, Send)
    assert isinstance(said.message, Hello)
    assert (said.message.base, said.message.bundle, said.message.last_sequence) == (None, None, 0)
    assert tell(device, Received(welcome())) == [AdoptTask(welcome()), FetchBundle(BundleReference(SHA, 10))]
    assert tell(device, BundleOpened(SHA)) == [Calibrate()]


def test_a_device_that_lost_its_disk_goes_on_after_the_number_that_the_coordinator_knows() -> None:
    device = new_device()
    effects = tell(device, Connected(), Received(welcome(last_sequence=41)))
    assert effects[0] == ContinueAfter(41)
    tell(device, BundleOpened(SHA), Calibrated(SHA, [0.1]), offer(1))
    assert StoreUpdate(42) in tell(device, finished(1))


def test_the_next_cycle_starts_before_the_update_is_on_disk_and_nothing_is_sent_before(training: Device) -> None:
    done = finished(1)
    assert tell(training, done) == [TakeDifference(1, done, 0.1), StartCycle(2, 10, 0.05, 0, 10), StoreUpdate(1)]
    assert tell(training, stored(1)) == [SendUpdate(1, 64 << 10, 0)]


def test_a_full_outbox_pauses_training_until_an_answer_comes(training: Device) -> None:
    for number in (1, 2):
        assert any(isinstance(effect, StartCycle) for effect in tell(training, finished(number)))
        tell(training, stored(number))
    assert not any(isinstance(effect, StartCycle) for effect in tell(training, finished(3)))
    tell(training, stored(3), now_s=5.0)
    effects = tell(training, Received(UpdateAccepted(1, 2, 1.0, PLAN)), now_s=9.0)
    assert effects == [SettleUpdate(1, 1.0, accepted=True), StartCycle(4, 10, 0.05, 1, 30)]
    assert training.progress(9.0).idle_s == 9.0
    assert training.progress(20.0).idle_s == 9.0


@pytest.mark.parametrize(
    ("recipe", "weight", "returned"),
    [
        ({}, 0.25, 0.25),
        ({}, None, None),
        ({"uplink": {"rule": "top_k", "return_unapplied": False}}, 0.25, None),
        ({"uplink": {"rule": "dense"}}, 0.25, None),
    ],
)
def test_what_was_not_applied_returns_if_the_recipe_says_so(
    recipe: dict[str, Any], weight: float | None, returned: float | None
) -> None:
    device = new_device()
    tell(device, Connected(), Received(welcome(recipe=recipe)), BundleOpened(SHA), Calibrated(SHA, [0.1]), offer(1))
    tell(device, finished(1), stored(1))
    effects = tell(device, Received(UpdateAccepted(1, 2, weight, PLAN)))
    assert effects == [SettleUpdate(1, returned, accepted=True)]
    assert tell(device, Received(UpdateAccepted(1, 2, weight, PLAN))) == []  # said twice


def test_a_rejected_update_returns_whole(training: Device) -> None:
    tell(training, finished(1), stored(1))
    effects = tell(training, Received(UpdateRejected(1, "unknown_base", "forgotten")))
    assert effects == [SettleUpdate(1, 0.0, accepted=False)]
    assert "unknown_base" in training.progress(0.0).last_error


@pytest.mark.parametrize("reason", ["not_finite", "outlier", "quarantined"])
def test_values_that_the_coordinator_will_not_have_do_not_return(training: Device, reason: Any) -> None:
    """They would be sent again with the next update, and the next, and reject each of them."""
    tell(training, finished(1), stored(1))
    effects = tell(training, Received(UpdateRejected(1, reason, "a value beyond 1e+30")))
    assert effects == [SettleUpdate(1, None, accepted=False)]
    assert reason in training.progress(0.0).last_error
    assert "is dropped" in training.progress(0.0).last_error


def test_rejections_are_counted_and_quarantine_lasts_until_the_coordinator_thinks_otherwise(training: Device) -> None:
    assert training.progress(0.0).rejected == Rejected()
    reasons: tuple[Any, ...] = ("late", "quarantined", "quarantined")
    for number, reason in enumerate(reasons, start=1):
        tell(training, finished(number), stored(number), Received(UpdateRejected(number, reason, "points away")))
    counted = {"late": 1, "quarantined": 2}
    assert training.progress(0.0).rejected == Rejected(counted, "points away")
    tell(training, finished(4), stored(4), Received(UpdateAccepted(4, 2, 1.0, PLAN)))
    assert training.progress(0.0).rejected == Rejected(counted, "")
    tell(training, finished(5), stored(5), Received(UpdateRejected(5, "quarantined", "")))
    assert training.progress(0.0).rejected.quarantine == "quarantined"
    tell(training, Disconnected("cut"), Connected(), Received(welcome()))
    assert training.progress(0.0).rejected.quarantine == ""


def test_all_that_waits_is_sent_again_in_order_after_a_reconnect(training: Device) -> None:
    tell(training, finished(1), stored(1), finished(2), stored(2), Disconnected("cut"))
    again = [SendUpdate(number, 65536, 0, abroad=True) for number in (1, 2)]
    assert tell(training, Connected(), Received(welcome())) == again


def test_an_update_stored_between_connecting_and_the_welcome_is_sent_once(training: Device) -> None:
    tell(training, finished(1), Disconnected("cut"), Connected())
    assert tell(training, stored(1)) == []
    assert tell(training, Received(welcome())) == [SendUpdate(1, 65536, 0, abroad=True)]


@pytest.mark.parametrize(
    ("partial", "part_bytes_max", "first"),
    [
        (PartialUpdate(1, 7, 2), 256 << 10, 2),
        (PartialUpdate(1, 8, 2), 256 << 10, 0),  # another payload
        (PartialUpdate(2, 7, 2), 256 << 10, 0),  # another update
        (PartialUpdate(1, 7, 4), 256 << 10, 0),  # more parts than there are
        (PartialUpdate(1, 7, 2), 1000, 0),  # counted in other parts
    ],
)
def test_an_update_goes_on_where_it_was_cut(
    training: Device, partial: PartialUpdate, part_bytes_max: int, first: int
) -> None:
    tell(training, finished(1), stored(1, payload_bytes=200_000), Disconnected("cut"), Connected())
    effects = tell(training, Received(welcome(partial=partial, part_bytes_max=part_bytes_max)))
    assert effects[-1] == SendUpdate(1, min(part_bytes_max, 65536), first, abroad=True)


def test_an_update_that_needs_more_parts_than_there_may_be_is_rejected_here(
    caplog: pytest.LogCaptureFixture,
) -> None:
    device = new_device()
    small = welcome(part_bytes_max=1024)
    tell(device, Connected(), Received(small), BundleOpened(SHA), Calibrated(SHA, [0.1]), offer(1), finished(1))
    with caplog.at_level(logging.WARNING):
        assert tell(device, stored(1, 4096 * 1024 + 1)) == [SettleUpdate(1, 0.0, accepted=False)]
    assert "limits.part_bytes_max" in device.progress(0.0).last_error
    assert "limits.part_bytes_max" in caplog.text
    assert device.progress(0.0).outbox_updates == 0
    tell(device, finished(2))
    assert tell(device, stored(2, 4096 * 1024)) == [SendUpdate(2, 1024, 0)]


def test_updates_that_another_coordinator_had_room_for_make_room_for_training(training: Device) -> None:
    for number in (1, 2, 3):
        tell(training, finished(number), stored(number, 8 << 20))
    tell(training, Disconnected("cut"), Connected())
    effects = tell(training, Received(welcome(part_bytes_max=1024)))
    settled = [SettleUpdate(number, 0.0, accepted=False) for number in (1, 2, 3)]
    assert [effect for effect in effects if isinstance(effect, SettleUpdate)] == settled
    assert [type(effect) for effect in effects].count(StartCycle) == 1
    assert "update 3 cannot be sent" in training.progress(0.0).last_error


def test_an_update_that_the_protocol_cannot_carry_is_rejected_here(training: Device) -> None:
    tell(training, finished(1))
    assert tell(training, stored(1, (256 << 20) + 1)) == [SettleUpdate(1, 0.0, accepted=False)]
    assert "sparser uplink" in training.progress(0.0).last_error


def test_a_restart_resends_and_trains_at_once() -> None:
    waiting = (UpdateStored(4, 100, 7), UpdateStored(5, 100, 8))
    device = new_device(Memory(5, 2, welcome(), at(9), waiting, steps=50))
    assert device.start() == [FetchBundle(BundleReference(SHA, 10))]
    assert tell(device, BundleOpened(SHA)) == [Calibrate()]
    assert tell(device, Calibrated(SHA, [0.1])) == [StartCycle(1, 10, 0.05, 2, 50)]
    (said,) = tell(device, Connected())
    assert isinstance(said, Send)
    assert isinstance(said.message, Hello)
    assert (said.message.base, said.message.bundle, said.message.last_sequence) == (at(9), SHA, 5)
    assert said.message.seconds_per_step == 0.1
    effects = tell(device, Received(welcome(last_sequence=4)))
    assert effects == [SendUpdate(4, 65536, 0), SendUpdate(5, 65536, 0)]


def test_a_newer_model_reaches_the_cycle_under_way(training: Device) -> None:
    assert tell(training, offer(2, base=1)) == [SetModel(at(2), at(1), PAYLOAD)]
    assert training.model == at(2)


def test_a_difference_to_another_model_is_not_taken(training: Device) -> None:
    (effect,) = tell(training, offer(9, base=5))
    assert isinstance(effect, Reconnect)
    assert training.model == at(1)
    (said,) = tell(training, Disconnected("left"), Connected())
    assert isinstance(said, Send)
    assert isinstance(said.message, Hello)
    assert said.message.base is None


def test_a_model_that_cannot_be_read_brings_the_whole_one(training: Device) -> None:
    tell(training, offer(2, base=1))
    (effect,) = tell(training, ModelRefused(at(1), "truncated"))
    assert isinstance(effect, Reconnect)
    assert training.model == at(1)
    tell(training, Disconnected("left"), Connected(), Received(welcome()))
    assert tell(training, offer(3)) == [SetModel(at(3), None, PAYLOAD)]


def test_models_that_come_before_the_bundle_are_set_when_it_is_open() -> None:
    device = new_device()
    assert tell(device, Connected(), Received(welcome()), offer(1)) == []
    assert tell(device, offer(2, base=1)) == []
    assert tell(device, BundleOpened(SHA)) == [
        SetModel(at(1), None, PAYLOAD),
        SetModel(at(2), at(1), PAYLOAD),
        Calibrate(),
    ]


def test_models_before_the_bundle_are_bounded_and_forgotten_with_the_stream() -> None:
    device = new_device()
    tell(device, Connected(), Received(welcome()), offer(1))
    effects = [tell(device, offer(number + 1, base=number)) for number in range(1, EARLY_OFFERS_MAX + 1)]
    assert isinstance(effects[-1][0], Reconnect)
    assert device.model is None
    tell(device, Disconnected("left"), Connected(), Received(welcome()), offer(70), Disconnected("cut"), Connected())
    assert device.model is None
    assert tell(device, BundleOpened(SHA)) == [Calibrate()]


def test_another_bundle_ends_the_task_and_its_late_results_count_for_nothing(training: Device) -> None:
    tell(training, finished(1), stored(1), finished(2))
    tell(training, Disconnected("cut"), Connected())
    other = welcome(bundle=BundleReference(OTHER_SHA, 20), last_sequence=1)
    assert tell(training, Received(other)) == [StopCycle(), AdoptTask(other), FetchBundle(other.bundle)]
    assert tell(training, stored(2)) == []
    assert tell(training, finished(3)) == []
    assert tell(training, BundleOpened(SHA)) == []
    assert tell(training, Calibrated(SHA, [0.1])) == []
    assert training.model is None
    assert tell(training, BundleOpened(OTHER_SHA)) == [Calibrate()]
    tell(training, Calibrated(OTHER_SHA, [0.1]), offer(1))
    assert StoreUpdate(3) in tell(training, finished(4))


def test_a_task_that_does_not_fit_is_told_at_once_and_trains_when_it_fits() -> None:
    device = new_device()
    tell(device, Connected(), Received(welcome()), offer(1))
    (told,) = tell(device, TaskUnfit(SHA, "cell 7 is wrong"), now_s=1.0)
    assert isinstance(told, SendTelemetry)
    assert told.progress.decision == Decision("pause", (UNFIT,))
    assert told.progress.last_error == "cell 7 is wrong"
    assert tell(device, *(offer(number) for number in range(2, EARLY_OFFERS_MAX + 9))) == []
    (said,) = tell(device, Disconnected("cut"), Connected())
    assert isinstance(said, Send)
    assert isinstance(said.message, Hello)
    assert said.message.base is None
    assert device.progress(2.0).last_error == "cut"
    tell(device, Received(welcome()), offer(99))
    assert device.progress(2.0).last_error == "cell 7 is wrong"
    assert tell(device, TaskUnfit(OTHER_SHA, "of a task that was left")) == []
    (again,) = tell(device, BundleOpened(SHA))
    assert isinstance(again, Reconnect)  # what was offered so far is gone
    assert tell(device, Disconnected("left"), Connected(), Received(welcome())) == [Calibrate()]
    assert tell(device, Calibrated(SHA, [0.1]), offer(100))[-1] == StartCycle(1, 10, 0.05, 0, 0)
    assert device.progress(3.0).last_error == ""
    assert device.progress(3.0).decision == Decision()


def test_data_that_are_put_right_bring_only_what_the_stored_model_lacks() -> None:
    device = Device(Identity("pi-1", "0.1", ""), Bounds(3, 10.0, 600.0), Memory(0, 0, welcome(), at(1)), now_s=0.0)
    tell(device, TaskUnfit(SHA, "why"), Connected(), Received(welcome()), offer(2, base=1), BundleOpened(SHA))
    (said,) = tell(device, Disconnected("left"), Connected())
    assert isinstance(said, Send)
    assert isinstance(said.message, Hello)
    assert said.message.base == at(1)
    assert tell(device, Received(welcome()), offer(3, base=1))[0] == SetModel(at(3), at(1), PAYLOAD)


def test_another_task_ends_the_wait_of_one_that_does_not_fit() -> None:
    device = new_device()
    other = welcome(bundle=BundleReference(OTHER_SHA, 20))
    tell(device, Connected(), Received(welcome()), TaskUnfit(SHA, "why"), Disconnected("cut"), Connected())
    assert tell(device, Received(other)) == [AdoptTask(other), FetchBundle(other.bundle)]
    assert device.progress(0.0).decision == Decision()
    assert device.progress(0.0).last_error == ""
    tell(device, offer(1))
    assert tell(device, BundleOpened(OTHER_SHA, "no own head")) == [SetModel(at(1), None, PAYLOAD), Calibrate()]
    assert device.progress(0.0).last_error == "no own head"


def test_diverged_training_sends_nothing_and_starts_again(training: Device) -> None:
    assert tell(training, finished(1, finite=False)) == [StartCycle(2, 10, 0.05, 0, 0)]
    assert "diverged" in training.progress(0.0).last_error


def test_steps_follow_the_plan_and_the_speed(training: Device) -> None:
    for number in range(1, 4):
        tell(training, finished(number, seconds=0.2), stored(number))
        effects = tell(training, Received(UpdateAccepted(number, 2, 1.0, Plan(cycle_s=4.0, learning_rate=0.01))))
    assert effects == [SettleUpdate(3, 1.0, accepted=True)]
    started = [effect for effect in tell(training, finished(4)) if isinstance(effect, StartCycle)]
    assert started == [StartCycle(5, 20, 0.01, 3, 40)]


def test_a_cycle_under_way_takes_the_learning_rate_of_a_newer_plan(training: Device) -> None:
    tell(training, finished(1), stored(1), finished(2), stored(2))
    slower = Plan(cycle_s=1.0, learning_rate=0.01)
    effects = tell(training, Received(UpdateAccepted(1, 2, 1.0, slower)))
    assert effects == [SetLearningRate(0.01), SettleUpdate(1, 1.0, accepted=True)]
    effects = tell(training, Received(UpdateAccepted(2, 3, 1.0, slower)))
    assert effects == [SettleUpdate(2, 1.0, accepted=True)]  # no news
    tell(training, Disconnected("cut"), Connected())
    assert tell(training, Received(welcome(plan=Plan(1.0, 0.02)))) == [SetLearningRate(0.02)]
    assert StartCycle(4, 10, 0.02, 2, 30) in tell(training, finished(3))


def test_a_newer_learning_rate_waits_for_the_next_cycle_where_none_is_under_way(training: Device) -> None:
    for number in (1, 2, 3):
        tell(training, finished(number), stored(number))
    effects = tell(training, Received(UpdateAccepted(1, 2, 1.0, Plan(1.0, 0.01))))
    assert effects == [SettleUpdate(1, 1.0, accepted=True), StartCycle(4, 10, 0.01, 1, 30)]


def test_another_task_takes_its_plan_along(training: Device) -> None:
    other = welcome(bundle=BundleReference(OTHER_SHA, 20), plan=Plan(1.0, 0.01))
    tell(training, Disconnected("cut"), Connected())
    assert tell(training, Received(other)) == [StopCycle(), AdoptTask(other), FetchBundle(other.bundle)]
    tell(training, BundleOpened(OTHER_SHA), Calibrated(OTHER_SHA, [0.1]))
    assert tell(training, offer(1))[-1] == StartCycle(2, 10, 0.01, 0, 0)


def test_another_task_begins_its_schedule_anew(training: Device) -> None:
    tell(training, finished(1), stored(1), finished(2, steps=7))
    other = welcome(bundle=BundleReference(OTHER_SHA, 20))
    tell(training, Disconnected("cut"), Connected(), Received(other), BundleOpened(OTHER_SHA))
    tell(training, Calibrated(OTHER_SHA, [0.1]))
    assert tell(training, offer(1))[-1] == StartCycle(4, 10, 0.05, 0, 0)


def test_a_changed_recipe_is_written_down_and_a_moved_plan_is_not(training: Device) -> None:
    tell(training, Disconnected("cut"), Connected())
    assert tell(training, Received(welcome(plan=Plan(2.0, 0.05)))) == []
    other = welcome(recipe={"merge": {"rule": "next_cycle"}})
    tell(training, Disconnected("cut"), Connected())
    assert tell(training, Received(other)) == [SaveTask(other)]


def test_an_unknown_recipe_is_refused_with_the_reason() -> None:
    device = new_device()
    (effect,) = tell(device, Connected(), Received(welcome(recipe={"uplink": {"rule": "telepathy"}})))
    assert isinstance(effect, Reconnect)
    assert effect.hopeless
    assert "telepathy" in device.progress(0.0).last_error


def test_a_refusal_and_a_drain_say_when_to_come_back(training: Device) -> None:
    (refused,) = tell(training, Received(Refused("superseded", "two of one name", retry=False)))
    assert isinstance(refused, Reconnect)
    assert refused.hopeless
    assert tell(training, Received(Drain(3.0))) == [Reconnect("the coordinator is about to stop", wait_s=3.0)]


def test_what_arrives_after_the_stream_is_gone_is_ignored(training: Device) -> None:
    tell(training, Disconnected("cut"))
    assert tell(training, offer(2)) == []


def test_the_model_is_written_down_seldom_and_only_if_it_changed(training: Device) -> None:
    assert SaveModel(first=True) in tell(training, Tick(), now_s=1.0)
    tell(training, offer(2, base=1), now_s=2.0)
    assert SaveModel() not in tell(training, Tick(), now_s=600.0)
    assert SaveModel() in tell(training, Tick(), now_s=601.0)
    assert SaveModel() not in tell(training, Tick(), now_s=1300.0)
    tell(training, offer(3, base=2), now_s=1301.0)
    assert SaveModel() in tell(training, Tick(), now_s=1302.0)


def test_every_task_has_its_first_model_written_at_once(training: Device) -> None:
    tell(training, Tick(), Disconnected("cut"), Connected())
    tell(training, Received(welcome(bundle=BundleReference(OTHER_SHA, 20))), offer(1))
    assert tell(training, Tick(), now_s=1.0) == []  # nothing was set in it yet
    tell(training, BundleOpened(OTHER_SHA), now_s=2.0)
    assert SaveModel(first=True) in tell(training, Tick(), now_s=3.0)
    remembered = Device(Identity("pi-1", "0.1", ""), Bounds(3, 10.0, 600.0), Memory(0, 0, welcome(), at(1)), now_s=0.0)
    tell(remembered, BundleOpened(SHA), Connected(), Received(welcome()), offer(2, base=1))
    assert tell(remembered, Tick(), now_s=1.0) == []
