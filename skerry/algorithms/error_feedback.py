"""What was not sent is kept and sent later: while the learning rate stays, no mass is lost. Pure numpy.

Source: error feedback for compressed gradients (Seide et al. 2014; Stich et al. 2018, arXiv:1809.07599). Deviation:
what is kept falls with the learning rate, see `fade`.
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
    sent = SparseVector(chosen.size, chosen.indices, quantise(chosen.values, uplink.values.beside(layout.tail_size)))
    if len(sent) == sent.size:
        return sent, total - sent.values  # not in place: where every entry is sent exactly, its values are `total`
    total[sent.indices] -= sent.values
    return sent, total


def restore(residual: Float32, sent: SparseVector, weight: float, share: float = 1.0) -> Float32:
    """Return `residual` plus what the coordinator did not apply of `sent`: (1 - weight) of it, all at weight 0.

    A weight above 1 is the coordinator's over-relaxation, no debt of the device: nothing is taken away. `share`, in
    [0, 1], is what `lasting_share` says of the rates of `sent` and `residual`. `residual` is left alone, and returned
    as it is where nothing comes back.
    """
    if weight >= 1.0 or share == 0.0:
        return residual
    restored = residual.copy()
    sent.add_to(restored, (1.0 - weight) * share)
    return restored


def lasting_share(learned_at: float, rate: float) -> float:
    """Return how much, in [0, 1], of what was learned at one learning rate still counts at another, both >= 0.

    The ratio of the two, never above 1: a rate that rises leaves everything as it is.
    """
    return rate / learned_at if rate < learned_at else 1.0


def fade(residual: Float32, learned_at: float, rate: float) -> Float32:
    """Return what still counts of `residual`; itself, not a copy, where that is all of it.

    A residual is a sum of steps as long as the rate of their time. Every device of a region holds much the same, which
    the model has got from the others meanwhile: it is sent all the same, and gradients correct that while steps are
    large. At a rate of 0 nothing would. So the memory is kept as if in units of the gradient, which only count times
    the rate at which they are applied, as in Deep Gradient Compression (Lin et al. 2018, arXiv:1712.01887). Deviation:
    never enlarged. Measured in docs/decisions/0005-the-residual-fades-with-the-learning-rate.md.
    """
    share = lasting_share(learned_at, rate)
    return residual if share == 1.0 else residual * np.float32(share)


def _check(total: Float32) -> None:
    """Raise DivergedError unless every entry is finite."""
    # Both extremes propagate NaN and show infinities, and need no temporary as long as the vector.
    if len(total) and not (np.isfinite(total.min()) and np.isfinite(total.max())):
        bad = np.count_nonzero(~np.isfinite(total))
        raise DivergedError(
            f"local training diverged: {bad} of {len(total)} entries of the update are NaN or infinite; "
            "lower the learning rate (decay.initial), or look for extreme values in the data"
        )
