"""The largest entries of a vector, in linear time and always the same ones."""

import numpy as np

from skerry.vector import Float32, Indices, Layout


def largest(values: Float32, count: int) -> Indices:
    """Return the ascending indices, int64 of shape (count,), of the `count` largest magnitudes.

    Of equal magnitudes the lower index wins, so that every machine chooses the same.

    Args:
        values: float32, shape (n,), no NaN.
        count: 0..n.
    """
    assert 0 <= count <= len(values)
    if count == len(values):
        return np.arange(count, dtype=np.int64)
    if count == 0:
        return np.empty(0, np.int64)
    magnitudes = np.abs(values)
    if count == 1:  # most tensors of a small model: `argmax` takes the first of several
        return np.array([magnitudes.argmax()], np.int64)
    threshold = np.partition(magnitudes, len(values) - count)[len(values) - count]
    chosen: Indices = (magnitudes >= threshold).nonzero()[0]
    surplus = len(chosen) - count
    if surplus:
        ties = (magnitudes[chosen] == threshold).nonzero()[0]
        chosen = np.delete(chosen, ties[-surplus:])
    return chosen.astype(np.int64, copy=False)


def entries_kept(size: int, density: float) -> int:
    """Return how many of `size` entries are sent at `density`: at least one, none of an empty tensor."""
    return min(size, max(1, round(density * size)))


def largest_per_tensor(values: Float32, layout: Layout, density: float) -> Indices:
    """Return the ascending indices of the largest entries of every trainable tensor, at least one of each."""
    chosen = [
        tensor.offset + largest(values[tensor.offset : tensor.offset + tensor.size], entries_kept(tensor.size, density))
        for tensor in layout.tensors
        if tensor.trainable
    ]
    return np.concatenate(chosen) if chosen else np.empty(0, np.int64)


def largest_of_all(values: Float32, layout: Layout, density: float) -> Indices:
    """Return the ascending indices of the largest entries of the trainable head taken as one."""
    head = values[: layout.trainable_size]
    return largest(head, entries_kept(len(head), density))
