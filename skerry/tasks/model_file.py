"""A model vector as a safetensors file of named tensors, and back. What `/v1/model` and bundles carry."""

from collections.abc import Mapping

import numpy as np

from skerry.errors import DataError
from skerry.vector import Float32, Layout


def to_safetensors(layout: Layout, vector: Float32, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the file's bytes: one float32 tensor per entry of `layout`, in the shapes it names.

    `vector` is float32 of shape (layout.size,). `metadata` is text beside the tensors.
    """
    from safetensors.numpy import save

    assert vector.shape == (layout.size,)
    vector = np.ascontiguousarray(vector, np.float32)
    tensors = {
        tensor.name: vector[tensor.offset : tensor.offset + tensor.size].reshape(tensor.shape)
        for tensor in layout.tensors
    }
    return save(tensors, metadata=dict(metadata) if metadata else None)


def from_safetensors(layout: Layout, data: bytes) -> Float32:
    """Return the vector, float32 of shape (layout.size,), from a file of untrusted origin.

    Raises:
        DataError: no safetensors, or its tensors are not exactly those of `layout`, float32 and finite.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"not a safetensors file of numpy types: {error}") from error
    expected = {tensor.name for tensor in layout.tensors}
    if set(tensors) != expected:
        raise DataError(f"tensors do not fit the layout: {', '.join(sorted(set(tensors) ^ expected)[:8])}")
    vector = np.empty(layout.size, np.float32)
    for tensor in layout.tensors:
        values = tensors[tensor.name]
        if values.dtype != np.float32 or values.shape != tensor.shape:
            raise DataError(
                f"tensor {tensor.name!r} is {values.dtype} {values.shape}, the layout has float32 {tensor.shape}"
            )
        vector[tensor.offset : tensor.offset + tensor.size] = values.reshape(-1)
    if not np.isfinite(vector).all():
        raise DataError("some values are not finite")
    return vector
