"""What the core writes to the log: each change once."""

import logging

import pytest

from edge_agent.device import Device
from edge_agent.device_setup import Memory
from edge_agent.events import BundleOpened, Calibrated, Connected, PaceDecided, Received
from edge_agent.learning_rate import LearningRate
from skerry.policy import Decision
from skerry.protocol.messages import UpdateRejected
from tests.edge_agent.device_core import COOL, SHA, finished, new_device, offer, stored, tell, welcome


def test_only_a_change_is_logged(training: Device, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for degrees in (80.0, 81.0, 79.5):
            tell(training, PaceDecided(Decision("slow", (f"temperature {degrees} C, slows at 75.0 C",))))
        tell(training, COOL, COOL)
    assert [record.getMessage() for record in caplog.records] == [
        "pace: slow (temperature 80.0 C, slows at 75.0 C)",
        "pace: train (nothing holds it back)",
    ]


def test_the_recipe_is_logged_when_it_is_known_and_when_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    fading = {"schedule": {"rule": "cosine", "fall_steps": 20}}
    device = new_device()
    assert device.learning_rate is None
    with caplog.at_level(logging.INFO, "edge_agent.recipe_log"):
        device.start()
        tell(device, Connected(), Received(welcome()), Connected(), Received(welcome()))
        tell(device, Received(welcome(recipe=fading)), BundleOpened(SHA), Calibrated(SHA, [0.1] * 5), offer(1))
        assert device.learning_rate == LearningRate(0.05, 0.05, 1.0, 0, 20)
        for cycle in (1, 2):
            tell(device, finished(cycle), stored(cycle))
    told = [record.getMessage() for record in caplog.records if record.name == "edge_agent.recipe_log"]
    assert [message.split()[0] for message in told] == ["recipe:", "recipe:", "schedule"]
    assert "schedule cosine (fall_steps 20, " in told[1]
    assert device.learning_rate == LearningRate(0.0, 0.05, 0.0, 20, 20)


def test_a_restarted_device_logs_the_recipe_that_it_goes_on_with(caplog: pytest.LogCaptureFixture) -> None:
    device = new_device(Memory(welcome=welcome(recipe={"schedule": {"rule": "cosine", "fall_steps": 20}}), steps=10))
    with caplog.at_level(logging.INFO, "edge_agent.recipe_log"):
        device.start()
    assert "rate 0.025 at step 10: " in caplog.text


def test_a_device_in_quarantine_does_not_fill_the_log(training: Device, caplog: pytest.LogCaptureFixture) -> None:
    """It goes on sending, by which the coordinator may find it in order again."""
    with caplog.at_level(logging.WARNING):
        for number in range(1, 601):  # two minutes and a little, five times a second
            tell(training, finished(number), stored(number), now_s=0.2 * number)
            tell(training, Received(UpdateRejected(number, "quarantined", "points away")), now_s=0.2 * number)
        tell(training, finished(601), stored(601), Received(UpdateRejected(601, "late", "over")), now_s=120.3)
    text = "was rejected: quarantined: points away; what it held is dropped"
    assert [record.getMessage() for record in caplog.records] == [
        f"update 1 {text}",
        f"update 301 {text} (300 times since the last such line)",
        "update 601 was rejected: late: over",
    ]


def test_a_device_that_diverges_again_and_again_does_not_fill_the_log(
    training: Device, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for number in range(1, 601):  # two minutes and a little, five times a second
            tell(training, finished(number, finite=False), now_s=0.2 * number)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "diverged" in told[0]
    assert "(300 times since the last such line)" in told[1]
