"""Stage `merge`: what a device does with a newer regional model that arrives while it trains."""

import msgspec
import numpy as np

from skerry.vector import Float32


class CarryOver(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="carry_over"):
    """Go on from the newer model at once, carrying over what this run has learned: w <- newer + (w - base).

    Nothing is discarded: the difference to the base is the same before and after, up to rounding. Idea of
    bidirectional aggregation: ASYN2F (2024, arXiv:2403.01417). Deviation: the sum instead of its per-coordinate mix.
    """

    def mid_cycle(self, parameters: Float32, base: Float32, newer: Float32) -> Float32:
        """Return the parameters to go on with, float32 of the same shape (n,); `newer` is the new base."""
        merged = np.subtract(parameters, base)
        merged += newer
        return merged


class NextCycle(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="next_cycle"):
    """Finish the run on its base; the newer model is the base of the next one. Plain asynchronous learning."""

    def mid_cycle(self, parameters: Float32, base: Float32, newer: Float32) -> None:
        """Return None: no merge in mid-cycle."""


Merge = CarryOver | NextCycle
