"""What a device does for its data: it counts what left, says so, and refuses recipes that protect too little."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from edge_agent import privacy_text as words
from edge_agent import status
from edge_agent.config import AgentConfig, Privacy
from edge_agent.device import Device
from edge_agent.device_setup import Memory
from edge_agent.events import (
    BundleOpened,
    Calibrated,
    Connected,
    DropUnsent,
    Received,
    SaveTask,
    SendUpdate,
    StartCycle,
)
from edge_agent.outbox import Update
from edge_agent.privacy_text import privacy_text
from edge_agent.stages import RecipeRefusedError, protects_more, stages_of
from edge_agent.store import Store
from skerry.agent_stages import AgentStages, on_wire
from skerry.algorithms.local_steps import Fixed
from skerry.algorithms.privacy import Gaussian, NoPrivacy
from skerry.algorithms.privacy import Privacy as PrivacyStage
from skerry.algorithms.uplink import Dense, TopK
from skerry.errors import ConfigError
from skerry.protocol.messages import BundleReference, ModelVersion, Plan, Welcome
from skerry.recipe import Recipe
from tests.edge_agent import device_core as core


def welcome(recipe: Recipe) -> Welcome:
    stages = on_wire(recipe.agent_stages(), 100)
    return Welcome(1, 1, "eu-1", "eu", BundleReference("0" * 64, 1), stages, Plan(1.0, 0.05), 0, None, 1 << 18)


def update(sequence: int) -> Update:
    return Update(sequence, ModelVersion("eu/0", 1), 5, 10, 0.0, 0.1, 0.05, b"payload", sequence)


def kept_of(config: AgentConfig) -> Any:
    """What is on an agent's disk."""
    store = Store(config.state_dir / "state.db")
    kept = store.load()
    store.close()
    return kept


def test_a_recipe_without_privacy_is_one_of_before() -> None:
    assert stages_of(welcome(Recipe())).privacy == NoPrivacy()
    assert stages_of(welcome(Recipe(privacy=Gaussian(0.5)))).privacy == Gaussian(0.5)


@pytest.mark.parametrize("noise", [0.0, 4.9])
def test_a_recipe_that_protects_too_little_is_refused(noise: float) -> None:
    asked = Recipe(privacy=Gaussian(noise_multiplier=noise)) if noise else Recipe()
    with pytest.raises(RecipeRefusedError, match=rf"noise_multiplier, {noise:g}, is below .* 5: nothing is sent"):
        stages_of(welcome(asked), 5.0)
    assert stages_of(welcome(Recipe(privacy=Gaussian(noise_multiplier=5.0))), 5.0).privacy.noise_multiplier == 5.0


@pytest.mark.parametrize(
    ("now", "before", "more"),
    [
        (Gaussian(), NoPrivacy(), True),
        (NoPrivacy(), Gaussian(), False),
        (NoPrivacy(), NoPrivacy(), False),
        (Gaussian(), Gaussian(), False),
        (Gaussian(noise_multiplier=6.0), Gaussian(noise_multiplier=5.0), True),
        (Gaussian(noise_multiplier=5.0), Gaussian(noise_multiplier=6.0), False),
        (Gaussian(clip_norm=0.5), Gaussian(clip_norm=1.0), True),
        (Gaussian(clip_norm=2.0), Gaussian(clip_norm=1.0), False),
        (Gaussian(clip_norm=2.0), Gaussian(), True),
        (Gaussian(), Gaussian(clip_norm=2.0), True),
        (Gaussian(clip_norm=0.5, noise_multiplier=5.0), Gaussian(clip_norm=1.0, noise_multiplier=6.0), True),
    ],
)
def test_less_noise_or_a_longer_norm_protects_less(now: PrivacyStage, before: PrivacyStage, more: bool) -> None:
    assert protects_more(now, before) == more


def noisy(**changes: Any) -> Received:
    recipe = Recipe(privacy=Gaussian(noise_multiplier=5.0, **changes))
    return Received(core.welcome(recipe=on_wire(recipe.agent_stages(), 100)))


