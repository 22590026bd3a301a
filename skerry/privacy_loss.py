"""How much privacy a device has spent, as epsilon; the arithmetic is dp-accounting's. See docs/recipes.md."""

from collections.abc import Mapping
from math import inf

from skerry.extras import require

DELTA = 1e-5


def epsilon(updates: Mapping[float, int], delta: float = DELTA) -> float:
    """Return epsilon at `delta` in (0, 1) of all updates that have left a device, >= 0.

    Neighbours are two devices whose data sets differ altogether: two clipped differences are up to twice the norm
    apart, so that the mechanism's noise multiplier is half of the recipe's.

    Args:
        updates: noise multiplier -> how many updates; 0: without noise, which no epsilon bounds.
        delta: the probability that the bound may be missed by.

    Raises:
        ConfigError: the accountant is not installed.

    Source: Rényi differential privacy of the Gaussian mechanism (Mironov 2017, arXiv:1702.07476), no subsampling.
    """
    if not sum(updates.values()):
        return 0.0
    if updates.get(0.0, 0):
        return inf
    require("privacy", "epsilon")
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant()
    for noise_multiplier, count in sorted(updates.items()):
        if count:
            accountant.compose(dp_accounting.GaussianDpEvent(noise_multiplier / 2.0), count)
    return float(accountant.get_epsilon(delta))
