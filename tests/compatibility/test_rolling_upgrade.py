"""A federation is upgraded one process after the other: adjacent versions work together, and no update is lost.

The version before is kept as an archive of its source, see README.md, and run as real processes.
"""

import asyncio
import os
import shutil
import socket
import sqlite3
import sys
import time
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest

import skerry
from testbed.processes.process import Process

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(400)]

ARCHIVE = Path(__file__).with_name("before_protocol_1_1.zip")
NEW = Path(skerry.__file__).parents[1]
DATA_SET = Path("skerry/tasks/activity/wisdm_transformed.npz")
PATIENCE_S = 90.0
REGIONS = ("east", "west")
RECIPE = """
[recipe.local_steps]
rule = "cycle"
steps_median = 20
cycle_min_s = 0.1

[recipe.federation]
rule = "spyker_token"
exchange_interval_min_s = 0.2
peer_timeout_s = 3.0
token_timeout_s = 6.0
"""


class Fleet:
    """Two coordinators and their agents, each of either version."""

    def __init__(self, folder: Path, old: Path) -> None:
        self._folder, self._old = folder, old
        self.processes: dict[str, Process] = {}
        ports: dict[str, int] = {}
        with socket.socket() as east, socket.socket() as west:
            for region, one in zip(REGIONS, (east, west), strict=True):
                one.bind(("127.0.0.1", 0))
                ports[region] = one.getsockname()[1]
        for part, region in enumerate(REGIONS):
            (other,) = set(REGIONS) - {region}
            coordinator, agent = f"{region}-1", f"{region}-device"
            (folder / f"{coordinator}.toml").write_text(
                f'name = "{coordinator}"\nregion = "{region}"\nbundle = "builtin:activity"\ninsecure = true\n'
                f'state_dir = "{folder / coordinator}"\n'
                f"[listen]\nport = {ports[region]}\n"
                f'[peers]\n{other}-1 = "http://127.0.0.1:{ports[other]}"\n{RECIPE}'
            )
            (folder / f"{agent}.toml").write_text(
                f'device = "{agent}"\ncoordinators = ["http://127.0.0.1:{ports[region]}"]\ninsecure = true\n'
                f'state_dir = "{folder / agent}"\n'
                f'[data]\nsource = "builtin:activity?part={part}&parts=2"\n'
                "[policy]\nenabled = false\n[limits]\nreconnect_max_s = 1.0\n"
            )

    async def run(self, name: str, *, old: bool = False) -> None:
        """Start a service, or end it in good order and start it in another version on the same state."""
        if name in self.processes:
            assert await self.processes[name].stop(PATIENCE_S) == 0
        service = "coordinator" if name.endswith("-1") else "edge_agent"
        path, config = self._old if old else NEW, self._folder / f"{name}.toml"
        self.processes[name] = process = Process(
            name,
            [sys.executable, "-P", "-c", f"from {service}.cli import main; main()", "run", "--config", str(config)],
            self._folder / f"{name}.log",
            environment=os.environ | {"PYTHONPATH": str(path), "ORT_DISABLE_TELEMETRY": "1"},
        )
        await process.start()

    async def goes_on(self) -> None:
        """Wait until every device has two updates more, and every region has merged its peer once more."""
        updates, merges = self.updates(), self.merges()
        await self._until(lambda: all(len(self.updates()[region]) >= len(updates[region]) + 2 for region in REGIONS))
        await self._until(lambda: all(self.merges()[region] > merges[region] for region in REGIONS))

    def updates(self) -> dict[str, list[int]]:
        """Return the sequences in each region's journal."""
        return {
            region: [number for (number,) in self._read(region, "SELECT sequence FROM journal WHERE kind = 'update'")]
            for region in REGIONS
        }

    def merges(self) -> dict[str, int]:
        """Return how many merges each region's journal holds."""
        return {region: len(self._read(region, "SELECT 1 FROM journal WHERE kind = 'merge'")) for region in REGIONS}

    def schema(self, name: str, file: str) -> int:
        with closing(sqlite3.connect(self._folder / name / file)) as db:
            return int(db.execute("PRAGMA user_version").fetchone()[0])

    def _read(self, region: str, query: str) -> list[tuple[int]]:
        try:
            with closing(sqlite3.connect(self._folder / f"{region}-1" / "coordinator.db")) as db:
                return db.execute(f"{query} ORDER BY position").fetchall()
        except sqlite3.OperationalError:  # it is being made, or migrated
            return []

    async def _until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            logs = "\n".join(f"{one.name}: " + "\n".join(one.log_tail(8)) for one in self.processes.values())
            assert time.monotonic() < deadline, f"{self.updates()} {self.merges()}\n{logs}"
            assert all(one.running for one in self.processes.values()), logs
            await asyncio.sleep(0.1)


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    old = tmp_path / "old"
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(old)
    shutil.copy(NEW / DATA_SET, old / DATA_SET)
    fleet = Fleet(tmp_path, old)
    try:
        yield fleet
    finally:
        for process in fleet.processes.values():
            if process.running:
                await process.kill()


async def test_adjacent_versions_work_together_while_all_are_upgraded_in_turn(fleet: Fleet) -> None:
    for name in ("east-1", "west-1", "east-device", "west-device"):
        await fleet.run(name, old=True)
    await fleet.goes_on()
    before = fleet.schema("west-1", "coordinator.db"), fleet.schema("east-device", "state.db")
    await fleet.run("west-1")  # coordinators of both versions federate; an old agent at a new coordinator
    await fleet.goes_on()
    await fleet.run("east-device")  # a new agent at an old coordinator
    await fleet.goes_on()
    await fleet.run("west-device")
    await fleet.goes_on()
    assert fleet.schema("east-1", "coordinator.db") == before[0]  # this one really is of the version before
    assert fleet.schema("east-device", "state.db") > before[1]
    await fleet.run("east-1")
    await fleet.goes_on()
    assert fleet.schema("east-1", "coordinator.db") == fleet.schema("west-1", "coordinator.db") > before[0]
    for process in reversed(fleet.processes.values()):
        assert await process.stop(PATIENCE_S) == 0
    for sequences in fleet.updates().values():
        assert sequences == list(range(1, len(sequences) + 1))
