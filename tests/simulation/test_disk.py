"""The simulated disk: what a sync takes, what a crash leaves, and what a full one refuses."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edge_agent.outbox import Update
from edge_agent.store import FILE_NAME, Store
from skerry.errors import StorageError
from skerry.protocol.messages import ModelVersion
from testbed.simulation.disk import Disk, Write

BASE = ModelVersion("eu/1", 0)


def update(sequence: int, payload_bytes: int = 3000) -> Update:
    return Update(
        sequence=sequence,
        base=BASE,
        steps=5,
        examples=100,
        loss=0.5,
        seconds_per_step=0.1,
        learning_rate=0.01,
        payload=bytes([sequence % 256]) * payload_bytes,
        event=sequence,
    )


def put(store: Store, sequence: int) -> None:
    store.put_update(update(sequence), np.full(500, sequence, np.float32))


@contextmanager
def writing(disk: Disk, now_s: float = 0.0) -> Iterator["Writing"]:
    """Write something within; whether the disk ever has it is for the test to say."""
    found = Writing(disk, disk.begin())
    yield found
    found.due_s = disk.done(found.write, now_s)


@dataclass
class Writing:
    disk: Disk
    write: Write
    due_s: float = 0.0

    def end(self) -> None:
        self.disk.finish(self.write)


def open_store(disk: Disk) -> Store:
    disk.folder.mkdir(parents=True, exist_ok=True)
    return Store(disk.folder / FILE_NAME, open_database=disk.open_database)


def found(disk: Disk) -> list[int]:
    """Return the sequences that a process which starts now finds, each one whole."""
    store = open_store(disk)
    stored = store.load()
    assert store.damage() == ""
    store.close()
    assert [one.payload for one in stored.updates] == [update(one.sequence).payload for one in stored.updates]
    numbers = [one.sequence for one in stored.updates]
    if numbers:
        assert stored.residual is not None
        assert np.array_equal(stored.residual, np.full(500, numbers[-1], np.float32))
    return numbers


def crashed(folder: Path, seed: int, *, power: bool, kept: int = 3) -> list[int]:
    """Commit `kept` updates that get to disk, and one that is still on its way; return what a crash leaves."""
    disk = Disk(folder / "a", lambda: 0.01, random.Random(seed))
    store = open_store(disk)
    for sequence in range(1, kept + 1):
        with writing(disk) as write:
            put(store, sequence)
        write.end()
    with writing(disk) as write:
        put(store, kept + 1)
    successor = disk.crash(folder / "b", power=power)
    put(store, kept + 2)  # the dead process goes on for a moment
    store.close()
    return found(successor)


@pytest.mark.parametrize("power", [True, False])
def test_a_crash_leaves_what_was_on_disk_and_may_tear_what_was_on_its_way(tmp_path: Path, power: bool) -> None:
    left = [crashed(tmp_path / str(seed), seed, power=power) for seed in range(30)]
    assert {tuple(one) for one in left} == {(1, 2, 3), (1, 2, 3, 4)}


def test_the_same_seed_leaves_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        crashed(tmp_path / folder, 5, power=True)
    left = [sorted((tmp_path / folder / "b").glob("*.db*")) for folder in ("x", "y")]
    assert [path.read_bytes() for path in left[0]] == [path.read_bytes() for path in left[1]]
    assert left[0] != []


@pytest.mark.parametrize("pages", [1, 12])
def test_a_log_that_is_copied_and_begins_anew_is_torn_only_where_it_is_new(tmp_path: Path, pages: int) -> None:
    """The log is copied into the database after so many pages here, and overwritten from its beginning."""
    left = set()
    for seed in range(70):
        folder = tmp_path / str(seed)
        disk = Disk(folder / "a", lambda: 0.01, random.Random(seed))
        store = open_store(disk)
        store._database.connection.execute(f"PRAGMA wal_autocheckpoint = {pages}")
        kept = seed % 7
        for sequence in range(1, kept + 2):
            with writing(disk) as write:
                put(store, sequence)
            if sequence <= kept:
                write.end()
        successor = disk.crash(folder / "b", power=True)
        store.close()
        numbers = found(successor)
        assert numbers[:kept] == list(range(1, kept + 1))
        left.add(numbers[kept:] == [])
    assert left == ({False} if pages == 1 else {True, False})  # what is copied at once was synced before that


def test_only_what_commits_takes_time_and_syncs_queue(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "a", lambda: 0.25, random.Random(1))
    store = open_store(disk)
    due = []
    for sequence in (1, 2):
        with writing(disk, 10.0) as write:
            put(store, sequence)
        due.append(write.due_s)
    with writing(disk, 10.1) as write:
        store.load()
    assert [*due, write.due_s] == [10.25, 10.5, 10.1]
    with writing(disk, 20.0) as write:
        store.continue_after(7)
    assert write.due_s == 20.25
    store.close()


def test_a_full_disk_refuses_and_one_with_room_goes_on(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "a", lambda: 0.0, random.Random(1))
    store = open_store(disk)
    put(store, 1)
    disk.full = True
    with pytest.raises(StorageError, match="full"):
        store.put_update(update(2, 100_000), None)
    store.close()
    disk.full = False
    store = open_store(disk)
    put(store, 2)
    store.close()
    assert found(disk) == [1, 2]


def test_a_full_disk_takes_no_new_database(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "a", lambda: 0.0, random.Random(1))
    disk.full = True
    with pytest.raises(StorageError, match="full"):
        open_store(disk)


@pytest.mark.parametrize("power", [True, False])
def test_a_power_cut_alone_tears_what_nobody_syncs(tmp_path: Path, power: bool) -> None:
    whole = 0
    for seed in range(30):
        disk = Disk(tmp_path / str(seed) / "a", lambda: 0.0, random.Random(seed))
        disk.folder.mkdir(parents=True)
        (disk.folder / "status.json").write_bytes(b"x" * 100)
        (disk.folder / "lock").write_bytes(b"")
        disk = disk.crash(tmp_path / str(seed) / "b", power=power)
        assert sorted(path.name for path in disk.folder.iterdir()) == ["status.json"]
        whole += (disk.folder / "status.json").read_bytes() == b"x" * 100
    assert 5 < whole < 25 if power else whole == 30


def test_a_file_on_its_way_is_whole_or_lies_torn_under_its_temporary_name(tmp_path: Path) -> None:
    left = set()
    for seed in range(20):
        disk = Disk(tmp_path / str(seed) / "a", lambda: 0.5, random.Random(seed), files="checkpoints")
        folder = disk.folder / "checkpoints"
        folder.mkdir(parents=True)
        (folder / "1.safetensors").write_bytes(b"1" * 100)
        with writing(disk) as write:
            (folder / "2.safetensors").write_bytes(b"2" * 100)
        assert write.due_s == 1.0  # the file, and its folder
        disk = disk.crash(tmp_path / str(seed) / "b", power=False)
        files = {path.name: path.read_bytes() for path in (disk.folder / "checkpoints").iterdir()}
        assert files["1.safetensors"] == b"1" * 100
        assert files.get("2.safetensors") in (None, b"2" * 100)
        assert ("2.tmp" in files) == ("2.safetensors" not in files)
        assert files.get("2.tmp") != b"2" * 100
        left.add("2.safetensors" in files)
    assert left == {True, False}


def test_the_files_that_a_service_makes_at_its_start_are_there_before_its_work(tmp_path: Path) -> None:
    """Whether it opens its database behind them, or writes down there that they are there."""
    disk = Disk(tmp_path / "a", lambda: 0.5, random.Random(1), files="checkpoints")
    folder = disk.folder / "checkpoints"
    folder.mkdir(parents=True)
    open_store(disk).close()
    with writing(disk) as write:
        pass
    (folder / "1.safetensors").write_bytes(b"1")
    store = open_store(disk)
    with writing(disk) as write:
        store.load()
    assert (write.write.made, write.due_s) == ([], 0.0)
    (folder / "2.safetensors").write_bytes(b"2")
    put(store, 1)
    with writing(disk) as write:
        (folder / "3.safetensors").write_bytes(b"3")
    assert (write.write.made, write.due_s) == (["3.safetensors"], 1.0)
    with writing(disk, 1.5) as write:
        store.load()
    assert (write.write.made, write.due_s) == ([], 1.5)
    with writing(disk, 2.0) as write:
        (folder / "3.safetensors").unlink()
        put(store, 2)
    assert (write.write.made, write.due_s) == ([], 2.5)
    store.close()


@pytest.mark.parametrize("power", [True, False])
def test_a_database_in_memory_outlives_its_process_and_takes_no_file(tmp_path: Path, power: bool) -> None:
    disk = Disk(tmp_path / "0", lambda: 0.5, random.Random(1), in_memory=True)
    store = open_store(disk)
    put(store, 1)
    store.close()
    store = open_store(disk)
    with writing(disk, 1.0) as write:
        put(store, 2)
    assert write.due_s == 1.5
    successor = disk.crash(tmp_path / "1", power=power)
    put(store, 3)  # the dead process goes on for a moment
    store.close()
    assert found(successor) == [1, 2]
    assert {path.name for path in tmp_path.rglob("*")} == {"0", "1"}
    successor.full = True
    store = open_store(successor)
    with pytest.raises(StorageError, match="full"):
        store.put_update(update(3, 100_000), None)
    store.close()
