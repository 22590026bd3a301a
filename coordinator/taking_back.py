"""Looks an update up that is to be taken back. Synchronous: it reads the disk."""

from coordinator.events import FindUpdate, UpdateFound
from coordinator.store import Store
from skerry.errors import StorageError
from skerry.protocol import sparse
from skerry.protocol.errors import MalformedVector


def found(store: Store, wanted: FindUpdate, size: int) -> UpdateFound:
    """Return the update as the journal has it, for a model of `size` entries.

    Not what was taken back before. A whole model cannot be taken back, nor what counted in a robust mean: what they did
    depends on what else was there.

    Raises:
        StorageError: the disk refused, or the row is damaged.
    """
    row = store.find_update(wanted.device, wanted.sequence)
    if row is None:
        return UpdateFound(wanted.device, wanted.sequence)
    if row.kind == "model" or row.trim is not None:
        return UpdateFound(wanted.device, wanted.sequence, row.version, row.weight)
    try:
        vector = sparse.decode(row.payload, size=size)
    except MalformedVector as error:
        place = f"update {wanted.sequence} of {wanted.device}"
        raise StorageError(f"{store.path}: {place} is damaged: {error}; restore it from a backup") from error
    return UpdateFound(wanted.device, wanted.sequence, row.version, row.weight, row.payload, vector)
