"""Real processes that wait for one another: rounds, barriers and replies go on after kills and cuts."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from coordinator.history import UpdateEntry, read_history

pytestmark = pytest.mark.end_to_end

Start = Callable[..., AbstractAsyncContextManager[Any]]

ROUNDS = """
[local_steps]
rule = "fixed"
steps_per_cycle = 10

[uplink]
rule = "dense"

[merge]
rule = "next_cycle"

[arrival]
rule = "fedavg"
devices_min = 2

[federation]
rule = "synchronous_exchange"
every_rounds = 2
peer_timeout_s = 3.0
"""
REPLIES = """
[participation]
rule = "on_offer"

[local_steps]
rule = "fixed"
steps_per_cycle = 10

[arrival]
rule = "gain_controlled"
"""


async def test_rounds_and_barriers_go_on_after_a_coordinator_was_killed(small_federation: Start) -> None:
    async with small_federation(ROUNDS) as lab:
        await lab.until_merges(2)
        await lab.federation.coordinators["east-1"].kill()
        alone = len(updates(lab, "west-1"))
        await lab.until(lambda: len(updates(lab, "west-1")) > alone + 8)  # the barrier does not wait for the dead
        await lab.federation.coordinators["east-1"].start()
        await lab.federation.ready("east-1")
        await lab.until_merges(2, more=True)
        await lab.until_updates(3, more=True)
        await lab.federation.stop()
        for name in ("east-1", "west-1"):
            applied = [one for one in updates(lab, name) if one.weight is not None]
            for first, second in zip(applied[::2], applied[1::2], strict=False):
                assert {first.device, second.device} == {f"{name[:4]}-fast", f"{name[:4]}-slow"}
                assert (first.weight or 0.0) + (second.weight or 0.0) == pytest.approx(1.0)
            assert_taken_once(updates(lab, name))


async def test_rounds_go_on_after_agents_were_killed(small_federation: Start) -> None:
    async with small_federation(ROUNDS) as lab:
        for _ in range(2):
            await lab.until_updates(2, more=True)
            await lab.federation.agents["east-fast"].restart()
            await lab.federation.agents["west-slow"].restart()
        await lab.until_updates(3, more=True)


async def test_devices_that_wait_for_replies_get_them_through_resets_and_kills(small_federation: Start) -> None:
    async with small_federation(REPLIES) as lab:
        lab.federation.device_relays["east-fast"].reset_every(1.0)
        lab.federation.device_relays["west-slow"].reset_every(1.0)
        await lab.until_updates(4)
        await lab.federation.coordinators["east-1"].restart()
        await lab.federation.agents["west-fast"].restart()
        await lab.until_updates(8, more=True)
        await lab.federation.stop()
        for name in ("east-1", "west-1"):
            assert_taken_once(updates(lab, name))


def updates(lab: Any, coordinator: str) -> Sequence[UpdateEntry]:
    return read_history(lab.federation.state_dir(coordinator)).updates


def assert_taken_once(rows: Sequence[UpdateEntry]) -> None:
    """Numbers of a device rise; one that was late is missing."""
    for device in {row.device for row in rows}:
        numbers = [row.sequence for row in rows if row.device == device]
        assert numbers == sorted(set(numbers))
