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
    with np.errstate(over="ignore", invalid="ignore"):  # an overflow shows as an infinity below
        total = difference + residual
    _check(total)
    chosen = uplink.compress(total, layout)
    sent = SparseVector(chosen.size, chosen.indices, quantise(chosen.values, uplink.values))
    if len(sent) == sent.size:
        return sent, total - sent.values  # not in place: where every entry is sent exactly, its values are `total`
    total[sent.indices] -= sent.values
    return sent, total


def restore(residual: Float32, sent: SparseVector, weight: float) -> Float32:
    """Return `residual` plus what the coordinator did not apply of `sent`: (1 - weight) of it, all at weight 0.

    A weight above 1 is the coordinator's over-relaxation, no debt of the device: nothing is taken away. `residual` is
    left alone, and returned as it is where nothing comes back.
    """
    if weight >= 1.0:
        return residual
    restored = residual.copy()
    sent.add_to(restored, 1.0 - weight)
    return restored


def _check(total: Float32) -> None:
    """Raise DivergedError unless every entry is finite."""
    # Both extremes propagate NaN and show infinities, and need no temporary as long as the vector.
    if len(total) and not (np.isfinite(total.min()) and np.isfinite(total.max())):
        bad = np.count_nonzero(~np.isfinite(total))
        raise DivergedError(
            f"local training diverged: {bad} of {len(total)} entries of the update are NaN or infinite; "
            "lower the learning rate (decay.initial), or look for extreme values in the data"
        )
