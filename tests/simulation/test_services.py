"""The production agent and coordinator in virtual time: they learn, run the same again, and survive crashes."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator import service
from coordinator.history import read_history
from skerry.protocol.messages import UpdateAccepted
from testbed.simulation.clock import START_S
from tests.simulation import small_federation
from tests.simulation.small_federation import SmallFederation

SCRIPT = Path(small_federation.__file__)

Acknowledged = list[tuple[str, int]]


@pytest.fixture
def acknowledged(monkeypatch: pytest.MonkeyPatch) -> Acknowledged:
    """(device, sequence) of what coordinators have acknowledged, repeats once."""
    found: Acknowledged = []
    send = service.Outlet.send_to_device

    def noting(self: service.Outlet, device: str, message: Any) -> None:
        if isinstance(message, UpdateAccepted) and (device, message.sequence) not in found:
            found.append((device, message.sequence))
        send(self, device, message)

    monkeypatch.setattr(service.Outlet, "send_to_device", noting)
    return found


def journalled(federation: SmallFederation) -> Acknowledged:
    return [
        (update.device, update.sequence)
        for coordinator in federation.coordinators.values()
        for update in read_history(coordinator.disk.folder).updates
    ]


def check(federation: SmallFederation, acknowledged: Acknowledged) -> None:
    """Nothing that was acknowledged is lost, nothing is applied twice, and the journal replays to the last bit."""
    written = journalled(federation)
    assert len(set(written)) == len(written)
    assert set(acknowledged) <= set(written)
    for name in federation.coordinators:
        assert federation.replayed(name) == federation.model(name)
    assert federation.world.defects == []
    for machine in federation.machines.values():
        assert machine.failures == []


def test_two_regions_learn_and_federate(tmp_path: Path, acknowledged: Acknowledged) -> None:
    federation = small_federation.in_world(1, tmp_path, lambda _: asyncio.sleep(90.0), slower=4.0)
    check(federation, acknowledged)
    assert {device for device, _ in acknowledged} == set(small_federation.STEP_S)
    for coordinator in federation.coordinators.values():
        history = read_history(coordinator.disk.folder)
        assert len(history.merges) >= 3
        regional = [one.correct / one.examples for one in history.evaluations if one.kind == "regional" and one.correct]
        assert regional[0] < 0.3
        assert regional[-1] > 0.7
        assert coordinator.work is not None
        assert coordinator.work.busy_s == pytest.approx(0.002 * (len(history.updates) + len(history.merges)))


def digest_of(seed: int, folder: Path, hash_seed: int, seconds: float = 20.0) -> str:
    """Run a federation in a process of its own."""
    folder.mkdir()
    environment = os.environ | {"PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": str(SCRIPT.parents[2])}
    command = [sys.executable, str(SCRIPT), str(seed), str(seconds), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def test_a_seed_gives_the_same_messages_and_models_in_every_process(tmp_path: Path) -> None:
    first, again, other = (
        digest_of(seed, tmp_path / name, hash_seed)
        for seed, name, hash_seed in ((7, "first", 1), (7, "again", 2), (8, "other", 1))
    )
    assert len(first.strip()) == 64
    assert first == again
    assert first != other


def crashes(name: str, way: str, times: int) -> Callable[[SmallFederation], Awaitable[None]]:
    async def happen(federation: SmallFederation) -> None:
        machine, draws = federation.machines[name], federation.world.draws("crashes")
        await asyncio.sleep(8.0)
        for _ in range(times):
            await asyncio.sleep(draws.uniform(2.0, 5.0))
            while not machine.disk.busy:  # noqa: ASYNC110 - the worst moment; a turn of the loop costs no time
                await asyncio.sleep(0.0005)
            await asyncio.sleep(draws.uniform(0.0, 0.06))
            getattr(machine, way)()
            assert not machine.running
            await asyncio.sleep(draws.uniform(0.0, 3.0))
            machine.start()
            assert getattr(machine, "service", None) is None  # the dead one is not taken for the new one
        await asyncio.sleep(15.0)

    return happen


@pytest.mark.parametrize("way", ["kill", "cut_power"])
@pytest.mark.parametrize(("name", "seed"), [("pi-1", 1), ("nano-1", 2), ("eu-1", 3), ("us-1", 4)])
def test_crashes_lose_nothing_that_was_acknowledged_and_all_go_on(
    tmp_path: Path, acknowledged: Acknowledged, way: str, name: str, seed: int
) -> None:
    federation = small_federation.in_world(seed, tmp_path, crashes(name, way, times=6), slower=4.0)
    check(federation, acknowledged)
    assert federation.machines[name].starts == 7
    for device in federation.devices:
        last_s = max(
            update.received_at_s
            for coordinator in federation.coordinators.values()
            for update in read_history(coordinator.disk.folder).updates
            if update.device == device
        )
        assert last_s - START_S > federation.world.loop.time() - 15.0  # since the last restart
