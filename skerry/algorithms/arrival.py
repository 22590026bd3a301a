"""Stage `arrival`: how much an update counts when it reaches the coordinator, and when it is applied."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Protocol

import msgspec
from msgspec import Meta

from skerry.algorithms.robust_mean import trimmed

Rate = Annotated[float, Meta(gt=0.0, le=100.0)]
Exponent = Annotated[float, Meta(ge=0.0, le=10.0)]


class Arrival(msgspec.Struct, frozen=True):
    """An update, as far as a rule may know it. Examples, loss and steps are the device's own word."""

    device: str
    sequence: int
    staleness: float  # the region's age now minus its age at the update's base, >= 0
    examples: int
    loss: float
    steps: int
    behind: int = 0  # changes of the region's model since the update's base, >= 0


class Weigher(Protocol):
    """What weighs updates: an entry of this stage, or what one starts."""

    def decide(self, held: Sequence[Arrival]) -> Sequence[float] | None:
        """Return a weight for every held update, oldest arrival first; all are applied now. None: they wait."""


def staleness_discount(staleness: float, exponent: float, staleness_max: float = 1e12) -> float:
    """Return (1 + min(staleness, staleness_max)) ** -exponent, in (0, 1]; fresh updates keep weight 1.

    Source: the polynomial rule of FedAsync (Xie et al. 2019, arXiv:1903.03934).
    """
    return float((1.0 + min(max(staleness, 0.0), staleness_max)) ** -exponent)


class Spyker(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="spyker"):
    """Every update at once, discounted by its staleness.

    Source: Spyker (2024, arXiv:2406.01439) and its released code; its FedAsync baseline is the same rule. Deviation:
    the weight multiplies the device's difference to its base, not the distance of whole models.
    """

    averages: ClassVar[bool] = False
    synchronous: ClassVar[bool] = False
    shares: ClassVar[bool] = False
    trim: ClassVar[float | None] = None

    server_rate: Rate = 0.6  # weight of a fresh update
    staleness_max: Annotated[float, Meta(ge=0.0, le=1e12)] = 1000.0  # older updates count no less
    exponent: Exponent = 0.5

    def decide(self, held: Sequence[Arrival]) -> Sequence[float] | None:
        """Return a weight for every held update, oldest arrival first; all are applied now."""
        return [
            self.server_rate * staleness_discount(arrival.staleness, self.exponent, self.staleness_max)
            for arrival in held
        ]


class Constant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="constant"):
    """Every update at once, always with the same weight: the ablation of staleness weighting."""

    averages: ClassVar[bool] = False
    synchronous: ClassVar[bool] = False
    shares: ClassVar[bool] = False
    trim: ClassVar[float | None] = None

    weight: Rate = 0.6

    def decide(self, held: Sequence[Arrival]) -> Sequence[float] | None:
        """Return `weight` for every held update."""
        return [self.weight] * len(held)


class FedBuff(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="fedbuff"):
    """Hold updates until there are `size` of them, then apply their mean, each discounted by its staleness.

    Source: FedBuff (Nguyen et al. 2022, arXiv:2106.06639). Deviation: no secure aggregation. The paper's staleness
    counts server steps, each of which releases a buffer; ages count updates, so it is `staleness` over `size`.
    Between arrival and release nothing but a merge with a peer moves the age.
    """

    averages: ClassVar[bool] = True
    synchronous: ClassVar[bool] = False
    shares: ClassVar[bool] = True
    trim: ClassVar[float | None] = None

    size: Annotated[int, Meta(ge=1, le=100_000)] = 10  # updates in a buffer
    server_rate: Rate = 1.0
    exponent: Exponent = 0.5

    def decide(self, held: Sequence[Arrival]) -> Sequence[float] | None:
        """Return None below `size` held updates, then server_rate * discount / count for each."""
        if len(held) < self.size:
            return None
        share = self.server_rate / len(held)
        return [share * staleness_discount(arrival.staleness / self.size, self.exponent) for arrival in held]


