"""A checkpoint is whole or known not to be."""

import json
import os
from collections.abc import Callable
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


def rewritten(path: Path, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """Return the file with another header."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(change(json.loads(data[8:end]))).encode()
    return len(header).to_bytes(8, "little") + header + data[end:]


@pytest.mark.parametrize(
    "change",
    [
        lambda header: 6,
        lambda header: [header],
        lambda header: "__metadata__",
        lambda header: None,
        lambda header: header | {"__metadata__": None},
        lambda header: header | {"__metadata__": ["skerry", "crc32"]},
        lambda header: header | {"__metadata__": {}},
        lambda header: header | {"__metadata__": header["__metadata__"] | {"skerry": 5}},
        lambda header: header | {"__metadata__": header["__metadata__"] | {"skerry": 5000 * '{"":'}},
        lambda header: header | {"__metadata__": header["__metadata__"] | {"skerry": "\ud800"}},
        lambda header: header | {"__metadata__": header["__metadata__"] | {"crc32": "7"}},
        lambda header: header | {"__metadata__": header["__metadata__"] | {"crc32": 5000 * "["}},
        lambda header: header | {"model": header["model"] | {"dtype": "I32"}},
        lambda header: header | {"model": header["model"] | {"shape": [1, *header["model"]["shape"]]}},
        lambda header: header | {"changed_at": header["changed_at"] | {"dtype": "U64"}},
        lambda header: header | {"published": header["published"] | {"dtype": "U32"}},
        lambda header: {"changed at" if name == "changed_at" else name: one for name, one in header.items()},
    ],
)
def test_a_header_of_another_shape_is_no_checkpoint(
    example: tuple[Checkpoint, Path], tmp_path: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    (tmp_path / "same").write_bytes(rewritten(example[1], lambda header: header))
    assert checkpoint.read(tmp_path / "same").position == 17
    (tmp_path / "other").write_bytes(rewritten(example[1], change))
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoint.read(tmp_path / "other")


def test_a_header_that_is_nested_deep_is_no_checkpoint(tmp_path: Path) -> None:
    for header in (100_000 * b"[", 100_000 * b'{"":', b'{"__metadata__":' + 100_000 * b"["):
        (tmp_path / "deep").write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(CheckpointError, match="is damaged"):
            checkpoint.read(tmp_path / "deep")


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
