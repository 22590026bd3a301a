"""Two regions of three devices each, with the noise that the recipe has by default: what becomes of their model."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from skerry.algorithms.privacy import Gaussian
from skerry.recipe import Recipe
from skerry.tasks.bundle import Bundle
from tests.simulation import small_federation


@pytest.mark.parametrize(("clip_norm", "ruined"), [(None, False), (1.0, True)])
def test_the_norm_that_is_chosen_ruins_no_model_of_few_devices(
    tmp_path: Path, clip_norm: float | None, ruined: bool
) -> None:
    """A norm of 1 does; the figures in docs/recipes.md are what this prints, with `-rP`."""
    recipe = Recipe(privacy=Gaussian(clip_norm=clip_norm))
    federation = small_federation.in_world(3, tmp_path, lambda _: asyncio.sleep(50.0), slower=8.0, recipe=recipe)
    assert federation.world.defects == []
    initial = Bundle.builtin("activity").initial_parameters()
    for name in federation.coordinators:
        model = np.frombuffer(federation.replayed(name), np.float32)
        length, moved = float(np.linalg.norm(model)), float(np.linalg.norm(model - initial))
        print(
            f"clip_norm {clip_norm}: from a length of {np.linalg.norm(initial):.1f} to {length:.1f}, moved {moved:.3g}"
        )
        assert moved > 0.0
        assert (moved > 10.0 * np.linalg.norm(initial)) == ruined
        assert (moved < 0.01 * np.linalg.norm(initial)) != ruined
