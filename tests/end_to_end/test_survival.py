"""Real processes are killed and cut in mid-run: what was acknowledged is there, once, and the run goes on."""

import shutil
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.history import read_history
from coordinator.recovery import rebuild

pytestmark = pytest.mark.end_to_end

Start = Callable[[], AbstractAsyncContextManager[Any]]


async def test_a_killed_coordinator_comes_back_with_the_same_model(small_federation: Start, tmp_path: Path) -> None:
    async with small_federation() as lab:
        await lab.until_updates(3)
        before = [await lab.model("east-1") for _ in range(20)]
        await lab.federation.coordinators["east-1"].kill()
        state = lab.federation.state_dir("east-1")
        shutil.copytree(state, tmp_path / "as-killed")

        await lab.federation.coordinators["east-1"].start()
        await lab.federation.ready("east-1")
        after = [await lab.model("east-1")]
        await lab.until_updates(3, more=True)
        after.append(await lab.model("east-1"))
        await lab.federation.stop()

        for version, model in before:
            np.testing.assert_array_equal(rebuild(tmp_path / "as-killed", version), model)
        for version, model in before + after:
            np.testing.assert_array_equal(rebuild(state, version), model)
        assert after[0][0] >= before[-1][0]
        lab.assert_no_gap_and_no_repeat()


async def test_a_killed_agent_goes_on_where_it_was(small_federation: Start) -> None:
    async with small_federation() as lab:
        for _ in range(3):
            await lab.until_updates(2, more=True)
            await lab.federation.agents["east-fast"].restart()
            await lab.federation.agents["west-slow"].restart()
        await lab.until_updates(3, more=True)
        await lab.federation.stop()
        lab.assert_no_gap_and_no_repeat()


async def test_a_link_that_resets_every_second_costs_no_update(small_federation: Start) -> None:
    async with small_federation() as lab:
        lab.federation.device_relays["east-fast"].reset_every(1.0)
        lab.federation.device_relays["west-slow"].reset_every(1.0)
        for relay in lab.federation.peer_relays.values():
            relay.reset_every(1.0)
        await lab.until_updates(12)
        await lab.federation.stop()
        lab.assert_no_gap_and_no_repeat()


async def test_regions_that_were_cut_apart_exchange_models_again(small_federation: Start) -> None:
    async with small_federation() as lab:
        await lab.until_merges(1)
        for relay in lab.federation.peer_relays.values():
            relay.cut()
        await lab.until_updates(4, more=True)  # nobody waits for a peer
        for relay in lab.federation.peer_relays.values():
            relay.resume()
        await lab.until_merges(1, more=True)


async def test_a_coordinator_that_lost_its_disk_comes_back_from_its_peers(small_federation: Start) -> None:
    async with small_federation() as lab:
        await lab.until_merges(2)
        west, state = lab.federation.coordinators["west-1"], lab.federation.state_dir("west-1")
        await west.kill()
        shutil.rmtree(state)
        await west.start()
        await lab.federation.ready("west-1")
        assert any("going on from what peers hold of this coordinator" in line for line in west.log_tail(200))
        await lab.until_updates(2, more=True)
        await lab.until_merges(1, more=True)


async def test_a_region_that_was_cut_off_for_long_catches_up_and_drags_nobody_back(small_federation: Start) -> None:
    """West loses its disk while east cannot tell it anything, and trains for a while as if it were new."""
    async with small_federation() as lab:
        await lab.until_updates(10)
        await lab.until_merges(1)
        for relay in lab.federation.peer_relays.values():
            relay.cut()
        west, state = lab.federation.coordinators["west-1"], lab.federation.state_dir("west-1")
        await west.kill()
        shutil.rmtree(state)
        await west.start()
        await lab.federation.ready("west-1")
        await lab.until_updates(10, more=True)
        before = len(read_history(lab.federation.state_dir("east-1")).merges)
        for relay in lab.federation.peer_relays.values():
            relay.resume()
        await lab.until_merges(2, more=True)
        merges = read_history(lab.federation.state_dir("east-1")).merges[before:]
        assert min(merge.weight for merge in merges) > 0.25
        caught_up = read_history(state).merges[0]
        assert caught_up.weight > 0.5
        assert caught_up.age > 0.5 * min(merge.age for merge in merges)
