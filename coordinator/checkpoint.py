"""A region's vectors in one safetensors file: written beside and renamed, checked when read.

The file's metadata holds the scalars as JSON, and checksums: a torn or rotten file is known for one.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from coordinator.model_state import ModelState, Replica
from skerry.errors import StorageError
from skerry.protocol.messages import BroadcastId
from skerry.vector import Float32

FORMAT_VERSION = 1
CHECKPOINTS = "checkpoints"  # their folder in the state folder
MODEL, CHANGED_AT, PUBLISHED, REPLICA = "model", "changed_at", "published", "replica."


class ReplicaScalars(msgspec.Struct, frozen=True):
    """Which publication a vector is."""

    lineage: str
    number: int
    broadcast: BroadcastId
    age: float


class Scalars(msgspec.Struct, frozen=True, kw_only=True):
    """What the vectors are."""

    format_version: int = FORMAT_VERSION
    lineage: str
    version: int
    age: float
    position: int  # of the journal: everything up to it that has a version is in the vectors
    published: ReplicaScalars | None
    replicas: dict[str, ReplicaScalars]


class _Metadata(msgspec.Struct, frozen=True):
    skerry: str  # `Scalars` as JSON
    crc32: str  # by tensor, and "" for `skerry`, as JSON


class _Header(msgspec.Struct, frozen=True):
    metadata: _Metadata = msgspec.field(name="__metadata__")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The vectors of a region as they were after `position` of its journal."""

    lineage: str
    position: int
    state: ModelState


class CheckpointError(Exception):
    """The file is torn, rotten, or no checkpoint of ours. An older one may do."""


def path_of(folder: Path, version: int) -> Path:
    """Return where the checkpoint of `version` lies."""
    return folder / f"{version:012d}.safetensors"


def write(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint; it is on disk, name and all, when this returns.

    Raises:
        StorageError: the disk refused.
    """
    path = path_of(folder, checkpoint.state.version)
    beside = path.with_suffix(".tmp")
    data = _encode(checkpoint)
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync_folder(folder)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def read(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: it is not whole.
        StorageError: the disk refused; a file that is missing is not whole.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError("is missing") from error
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return _decode(data)
    except (SafetensorError, KeyError, ValueError, msgspec.MsgspecError) as error:
        raise CheckpointError(f"is damaged: {error}") from error


def sync_folder(folder: Path) -> None:
    """Bring names that were made or removed in `folder` to disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _encode(checkpoint: Checkpoint) -> bytes:
    state = checkpoint.state
    tensors: dict[str, npt.NDArray[Any]] = {MODEL: state.model, CHANGED_AT: state.changed_at}
    if state.published is not None:
        tensors[PUBLISHED] = state.published.values
    tensors |= {REPLICA + peer: replica.values for peer, replica in state.replicas.items()}
    scalars = Scalars(
        lineage=checkpoint.lineage,
        version=state.version,
        age=state.age,
        position=checkpoint.position,
        published=None if state.published is None else _scalars(state.published),
        replicas={peer: _scalars(replica) for peer, replica in state.replicas.items()},
    )
    text = msgspec.json.encode(scalars).decode()
    return save(tensors, metadata={"skerry": text, "crc32": msgspec.json.encode(_checksums(text, tensors)).decode()})


def _decode(data: bytes) -> Checkpoint:
    tensors = load(data)  # first: it also refuses a header that is nested too deep
    header_bytes = int.from_bytes(data[:8], "little")
    metadata = msgspec.json.decode(data[8 : 8 + header_bytes], type=_Header).metadata
    if msgspec.json.decode(metadata.crc32, type=dict[str, int]) != _checksums(metadata.skerry, tensors):
        raise ValueError("a checksum differs")
    scalars = msgspec.json.decode(metadata.skerry, type=Scalars)
    if scalars.format_version != FORMAT_VERSION:
        raise ValueError(f"format {scalars.format_version}, this version reads {FORMAT_VERSION}")
    size = tensors[MODEL].size
    for name, tensor in tensors.items():  # the checksums are of the bytes alone
        kind = np.int64 if name == CHANGED_AT else np.float32
        if tensor.dtype != kind or tensor.shape != (size,):
            raise ValueError(f"{name}: {tensor.dtype} of shape {tensor.shape}, not {kind.__name__} of ({size},)")
    state = ModelState(
        model=tensors[MODEL],
        changed_at=tensors[CHANGED_AT],
        version=scalars.version,
        age=scalars.age,
        published=None if scalars.published is None else _replica(scalars.published, tensors[PUBLISHED]),
        replicas={peer: _replica(one, tensors[REPLICA + peer]) for peer, one in scalars.replicas.items()},
    )
    return Checkpoint(scalars.lineage, scalars.position, state)


def _checksums(text: str, tensors: dict[str, npt.NDArray[Any]]) -> dict[str, int]:
    return {"": crc32(text.encode()), **{name: crc32(tensor.data) for name, tensor in tensors.items()}}


def _scalars(replica: Replica) -> ReplicaScalars:
    return ReplicaScalars(replica.lineage, replica.number, replica.broadcast, replica.age)


def _replica(scalars: ReplicaScalars, values: Float32) -> Replica:
    return Replica(scalars.lineage, scalars.number, scalars.broadcast, scalars.age, values)
