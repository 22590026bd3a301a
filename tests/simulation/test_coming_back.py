"""A region that lost its disk, and one that was cut off for long, come back and drag nobody with them."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from coordinator.history import read_history
from tests.simulation import small_federation
from tests.simulation.small_federation import SmallFederation

Happens = Callable[[SmallFederation], Awaitable[None]]


def accuracy(federation: SmallFederation, name: str, since_s: float) -> list[float]:
    history = read_history(federation.coordinators[name].disk.folder)
    return [
        one.correct / one.examples
        for one in history.evaluations
        if one.kind == "regional" and one.correct is not None and one.at_s >= since_s
    ]


def age(federation: SmallFederation, name: str) -> float:
    service = federation.coordinators[name].service
    assert service is not None
    return service.engine.age


def test_a_coordinator_that_lost_its_disk_comes_back_from_its_peer(tmp_path: Path) -> None:
    told: dict[str, float] = {}

    async def happen(federation: SmallFederation) -> None:
        await asyncio.sleep(60.0)
        lost, peer = federation.coordinators["us-1"], federation.coordinators["eu-1"]
        lost.kill()
        shutil.rmtree(lost.disk.folder)
        lost.disk.folder.mkdir()
        assert peer.service is not None
        replica = peer.service.engine.replica("us-1")
        assert replica is not None
        told["age"] = replica.age
        await asyncio.sleep(5.0)
        told["at_s"] = lost.clock()
        lost.start()
        await asyncio.sleep(3.0)
        assert lost.service is not None
        assert age(federation, "us-1") >= replica.age > 10.0
        assert lost.service.engine.version.number < 100
        await asyncio.sleep(30.0)

    federation = small_federation.in_world(5, tmp_path, happen, slower=4.0)
    assert federation.world.defects == []
    assert [machine.failures for machine in federation.machines.values()] == 8 * [[]]
    for name in federation.coordinators:
        assert min(accuracy(federation, name, told["at_s"])) > 0.6
        assert federation.replayed(name) == federation.model(name)
    assert len(read_history(federation.coordinators["us-1"].disk.folder).merges) >= 1


def test_without_a_state_it_waits_for_a_peer_that_starts_late_and_not_for_ever(tmp_path: Path) -> None:
    """Power comes back at one that lost its disk first; then at both, without a disk; then its peer stays away."""

    def serves(federation: SmallFederation, name: str) -> bool:
        service = federation.coordinators[name].service
        return service is not None and service.port != 0

    async def cut_power(federation: SmallFederation, *lost: str) -> None:
        for machine in federation.coordinators.values():
            machine.kill()
        for name in lost:
            shutil.rmtree(federation.coordinators[name].disk.folder)
            federation.coordinators[name].disk.folder.mkdir()
        await asyncio.sleep(1.0)

    async def happen(federation: SmallFederation) -> None:
        late, peer = federation.coordinators["us-1"], federation.coordinators["eu-1"]
        await asyncio.sleep(40.0)
        assert peer.service is not None
        replica = peer.service.engine.replica("us-1")
        assert replica is not None
        await cut_power(federation, "us-1")
        late.start()
        await asyncio.sleep(8.0)
        assert not serves(federation, "us-1")
        peer.start()
        await asyncio.sleep(2.0)
        assert serves(federation, "us-1")
        assert age(federation, "us-1") >= replica.age > 5.0

        await cut_power(federation, "us-1", "eu-1")
        late.start()
        peer.start()
        await asyncio.sleep(2.0)
        assert serves(federation, "us-1")
        assert serves(federation, "eu-1")
        assert age(federation, "us-1") + age(federation, "eu-1") < replica.age

        await cut_power(federation, "us-1")
        late.start()
        await asyncio.sleep(14.0)
        assert not serves(federation, "us-1")
        await asyncio.sleep(2.0)
        assert serves(federation, "us-1")
        peer.start()
        await asyncio.sleep(5.0)

    federation = small_federation.in_world(7, tmp_path, happen, slower=8.0)
    assert federation.world.defects == []
    assert [machine.failures for machine in federation.machines.values()] == 8 * [[]]


@pytest.mark.parametrize("with_disk", [True, False])
def test_a_region_that_was_cut_off_for_long_catches_up_and_drags_nobody_back(tmp_path: Path, with_disk: bool) -> None:
    """It has one slow device left, or nothing at all; the other region trains on for minutes."""
    told: dict[str, float] = {}

    async def happen(federation: SmallFederation) -> None:
        world, late = federation.world, federation.coordinators["us-1"]
        await asyncio.sleep(10.0)
        world.network.partition(["eu-1"], ["us-1"])
        for name in ("pi-2", "nano-1"):
            await federation.devices[name].stop()
        if not with_disk:
            late.kill()
            shutil.rmtree(late.disk.folder)
            late.disk.folder.mkdir()
            late.start()  # asks in vain
        await asyncio.sleep(150.0)
        assert age(federation, "us-1") < 0.5 * age(federation, "eu-1")
        told["at_s"], told["age"] = late.clock(), age(federation, "eu-1")
        world.network.heal()
        await asyncio.sleep(40.0)
        assert age(federation, "us-1") > 0.8 * told["age"]
        assert age(federation, "eu-1") >= told["age"]

    federation = small_federation.in_world(6, tmp_path, happen, slower=8.0)
    merges = [
        one for one in read_history(federation.coordinators["eu-1"].disk.folder).merges if one.at_s > told["at_s"]
    ]
    assert merges
    assert min(one.weight for one in merges) > 0.35  # never towards what is far behind
    before = accuracy(federation, "eu-1", 0.0)[-8:-6]
    after = accuracy(federation, "eu-1", told["at_s"])
    assert min(after) > np.mean(before) - 0.05
    assert accuracy(federation, "us-1", told["at_s"])[-1] > np.mean(before) - 0.05
