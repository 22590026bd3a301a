"""How much privacy this device has spent, in words. The accountant is asked where it is installed."""

from collections.abc import Mapping
from math import isinf

from skerry.errors import ConfigError
from skerry.privacy_loss import DELTA, epsilon


def privacy_text(spent: Mapping[float, int]) -> str:
    """Return what `skerry-agent status` says of updates by noise multiplier; see `skerry.privacy_loss`."""
    noisy = {noise: count for noise, count in spent.items() if noise > 0.0}
    if not noisy:
        return "updates leave without noise" if spent else "nothing has left"
    counts = ", ".join(f"{count} at noise multiplier {noise:g}" for noise, count in sorted(noisy.items()))
    try:
        value = epsilon(spent)
    except ConfigError as error:
        return f"updates: {counts}; {error}"
    if isinf(value):
        return f"updates: {counts}, and others without noise: no epsilon bounds what they tell"
    return f"updates: {counts}: epsilon {value:.3g} at delta {DELTA:g}"
