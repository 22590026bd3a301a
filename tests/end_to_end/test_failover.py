"""Coordinators are killed with SIGKILL, and their devices go on in the other region: no update lost, none twice.

Five kills here; `make failover` does fifty and keeps the table.
"""

from pathlib import Path

import pytest

from benchmarks.failover import TARGET_S, measure

pytestmark = pytest.mark.end_to_end

KILLS, DEVICES = 5, 3


async def test_devices_of_a_killed_coordinator_are_acknowledged_elsewhere_and_each_update_counts_once(
    tmp_path: Path,
) -> None:
    outcome = await measure(tmp_path, KILLS, DEVICES, seed=1)
    assert len(outcome.kills) == KILLS
    assert outcome.violations == []
    assert outcome.updates > 2 * KILLS
    # A machine that runs other tests beside is no measure: what is kept in docs/results is.
    assert max(one.first_s for one in outcome.kills) < 4 * TARGET_S
