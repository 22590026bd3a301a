"""Both services' stores on disks that refuse: what a write returned for is there, and the end says why."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest

from coordinator.state_dir import open_state
from coordinator.store import Batch, JournalRow, RegionRow
from coordinator.store import Store as CoordinatorStore
from edge_agent.outbox import Update
from edge_agent.store import FILE_NAME
from edge_agent.store import Store as AgentStore
from skerry.errors import StateDamagedError, StorageError
from skerry.protocol.messages import ModelVersion
from tests.storage.file_systems import FullFileSystem, ReadOnlyFileSystem, read_only

FileSystem = FullFileSystem | ReadOnlyFileSystem

WRITES = 400
PAYLOAD_BYTES = 8000
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=[FullFileSystem, ReadOnlyFileSystem], ids=["full", "read-only"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FileSystem]:
    made: FileSystem = request.param(tmp_path)
    with made.mounted:
        yield made


def write_until_refused(disk: FileSystem, write: Callable[[int], None]) -> tuple[int, StorageError]:
    """Write 1, 2, ...; return the last number whose write returned, and what came instead of the next."""
    for number in range(1, WRITES):
        if number == 20:
            disk.fail()
        try:
            write(number)
        except StorageError as refused:
            return number - 1, refused
    raise AssertionError("never refused")


def payload(number: int) -> bytes:
    return np.random.default_rng(number).bytes(PAYLOAD_BYTES)


def test_a_coordinators_journal(disk: FileSystem) -> None:
    def row(number: int) -> JournalRow:
        values = number, number, "update", "kite", number, 0, 0.5, float(number), 1, 1, 0.5, 0.1, 0.0, 9, 0.0
        return JournalRow(*values, payload=payload(number))

    store = CoordinatorStore(disk.folder)
    written, refused = write_until_refused(disk, lambda number: store.write(Batch(journal=[row(number)])))
    with suppress(StorageError):
        store.close()
    check_refusal(disk, refused, written)
    disk.mend()
    with closing(CoordinatorStore(disk.folder)) as again:
        found = [(one.version, one.payload) for one in again.replay(0, WRITES)]
        assert found[:written] == [(number, payload(number)) for number in range(1, written + 1)]
        assert len(found) <= written + 1
        again.write(Batch(journal=[row(len(found) + 1)]))


def test_an_agents_outbox(disk: FileSystem) -> None:
    def update(number: int) -> Update:
        return Update(number, ModelVersion("r/1", 2), 5, 7, 0.5, 0.01, 0.02, payload(number), number)

    store = AgentStore(disk.folder / FILE_NAME)
    written, refused = write_until_refused(disk, lambda number: store.put_update(update(number), None))
    with suppress(StorageError):
        store.close()
    check_refusal(disk, refused, written)
    disk.mend()
    with closing(AgentStore(disk.folder / FILE_NAME)) as again:
        assert again.repair() == []
        stored = again.load()
        assert stored.updates[:written] == [update(number) for number in range(1, written + 1)]
        assert written <= stored.last_sequence == len(stored.updates) <= written + 1
        again.put_update(update(stored.last_sequence + 1), None)


def check_refusal(disk: FileSystem, refused: StorageError, written: int) -> None:
    assert written >= 19
    assert (refused.exit_code, isinstance(refused, StateDamagedError)) == (3, False)
    assert str(disk.folder) in str(refused)
    with pytest.raises(StorageError, match=disk.failure):
        raise refused


# --- as processes ---


def command(service: str, config: Path) -> subprocess.CompletedProcess[str]:
    code = f"from {service}.cli import main; main()"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ORT_DISABLE_TELEMETRY": "1"}
    return subprocess.run(
        [sys.executable, "-P", "-c", code, "run", "--config", str(config)],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=100,
    )


def configure(folder: Path, state: Path, service: str) -> Path:
    path = folder / f"{service}.toml"
    keys = {
        "coordinator": 'name = "eu-1"\nregion = "eu"\nbundle = "builtin:activity"\n[listen]\nport = 0\n',
        "edge_agent": 'device = "kite"\ncoordinators = ["http://127.0.0.1:9"]\n[data]\nsource = "builtin:activity"\n',
    }
    path.write_text(f'state_dir = "{state}"\ninsecure = true\n{keys[service]}')
    return path


@pytest.mark.end_to_end
@pytest.mark.parametrize("service", ["coordinator", "edge_agent"])
def test_a_service_on_a_read_only_disk_says_so_and_ends_with_3(tmp_path: Path, service: str) -> None:
    (tmp_path / "state").mkdir()
    with read_only(tmp_path / "state") as place:
        ended = command(service, configure(tmp_path, place, service))
    assert ended.returncode == 3, ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert str(place) in last
    assert "mount it writable; a worn card turns read-only and must be replaced" in last


@pytest.mark.end_to_end
@pytest.mark.parametrize("service", ["coordinator", "edge_agent"])
def test_a_service_on_a_damaged_state_says_so_and_ends_with_6(tmp_path: Path, service: str) -> None:
    state = tmp_path / "state"
    state.mkdir()
    config = configure(tmp_path, state, service)
    if service == "coordinator":
        initial = np.zeros(5, np.float32)
        open_state(state, RegionRow("eu-1", "eu", "0" * 64, "eu/00000001"), initial, 0.0).close()
        path = state / "coordinator.db"
    else:
        AgentStore(state / FILE_NAME).close()
        path = state / FILE_NAME
    data = bytearray(path.read_bytes())
    data[4096 : 2 * 4096] = bytes(4096)  # a page that was never written
    path.write_bytes(data)
    ended = command(service, config)
    assert ended.returncode == 6, ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert str(path) in last
    assert "away" in last  # what to do
    assert path.read_bytes() == data
