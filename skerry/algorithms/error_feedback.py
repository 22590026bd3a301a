"""What was not sent is kept and sent later: no mass is lost. Pure numpy.

Source: error feedback for compressed gradients (Seide et al. 2014; Stich et al. 2018, arXiv:1809.07599).
"""

import numpy as np

from skerry.algorithms.errors import DivergedError
from skerry.algorithms.uplink import Uplink
from skerry.values import quantise
from skerry.vector import Float32, Layout, SparseVector


def compress_with_error_feedback(
    uplink: Uplink, difference: Float32, residual: Float32, layout: Layout
) -> tuple[SparseVector, Float32]:
    """Choose what to send of difference + residual, and keep the rest.

    Args:
        uplink: the rule that chooses.
        difference: what a run changed, float32 of shape (layout.size,).
        residual: what was not sent so far, same shape; not changed.
        layout: where the tensors lie.

    Returns:
        (sent, residual): what the coordinator will decode, and the new residual, difference + residual - sent.

    Raises:
        DivergedError: an entry is NaN or infinite.
    """
    total = difference + residual
    if not np.isfinite(total).all():
        raise DivergedError("local training diverged: the update holds NaN or infinite values; lower the learning rate")
    chosen = uplink.compress(total, layout)
    sent = SparseVector(chosen.size, chosen.indices, quantise(chosen.values, uplink.values))
    total[sent.indices] -= sent.values
    return sent, total


def restore(residual: Float32, sent: SparseVector, weight: float) -> Float32:
    """Return the residual with what the coordinator's weight left out of `sent`; weight 0: it was rejected.

    A new float32 array of shape (sent.size,).
    """
    restored = residual.copy()
    sent.add_to(restored, 1.0 - weight)
    return restored
