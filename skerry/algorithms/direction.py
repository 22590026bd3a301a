"""Where a region's updates point: a fading mean of them, and how well one update agrees with it. Pure numpy."""

from math import sqrt

import numpy as np

from skerry.vector import Float32, Indices

SCALE_MIN = 1e-12  # below it the scale is multiplied out, long before float32 runs out of exponents


class Direction:
    """The fading sum of unit updates. Memory: one float32 for each entry.

    Updates name few entries each, so a cosine over all of them would mostly say how many a device names. What is
    compared is the update with the region's direction *in the entries that the update names*. What an update does not
    name waits in its device's residual, which nobody knows here, and counts for nothing.
    """

    def __init__(self, size: int) -> None:
        """Begin without a direction."""
        self._sum: Float32 = np.zeros(size, np.float32)
        self._scale = 1.0  # the sum is `_sum` times this: to let it fade takes one multiplication
        self.updates = 0.0  # how many it holds, fading too

    def cosine(self, indices: Indices, values: Float32, length: float) -> float | None:
        """Return the cosine of an update of `length` > 0 with the direction in its entries, in [-1, 1].

        None: the direction is zero there.
        """
        named = self._sum[indices].astype(np.float64)
        own = sqrt(float(np.dot(named, named)))
        if own == 0.0:
            return None
        return max(-1.0, min(1.0, float(np.dot(named, values.astype(np.float64) / length)) / own))

    def turn(self, indices: Indices, values: Float32, length: float, share: float, memory: float) -> None:
        """Add `share`, in (0, 1], of an update of `length` > 0; what was there fades by 1 - share / `memory`."""
        fade = 1.0 - share / memory
        self._scale *= fade
        if self._scale < SCALE_MIN:
            self._sum *= np.float32(self._scale)
            self._scale = 1.0
        self._sum[indices] += (values.astype(np.float64) * (share / length / self._scale)).astype(np.float32)
        self.updates = self.updates * fade + share