def a_device_with_updates(recipe: dict[str, Any]) -> Device:
    """One update waits, one is being written, and a cycle is under way."""
    memory = Memory(1, 0, core.welcome(recipe=recipe), core.at(1), (core.stored(1),))
    device = core.new_device(memory)
    device.start()
    core.tell(device, BundleOpened(core.SHA), Calibrated(core.SHA, [0.1]), core.finished(1))
    return device


def test_what_was_made_without_noise_is_never_sent_once_there_is_to_be_some() -> None:
    device = a_device_with_updates({})
    effects = core.tell(device, Connected(), noisy())
    assert effects == [DropUnsent(noisy().message)]  # type: ignore[arg-type]
    assert core.tell(device, core.stored(2)) == []
    assert device.progress(0.0).outbox_updates == 0
    core.tell(device, core.finished(2))
    (sent,) = core.tell(device, core.stored(3))  # of the cycle under way, which gets its noise at its end
    assert isinstance(sent, SendUpdate)
    assert [type(effect) for effect in core.tell(device, Connected(), noisy())] == [SendUpdate]  # as it protects
    assert core.tell(device, Connected(), noisy(clip_norm=1e-4))[0] == DropUnsent(noisy(clip_norm=1e-4).message)  # type: ignore[arg-type]


def test_what_has_its_noise_is_sent_whatever_else_changes() -> None:
    device = a_device_with_updates(noisy().message.recipe)  # type: ignore[union-attr]
    plain = core.welcome()
    assert [type(effect) for effect in core.tell(device, Connected(), Received(plain))] == [SaveTask, SendUpdate]


def test_what_was_made_on_a_model_that_was_given_up_is_dropped() -> None:
    given_up = core.welcome(base_given_up=True)
    assert core.tell(a_device_with_updates({}), Connected(), Received(given_up)) == [DropUnsent(given_up)]


def test_the_next_of_a_full_outbox_that_is_dropped_begins_at_once() -> None:
    device = core.new_device(Memory(1, 0, core.welcome(), core.at(1), (core.stored(1),)), outbox_updates_max=1)
    device.start()
    core.tell(device, BundleOpened(core.SHA), Calibrated(core.SHA, [0.1]))
    assert [type(effect) for effect in core.tell(device, Connected(), noisy())] == [DropUnsent, StartCycle]


def test_residual_and_outbox_are_emptied_on_the_disk_along_with_the_recipe_that_asks_for_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    store.adopt_task(welcome(Recipe()), 1)
    store.put_update(update(1), np.ones(3, np.float32))
    store.put_update(update(2), None)
    protected = welcome(Recipe(privacy=Gaussian()))
    store.drop_unsent(protected, 2)
    store.put_update(update(3), None)
    store.close()
    again = Store(tmp_path / "state.db")
    stored = again.load()
    again.close()
    assert (stored.welcome, stored.moves, stored.last_sequence, stored.steps) == (protected, 2, 3, 15)
    assert [kept.sequence for kept in stored.updates] == [3]
    assert stored.residual is not None
    assert stored.residual.tolist() == [0.0, 0.0, 0.0]
    assert (stored.residual_event, stored.residual_learning_rate) == (2, 0.0)


async def test_an_agent_whose_recipe_gets_noise_sends_nothing_of_before(
    serve: Any, agent_config: Any, running: Any, caplog: pytest.LogCaptureFixture
) -> None:
    plain = AgentStages(local_steps=Fixed(5), uplink=TopK(density=0.01))
    coordinator = await serve(stages=plain, answers=False)
    config = agent_config(coordinator.url)
    async with running(config):
        await coordinator.until(lambda: len(coordinator.journal) >= 3)
    sent = {offered.sequence for offered in coordinator.offered}
    assert np.abs(kept_of(config).residual).max() > 1e-5
    coordinator.offered.clear()
    coordinator.answers = True
    coordinator.stages = replace(plain, privacy=Gaussian(noise_multiplier=1e-3, clip_norm=1e-6))
    async with running(replace(config, privacy=Privacy(noise_multiplier_min=1e-4))):
        await coordinator.until(lambda: len(coordinator.offered) >= 3)
    assert "the recipe protects more: " in caplog.text
    fresh = [offered.sequence for offered in coordinator.offered]
    assert min(fresh) > max(sent)
    assert max(np.abs(coordinator.journal[sequence].values).max() for sequence in fresh) < 1e-5
    kept = kept_of(config)
    assert np.abs(kept.residual).max() < 1e-5
    assert min([kept.last_sequence, *(one.sequence for one in kept.updates)]) > max(sent)


