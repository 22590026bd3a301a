"""The core where the coordinator invites to each cycle."""

import pytest

from edge_agent.device import Device
from edge_agent.device_setup import Memory
from edge_agent.events import (
    BundleOpened,
    Calibrated,
    Connected,
    Received,
    SetModel,
    SettleUpdate,
    StartCycle,
    StoreUpdate,
    TakeDifference,
)
from skerry.protocol.messages import UpdateAccepted
from tests.edge_agent.device_core import PAYLOAD, PLAN, SHA, at, finished, new_device, offer, stored, tell, welcome


@pytest.fixture
def invited() -> Device:
    """A device that trains once for each offer, in its first cycle."""
    device = new_device()
    greeting = welcome(recipe={"participation": {"rule": "on_offer"}})
    effects = tell(device, Connected(), Received(greeting), BundleOpened(SHA), Calibrated(SHA, [0.1] * 5), offer(1))
    assert effects == [SetModel(at(1), None, PAYLOAD), StartCycle(1, 10, 0.05, 0, 0)]
    return device


def test_one_cycle_for_each_offer_and_idle_between_them(invited: Device) -> None:
    done = finished(1)
    assert tell(invited, done, now_s=2.0) == [TakeDifference(1, done, 0.1), StoreUpdate(1)]
    accepted = Received(UpdateAccepted(1, 2, 0.5, PLAN))
    assert tell(invited, stored(1), accepted, now_s=5.0) == [SettleUpdate(1, 0.5, accepted=True)]
    assert tell(invited, offer(2, base=1), now_s=6.0) == [
        SetModel(at(2), at(1), PAYLOAD),
        StartCycle(2, 10, 0.05, 1, 10),
    ]
    assert invited.progress(7.0).idle_s == 4.0


def test_an_offer_of_the_model_at_hand_is_an_invitation(invited: Device) -> None:
    tell(invited, finished(1), stored(1))
    assert tell(invited, offer(1, base=1)) == [StartCycle(2, 10, 0.05, 0, 10)]


def test_an_offer_that_a_reconnect_repeats_is_answered_by_the_cycle_under_way(invited: Device) -> None:
    assert tell(invited, offer(1, base=1)) == []
    done = finished(1)
    assert tell(invited, done) == [TakeDifference(1, done, 0.1), StoreUpdate(1)]


def test_an_offer_in_mid_cycle_invites_to_the_next_one(invited: Device) -> None:
    assert tell(invited, offer(2, base=1)) == [SetModel(at(2), at(1), PAYLOAD)]
    done = finished(1)
    assert tell(invited, done) == [TakeDifference(1, done, 0.1), StartCycle(2, 10, 0.05, 0, 10), StoreUpdate(1)]


def test_a_cycle_that_brought_nothing_is_taken_again(invited: Device) -> None:
    """The coordinator does not hear of it: it would wait, and so would the device."""
    assert tell(invited, finished(1, finite=False)) == [StartCycle(2, 10, 0.05, 0, 0)]


def test_an_update_that_cannot_be_sent_leaves_the_invitation_open(invited: Device) -> None:
    tell(invited, finished(1))
    effects = tell(invited, stored(1, payload_bytes=1 << 40))
    assert effects == [SettleUpdate(1, 0.0, accepted=False), StartCycle(2, 10, 0.05, 0, 10)]


def test_a_restarted_device_waits_for_the_coordinator_to_invite_it() -> None:
    greeting = welcome(recipe={"participation": {"rule": "on_offer"}})
    device = new_device(Memory(welcome=greeting, model=at(4)))
    device.start()
    assert tell(device, BundleOpened(SHA), Calibrated(SHA, [0.1])) == []
    tell(device, Connected(), Received(greeting))
    assert tell(device, offer(4, base=4)) == [StartCycle(1, 10, 0.05, 0, 0)]


def test_an_invitation_is_answered_also_where_the_schedule_has_ended() -> None:
    """The coordinator may wait for the answer."""
    device = new_device()
    recipe = {"participation": {"rule": "on_offer"}, "schedule": {"rule": "cosine", "fall_steps": 5}}
    told = (Connected(), Received(welcome(recipe=recipe)), BundleOpened(SHA), Calibrated(SHA, [0.1] * 5))
    tell(device, *told, offer(1), finished(1), stored(1))
    assert device.progress(0.0).decision.causes == ("schedule",)
    assert tell(device, offer(1, base=1)) == [StartCycle(2, 10, 0.05, 0, 10)]
    assert not any(isinstance(effect, StartCycle) for effect in tell(device, finished(2)))
