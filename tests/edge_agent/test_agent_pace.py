"""The core's time: what counts as training, idle and rest, what the policy's pace does, and what is told of both."""

from typing import Any

from edge_agent.device import Device
from edge_agent.events import (
    BundleOpened,
    Calibrate,
    Calibrated,
    Connected,
    CycleStarted,
    PaceDecided,
    Received,
    SaveModel,
    SendTelemetry,
    SendUpdate,
    SetModel,
    SetPace,
    SettleUpdate,
    StartCycle,
    StoreUpdate,
    TakeDifference,
    Tick,
)
from edge_agent.recipe_text import SCHEDULE_OVER
from skerry.policy import Decision
from skerry.protocol.messages import UpdateAccepted
from tests.edge_agent.device_core import (
    COOL,
    HOT,
    PAYLOAD,
    PLAN,
    SHA,
    WARM,
    at,
    finished,
    new_device,
    offer,
    stored,
    tell,
    welcome,
)


def test_time_is_training_idle_or_neither(training: Device) -> None:
    tell(training, CycleStarted(1), now_s=1.0)
    tell(training, finished(1), now_s=4.0)
    tell(training, CycleStarted(2), now_s=5.0)
    progress = training.progress(7.0)
    assert (progress.training_s, progress.idle_s, progress.uptime_s) == (5.0, 0.0, 7.0)


def test_telemetry_comes_at_its_interval_and_not_before_calibration() -> None:
    device = new_device()
    assert tell(device, Connected(), Received(welcome()), BundleOpened(SHA), Tick()) == []
    assert isinstance(tell(device, Calibrated(SHA, [0.1]), now_s=1.0)[0], SendTelemetry)
    assert tell(device, Tick(), now_s=10.9) == []
    assert isinstance(tell(device, Tick(), now_s=11.0)[0], SendTelemetry)


def test_a_pause_ends_the_cycle_whose_steps_become_an_update_and_no_other_starts(training: Device) -> None:
    assert tell(training, HOT) == [SetPace("pause")]
    short = finished(1, steps=3)
    assert tell(training, short) == [TakeDifference(1, short, 0.1), StoreUpdate(1)]
    assert tell(training, stored(1)) == [SendUpdate(1, 65536, 0)]
    assert tell(training, Received(UpdateAccepted(1, 2, 1.0, PLAN))) == [SettleUpdate(1, 1.0, accepted=True)]
    assert tell(training, offer(2, base=1)) == [SetModel(at(2), at(1), PAYLOAD)]  # models are taken up all the same
    assert tell(training, HOT) == []
    effects = tell(training, COOL)
    assert effects[0] == SetPace("train")
    assert isinstance(effects[1], StartCycle)
    assert effects[1].cycle == 2


def test_a_pause_that_is_over_before_the_cycle_has_ended_starts_none_beside_it(training: Device) -> None:
    tell(training, HOT)
    assert tell(training, COOL) == [SetPace("train")]
    assert any(isinstance(effect, StartCycle) for effect in tell(training, finished(1, steps=2)))


def test_a_slow_pace_goes_on_training(training: Device) -> None:
    assert tell(training, WARM) == [SetPace("slow")]
    assert any(isinstance(effect, StartCycle) for effect in tell(training, finished(1)))
    assert tell(training, HOT) == [SetPace("pause")]


def test_a_cycle_is_as_much_longer_as_the_disk_asks_for_and_no_longer_than_the_recipe_allows() -> None:
    def steps(stretch: float, recipe: dict[str, Any]) -> int:
        device = new_device()
        tell(device, Connected(), Received(welcome(recipe=recipe)), offer(1), BundleOpened(SHA))
        tell(device, PaceDecided(Decision(), stretch))
        start = next(one for one in tell(device, Calibrated(SHA, [0.1])) if isinstance(one, StartCycle))
        return start.steps

    cycle = {"local_steps": {"rule": "cycle", "steps_max": 60}}
    assert [steps(stretch, cycle) for stretch in (1.0, 2.5, 10.0)] == [10, 25, 60]
    fixed = {"local_steps": {"rule": "fixed", "steps_per_cycle": 7}}
    assert steps(10.0, fixed) == 7


def test_a_paused_device_neither_calibrates_nor_trains_but_says_why() -> None:
    device = new_device()
    assert tell(device, HOT) == [SetPace("pause")]
    tell(device, Connected(), Received(welcome()), offer(1))
    assert tell(device, BundleOpened(SHA)) == [SetModel(at(1), None, PAYLOAD)]
    told, saved = tell(device, Tick(), now_s=1.0)
    assert saved == SaveModel(first=True)
    assert isinstance(told, SendTelemetry)
    assert told.progress.decision == HOT.decision
    assert tell(device, COOL, now_s=2.0) == [SetPace("train"), Calibrate()]
    assert tell(device, offer(2, base=1), now_s=3.0) == [SetModel(at(2), at(1), PAYLOAD)]  # once
    effects = tell(device, Calibrated(SHA, [0.1]), now_s=4.0)
    assert isinstance(effects[-1], StartCycle)


def test_a_calibration_that_ends_in_a_pause_counts_and_training_waits() -> None:
    device = new_device()
    tell(device, Connected(), Received(welcome()), BundleOpened(SHA), offer(1), HOT)
    assert all(isinstance(effect, SendTelemetry) for effect in tell(device, Calibrated(SHA, [0.1])))
    assert tell(device, COOL)[1:] == [StartCycle(1, 10, 0.05, 0, 0)]


def test_a_change_of_pace_is_told_to_the_coordinator_at_once(training: Device) -> None:
    tell(training, Tick(), now_s=0.5)
    assert tell(training, Tick(), now_s=1.0) == []
    tell(training, WARM, now_s=1.5)
    (told,) = tell(training, Tick(), now_s=2.0)
    assert isinstance(told, SendTelemetry)
    assert told.progress.decision.pace == "slow"


def test_rest_by_policy_is_not_idleness(training: Device) -> None:
    tell(training, CycleStarted(1), now_s=1.0)
    tell(training, HOT, now_s=3.0)
    tell(training, finished(1), now_s=4.0)  # the step under way is training still
    tell(training, COOL, now_s=9.0)
    tell(training, CycleStarted(2), now_s=9.0)
    progress = training.progress(10.0)
    assert (progress.training_s, progress.paused_s, progress.idle_s) == (4.0, 5.0, 0.0)


def test_a_device_whose_schedule_has_ended_rests_says_why_and_goes_on_with_another() -> None:
    device = new_device()
    fading = welcome(recipe={"schedule": {"rule": "cosine", "fall_steps": 15}})
    tell(device, Connected(), Received(fading), BundleOpened(SHA), Calibrated(SHA, [0.1] * 5), offer(1))
    done = finished(1)
    assert tell(device, done) == [TakeDifference(1, done, 0.1), StartCycle(2, 10, 0.05, 0, 10), StoreUpdate(1)]
    assert device.progress(0.0).decision == Decision()
    done = finished(2)
    assert tell(device, done, HOT, now_s=1.0) == [SetPace("pause")]
    assert device.progress(1.0).decision == Decision("pause", (SCHEDULE_OVER, *HOT.decision.reasons))
    assert tell(device, stored(1), stored(2), COOL, offer(2, base=1)) == [SetModel(at(2), at(1), PAYLOAD)]
    assert device.progress(4.0).decision == Decision("pause", (SCHEDULE_OVER,))
    assert tell(device, Received(welcome()), now_s=5.0)[-1] == StartCycle(3, 10, 0.05, 0, 20)
    assert device.progress(5.0).decision == Decision()
