"""Means that a minority of devices cannot move far, coordinate by coordinate. Pure numpy."""

from collections.abc import Sequence

import numpy as np

from skerry.vector import Float32, SparseVector

SORTED_AT_ONCE = 1 << 16  # entries of each vector: bounds the memory beside them


def trimmed(devices: int, trim: float) -> int:
    """Return how many of `devices` values are left out at either end: floor(trim * devices), at least one stays."""
    return min(int(trim * devices + 1e-9), (devices - 1) // 2)


def robust_mean(updates: Sequence[tuple[str, SparseVector, float]], trim: float) -> Float32:
    """Return the coordinate-wise trimmed mean over devices, float32 of shape (size,).

    Updates of one device count as one, their mean: whoever sends more often counts no more. Of the devices' values of
    a coordinate the `trimmed` largest and as many of the smallest are left out; what an update does not name is zero.

    Args:
        updates: (device, update, weight), at least one, all of one size; the update counts times its weight.
        trim: share of the devices left out at either end, in [0, 0.5]; 0.5: the median.

    Source: Yin et al. 2018, "Byzantine-Robust Distributed Learning" (arXiv:1803.01498), both the trimmed mean and the
    median. Deviation: over updates of an asynchronous buffer, each discounted before by its weight.
    """
    by_device: dict[str, list[tuple[SparseVector, float]]] = {}
    for device, update, weight in updates:
        by_device.setdefault(device, []).append((update, weight))
    rows = [_mean(own) for own in by_device.values()]
    left_out = trimmed(len(rows), trim)
    kept = slice(left_out, len(rows) - left_out)
    size = updates[0][1].size
    mean = np.empty(size, np.float32)
    for start in range(0, size, SORTED_AT_ONCE):
        block = np.stack([row[start : start + SORTED_AT_ONCE] for row in rows])
        block.sort(axis=0)
        mean[start : start + SORTED_AT_ONCE] = block[kept].mean(axis=0)
    return mean


def _mean(updates: Sequence[tuple[SparseVector, float]]) -> Float32:
    total = np.zeros(updates[0][0].size, np.float32)
    for update, weight in updates:
        update.add_to(total, weight / len(updates))
    return total
