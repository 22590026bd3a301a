"""A region whose model is ruined at one stroke: it ruins no other, and is merged again when it has come back."""

import asyncio
from pathlib import Path

import numpy as np

from coordinator.history import read_history
from tests.simulation import small_federation
from tests.simulation.small_federation import SmallFederation


def test_a_ruined_model_ruins_no_other_and_counts_again_when_it_is_whole(tmp_path: Path) -> None:
    told: dict[str, float] = {}

    async def happen(federation: SmallFederation) -> None:
        await asyncio.sleep(40.0)
        healthy, ruined = (federation.coordinators[name].service for name in ("eu-1", "us-1"))
        assert healthy is not None
        assert ruined is not None

        def refused() -> str:
            return healthy.engine.status().peers["us-1"].refused

        assert not refused()
        told["at_s"] = federation.coordinators["eu-1"].clock()
        kept = ruined.engine._state.model.copy()
        ruined.engine._state.model[::2] *= -1.0
        merges = healthy.engine.status().merges
        await asyncio.sleep(12.0)
        assert "times as far as usual" in refused()
        assert healthy.engine.status().merges <= merges + 1
        assert healthy.engine.status().peer_models_refused["us-1"] > 2
        told["until_s"] = federation.coordinators["eu-1"].clock()
        ruined.engine._state.model[:] = kept
        await asyncio.sleep(18.0)
        assert not refused()
        assert healthy.engine.status().merges > merges + 1

    federation = small_federation.in_world(3, tmp_path, happen, slower=8.0)
    evaluations = read_history(federation.coordinators["eu-1"].disk.folder).evaluations
    before = [one.correct for one in evaluations if one.at_s < told["at_s"] and one.correct is not None]
    after = [
        one.correct for one in evaluations if told["at_s"] < one.at_s < told["until_s"] and one.correct is not None
    ]
    assert after
    assert min(after) > np.max(before) * 0.9