def test_what_left_is_counted_for_good(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    assert store.load().spent == {}
    for sequence, spends in enumerate([5.0, 5.0, 0.0, None, 7.5], 1):
        store.put_update(update(sequence), None, spends)
    store.adopt_task(welcome(Recipe()))
    store.close()
    again = Store(tmp_path / "state.db")
    assert again.load().spent == {0.0: 1, 5.0: 2, 7.5: 1}
    again.close()


def test_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    assert privacy_text({}) == "nothing has left"
    assert privacy_text({0.0: 1}) == "updates leave without noise"
    assert "no epsilon bounds" in privacy_text({0.0: 1, 5.0: 3})
    monkeypatch.setattr(words, "epsilon", lambda _: 4.567)
    assert privacy_text({5.0: 3, 2.0: 4}) == (
        "updates: 4 at noise multiplier 2, 3 at noise multiplier 5: epsilon 4.57 at delta 1e-05"
    )

    def lacks(_: object) -> float:
        raise ConfigError("epsilon needs dp-accounting")

    monkeypatch.setattr(words, "epsilon", lacks)
    assert privacy_text({5.0: 3}) == "updates: 3 at noise multiplier 5; epsilon needs dp-accounting"


async def test_all_that_leaves_is_noise_and_a_clipped_difference(serve: Any, agent_config: Any, running: Any) -> None:
    stages = AgentStages(local_steps=Fixed(5), privacy=Gaussian(clip_norm=0.01, noise_multiplier=5.0), uplink=Dense())
    coordinator = await serve(stages=stages)
    config = agent_config(coordinator.url)
    async with running(config):
        await coordinator.until(lambda: len(coordinator.journal) >= 6 and len(coordinator.telemetry) >= 2)
    values = np.concatenate([vector.values for vector in coordinator.journal.values()])
    assert values.std() == pytest.approx(0.05, rel=0.2)
    first, second = (coordinator.journal[sequence].values for sequence in (1, 2))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.5
    assert {offered.loss for offered in coordinator.offered} == {0.0}
    assert all(told.held_out_examples == told.held_out_correct == 0 for told in coordinator.telemetry)
    final = status.read(config.state_dir)
    assert final is not None
    assert final.last_loss is not None
    assert final.privacy_spent[5.0] >= coordinator.offered[-1].sequence
    store = Store(config.state_dir / "state.db")
    stored = store.load()
    assert stored.spent == {5.0: stored.last_sequence}
    store.close()


async def test_without_noise_one_is_counted_and_no_more(serve: Any, agent_config: Any, running: Any) -> None:
    coordinator = await serve()
    config = agent_config(coordinator.url)
    async with running(config):
        await coordinator.until(lambda: len(coordinator.journal) >= 4)
    final = status.read(config.state_dir)
    assert final is not None
    assert final.privacy_spent == {0.0: 1}


async def test_a_device_that_wants_noise_sends_nothing_to_who_asks_for_none(
    serve: Any, agent_config: Any, running: Any
) -> None:
    coordinator = await serve()
    config = replace(agent_config(coordinator.url), privacy=Privacy(noise_multiplier_min=1.0))
    async with running(config) as task:
        await coordinator.until(lambda: len(coordinator.hellos) >= 1)
        await coordinator.until(
            lambda: "noise_multiplier_min" in (((found := status.read(config.state_dir)) and found.last_error) or "")
        )
        assert not task.done()
    assert coordinator.offered == []