class GainControlled(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="gain_controlled"):
    """As `Spyker`, at a server rate that falls as more devices train at once: see `gain`.

    Source: our decision, after the stability of delayed feedback (Yorke 1970, doi:10.1016/0022-0396(70)90090-4).
    """

    averages: ClassVar[bool] = False
    synchronous: ClassVar[bool] = False
    shares: ClassVar[bool] = True
    trim: ClassVar[float | None] = None

    server_rate: Rate = 0.6  # weight of a fresh update where few devices train
    gain_max: Annotated[float, Meta(gt=0.0, le=100.0)] = 1.2  # of one update from every device that trains, together
    staleness_max: Annotated[float, Meta(ge=0.0, le=1e12)] = 1000.0  # older updates count no less
    exponent: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.5


class FedAvg(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="fedavg"):
    """Rounds: draw devices, hold their updates until the slowest has delivered, apply the mean weighted by examples.

    Source: FedAvg (McMahan et al. 2017, arXiv:1602.05629). Deviations: `round_timeout_s`, see `rounds`; a server rate,
    as in FedOpt (Reddi et al. 2021, arXiv:2003.00295). The number of examples is the device's own word.
    """

    averages: ClassVar[bool] = True
    synchronous: ClassVar[bool] = True
    shares: ClassVar[bool] = True
    trim: ClassVar[float | None] = None

    fraction: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0  # C: of the devices that are connected, at least one
    devices_min: Annotated[int, Meta(ge=1, le=100_000)] = 1  # connected, before a round begins
    round_timeout_s: Annotated[float, Meta(gt=0.0, le=86400.0)] = 600.0  # so long a round waits for its slowest device
    server_rate: Rate = 1.0  # of the mean

    def decide(self, held: Sequence[Arrival]) -> Sequence[float] | None:
        """Return server_rate * examples / sum of examples for each update of a round that is over."""
        total = sum(arrival.examples for arrival in held)
        return [self.server_rate * arrival.examples / total for arrival in held]


def _discounts(held: Sequence[Arrival], size: int, server_rate: float, exponent: float) -> Sequence[float] | None:
    """Return a weight for every update of a buffer that has some of `size` devices, None before."""
    if len({arrival.device for arrival in held}) < size:
        return None
    return [server_rate * staleness_discount(arrival.staleness / size, exponent) for arrival in held]


class TrimmedMean(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="trimmed_mean"):
    """Hold updates until `size` devices have sent one, then apply their coordinate-wise trimmed mean.

    Source: Yin et al. 2018 (arXiv:1803.01498) over a buffer as in FedBuff (Nguyen et al. 2022, arXiv:2106.06639); see
    `robust_mean`.
    """

    averages: ClassVar[bool] = True
    synchronous: ClassVar[bool] = False
    shares: ClassVar[bool] = True

    size: Annotated[int, Meta(ge=3, le=1000)] = 10  # devices in a buffer
    trim: Annotated[float, Meta(gt=0.0, lt=0.5)] = 0.2  # share of them left out at either end of every coordinate
    server_rate: Rate = 1.0
    exponent: Exponent = 0.5

    def __post_init__(self) -> None:
        """Check what one key alone cannot say."""
        if trimmed(self.size, self.trim) == 0:
            raise ValueError(f"trim is {self.trim}: less than one of {self.size} devices, so nobody is ever left out")

    def decide(self, held: Sequence[Arrival]) -> Sequence[float] | None:
        """Return None while fewer than `size` devices are in the buffer, then server_rate * discount for each."""
        return _discounts(held, self.size, self.server_rate, self.exponent)


class Median(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="median"):
    """As `TrimmedMean`, with the coordinate-wise median. Source: Yin et al. 2018 (arXiv:1803.01498)."""

    averages: ClassVar[bool] = True
    synchronous: ClassVar[bool] = False
    shares: ClassVar[bool] = True
    trim: ClassVar[float] = 0.5

    size: Annotated[int, Meta(ge=3, le=1000)] = 10  # devices in a buffer
    server_rate: Rate = 1.0
    exponent: Exponent = 0.5

    def decide(self, held: Sequence[Arrival]) -> Sequence[float] | None:
        """Return None while fewer than `size` devices are in the buffer, then server_rate * discount for each."""
        return _discounts(held, self.size, self.server_rate, self.exponent)


ArrivalRule = Spyker | Constant | FedBuff | GainControlled | FedAvg | TrimmedMean | Median
