"""A checkpoint is whole or known not to be."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator import checkpoint
from coordinator.checkpoint import Checkpoint, CheckpointError
from coordinator.model_state import ModelState, Publication
from coordinator.state_dir import open_state
from coordinator.store import RegionRow
from skerry.errors import StorageError
from skerry.protocol.messages import BroadcastId


@pytest.fixture(scope="module")
def example(words: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Path]:
    state = ModelState.start(words.initial())
    state.apply(words.vector(1), 0.5, 1, 1.0)
    state.take_peer_model("there-1", Publication("there/9", 4, BroadcastId(2, 3), 7.25, True), words.vector(2, 64))
    state.publish(Publication("here/1", 2, BroadcastId(2, 2), 1.5, True), words.vector(3, 64))
    state.merge("there-1", 0.125, 2, 0.1 + 0.2, "all")
    written = Checkpoint("here/1", 17, state)
    return written, checkpoint.write(tmp_path_factory.mktemp("checkpoints"), written)


def test_what_is_read_is_what_was_written_bit_for_bit(example: tuple[Checkpoint, Path]) -> None:
    written, path = example
    read = checkpoint.read(path)
    assert (read.lineage, read.position) == ("here/1", 17)
    assert (read.state.version, read.state.age) == (2, 0.1 + 0.2)
    assert read.state.model.dtype == np.float32
    assert read.state.model.tobytes() == written.state.model.tobytes()
    assert read.state.changed_at.dtype == np.int64
    assert read.state.changed_at.tobytes() == written.state.changed_at.tobytes()
    assert read.state.replicas["there-1"].values.tobytes() == written.state.replicas["there-1"].values.tobytes()
    assert read.state.published is not None
    assert written.state.published is not None
    assert read.state.published.values.tobytes() == written.state.published.values.tobytes()
    replica = read.state.replicas["there-1"]
    assert (replica.lineage, replica.number, replica.broadcast, replica.age) == ("there/9", 4, BroadcastId(2, 3), 7.25)
    assert (read.state.published.number, read.state.published.broadcast) == (2, BroadcastId(2, 2))
    read.state.model += np.float32(1.0)  # it can go on from there


def test_nothing_but_the_checkpoint_is_left_in_the_folder(example: tuple[Checkpoint, Path]) -> None:
    assert [path.name for path in example[1].parent.iterdir()] == ["000000000002.safetensors"]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0.0, 1.0, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found(example: tuple[Checkpoint, Path], tmp_path: Path, place: float, bit: int) -> None:
    data = bytearray(example[1].read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    (tmp_path / "rotten").write_bytes(data)
    with pytest.raises(CheckpointError):
        checkpoint.read(tmp_path / "rotten")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.0, 1.0, exclude_max=True))
def test_a_torn_file_is_found(example: tuple[Checkpoint, Path], tmp_path: Path, share: float) -> None:
    data = example[1].read_bytes()
    (tmp_path / "torn").write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError):
        checkpoint.read(tmp_path / "torn")


def test_a_missing_file_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="missing"):
        checkpoint.read(tmp_path / "nowhere")


def test_a_folder_that_cannot_be_written_is_a_storage_error(example: tuple[Checkpoint, Path], tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        checkpoint.write(tmp_path / "nowhere", example[0])


def test_a_new_state_is_safe_in_a_folder_that_is(tmp_path: Path, words: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is acknowledged, the folders that were made are on disk, too, and not only their files."""
    synced = set()
    fsync = os.fsync

    def record(handle: int) -> None:
        synced.add(Path(f"/proc/self/fd/{handle}").readlink())
        fsync(handle)

    monkeypatch.setattr(os, "fsync", record)
    path = tmp_path / "state"
    open_state(path, RegionRow("here-1", "here", "0" * 64, "here/00000001"), words.initial(), 0.0).close()
    assert {path / "checkpoints", path, tmp_path} <= synced
