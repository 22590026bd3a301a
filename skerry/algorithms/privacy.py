"""Stage `privacy`: what is done to a model difference before anything of it can leave the device. Pure numpy."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from skerry.algorithms.clipping import clip_factor
from skerry.vector import Float32

GAIN = 1.2  # sum of the weights of one update from every device, as the arrival rule `gain_controlled` has it

if TYPE_CHECKING:
    from numpy.random import Generator  # most devices need no noise, and are spared its 3 MB


class NoPrivacy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="none"):
    """The difference as it was learned."""

    noise_multiplier: ClassVar[float] = 0.0

    def protect(self, difference: Float32, generator: "Callable[[], Generator]") -> Float32:
        """Return `difference` itself; no generator is asked for."""
        return difference


class Gaussian(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="gaussian"):
    """The Gaussian mechanism: clip the difference, add noise to every entry, whether it will be sent or not.

    Choice, residual and rounding come after it and cost no privacy. Whoever sees one update, the coordinator too, can
    hardly tell which data a device has: local differential privacy, with the whole data set of the device as what may
    be another. Source: the mechanism of Dwork and Roth 2014 (doi:10.1561/0400000042) on clipped differences as in
    DP-FedAvg (McMahan et al. 2018, arXiv:1710.06963). Deviation: the noise is the device's own, no server is trusted.

    The generator is no cryptographic one, and float32 leaves traces of the values in a sum's last bits (Mironov 2012,
    doi:10.1145/2382196.2382264); both are beyond what epsilon speaks of.
    """

    clip_norm: Annotated[float, Meta(gt=0.0, le=1e6)] | None = None  # L2, that a longer difference gets; None: `norm`
    noise_multiplier: Annotated[float, Meta(gt=0.0, le=1e4)] = 5.0  # standard deviation of each entry, over clip_norm

    def norm(self, entries: int) -> float:
        """Return the L2 norm that a longer difference of a model of so many entries is scaled down to.

        Where none is chosen, as long as one device's noise allows: T updates of weight w <= 1 and norm C move the model
        by T w C at most, their noise moves it by z w C sqrt(T n). By the time that the former is a length of 1, the
        latter is z sqrt(n w C), which with C = 1 / (z^2 n) is sqrt(w), whatever else is the case.
        """
        if self.clip_norm is not None:
            return self.clip_norm
        return min(1.0, 1.0 / (self.noise_multiplier**2 * max(1, entries)))

    def devices_wanted(self, entries: int) -> float:
        """Return how many devices have to train at once, their weights adding up to `GAIN`, for that to hold."""
        return GAIN * self.norm(entries) * self.noise_multiplier**2 * entries

    def protect(self, difference: Float32, generator: "Callable[[], Generator]") -> Float32:
        """Return the clipped difference plus noise, float32 of the same shape (n,); `difference` must be finite.

        `generator` gives what noise is drawn from.
        """
        norm = self.norm(len(difference))
        noise = generator().standard_normal(len(difference), np.float32)
        noise *= np.float32(self.noise_multiplier * norm)
        noise += difference * np.float32(clip_factor(difference, norm))
        return noise


Privacy = NoPrivacy | Gaussian
