"""The regularised error correction of FLARE, without automatic differentiation.

Source: FLARE (2023, arXiv:2312.13795) and its released code. The loss of the first local steps gains
tau * sum(mask * |w - (base + residual)|); its gradient is a sign, so one descent step on it is one push.
"""

import numpy as np

from skerry.vector import Float32, Layout


def push_towards(parameters: Float32, base: Float32, residual: Float32, layout: Layout, length: float) -> None:
    """Move the masked trainable entries of `parameters` in place by `length` towards base + residual.

    The mask of a tensor: entries whose residual's magnitude is above the tensor's median. An entry that stands on its
    target stays. All vectors: float32, shape (layout.size,).
    """
    for tensor in layout.tensors:
        if not tensor.trainable or tensor.size == 0:
            continue
        entries = slice(tensor.offset, tensor.offset + tensor.size)
        magnitudes = np.abs(residual[entries])
        middle = (tensor.size - 1) // 2
        # Above the median is above the lower middle element: no need for both of an even number.
        mask = magnitudes > np.partition(magnitudes, middle)[middle]
        move = base[entries] + residual[entries]
        move -= parameters[entries]
        np.sign(move, out=move)
        move *= mask
        move *= np.float32(length)
        parameters[entries] += move
