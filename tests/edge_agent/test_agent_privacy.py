"""What a device does for its data: it counts what left, says so, and refuses recipes that protect too little."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from edge_agent import privacy_text as words
from edge_agent import status
from edge_agent.config import Privacy
from edge_agent.outbox import Update
from edge_agent.privacy_text import privacy_text
from edge_agent.stages import RecipeRefusedError, stages_of
from edge_agent.store import Store
from skerry.agent_stages import AgentStages, on_wire
from skerry.algorithms.local_steps import Fixed
from skerry.algorithms.privacy import Gaussian, NoPrivacy
from skerry.algorithms.uplink import Dense
from skerry.errors import ConfigError
from skerry.protocol.messages import BundleReference, ModelVersion, Plan, Welcome
from skerry.recipe import Recipe


def welcome(recipe: Recipe) -> Welcome:
    stages = on_wire(recipe.agent_stages())
    return Welcome(1, 1, "eu-1", "eu", BundleReference("0" * 64, 1), stages, Plan(1.0, 0.05), 0, None, 1 << 18)


def update(sequence: int) -> Update:
    return Update(sequence, ModelVersion("eu/0", 1), 5, 10, 0.0, 0.1, 0.05, b"payload", sequence)


def test_a_recipe_without_privacy_is_one_of_before() -> None:
    assert stages_of(welcome(Recipe())).privacy == NoPrivacy()
    assert stages_of(welcome(Recipe(privacy=Gaussian()))).privacy == Gaussian()


@pytest.mark.parametrize("noise", [0.0, 4.9])
def test_a_recipe_that_protects_too_little_is_refused(noise: float) -> None:
    asked = Recipe(privacy=Gaussian(noise_multiplier=noise)) if noise else Recipe()
    with pytest.raises(RecipeRefusedError, match=rf"noise_multiplier, {noise:g}, is below .* 5: nothing is sent"):
        stages_of(welcome(asked), 5.0)
    assert stages_of(welcome(Recipe(privacy=Gaussian(noise_multiplier=5.0))), 5.0).privacy.noise_multiplier == 5.0


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
