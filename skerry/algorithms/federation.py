"""Stage `federation`: when regions exchange models, and how much a peer's model counts.

The entries are settings; `start` gives the machine that decides, see `token`.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from skerry.algorithms.age_weighting import Merged, merge_by_age
from skerry.algorithms.barrier import BarrierMachine, BarrierState
from skerry.algorithms.token import Alone, TokenMachine, TokenState
from skerry.values import ValueEncoding

Seconds = Annotated[float, Meta(ge=0.0, le=86400.0)]
PositiveSeconds = Annotated[float, Meta(gt=0.0, le=86400.0)]
AgeGap = Annotated[float, Meta(gt=0.0, le=1e12)]

FAR_BEHIND = 0.5  # of the own age

Machine = Alone | TokenMachine | BarrierMachine
DistanceMax = Annotated[float, Meta(ge=0.0, le=1e6)]
MergedEntries = Literal["published", "all"]  # of a peer's model: those that its newest publication names, or every one


class NoFederation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="none"):
    """Every region for itself."""

    merge_entries: ClassVar[MergedEntries] = "all"
    distance_max: ClassVar[float] = 0.0

    def start(
        self,
        name: str,
        peers: Sequence[str],
        now_s: float,
        state: TokenState | None,
        barrier: BarrierState | None = None,
    ) -> Machine:
        """Return a machine that never does anything."""
        return Alone(state)


class SpykerToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="spyker_token"):
    """One token goes round; who holds it starts an exchange of models when the regions' ages have drifted apart.

    Source: Spyker (2024, arXiv:2406.01439) and its released code. Deviations, for a world with faults: see `token`.
    Deviation: `exchange_interval_min_s`. The token's ages are old by the time it is back, so the age rule fires at
    nearly every hop, and without a least interval latency alone would set the period.
    Deviation: `merge_entries`. A replica is fresh in the entries that were just published and old in all others, which
    would hold the own model back there (decision 9). With "all", density 1 and float32 this is Spyker's merge.
    Deviation: a model that is far behind is not merged before it has caught up (decision 12), nor is one that lies too
    far away (decision 14).
    """

    h_inter: AgeGap | None = None  # updates between youngest and oldest region; None: 0.2 per device, at least 1
    h_intra: AgeGap | None = None  # updates since the last merge; None: 10 per device
    eta_a: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0  # rate of a merge; a peer of equal age counts half of it
    phi: Annotated[float, Meta(ge=0.0, le=1000.0)] = 1.5  # how sharply age tells in a merge
    density: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.2  # share of the entries in a difference to a peer's replica
    values: ValueEncoding = ValueEncoding.INT8  # float16 where the model has an untrainable tail
    merge_entries: MergedEntries = "published"  # of a peer's model that the own is moved towards
    distance_max: DistanceMax = 5.0  # times the usual distance, at which a peer's model counts; 0: any does
    exchange_interval_min_s: Seconds = 0.5  # between two exchanges
    hold_min_s: Seconds = 0.1  # the token stays so long: bounds messages and disk syncs
    hold_max_s: PositiveSeconds = 1.0  # and no longer than that where no update comes
    peer_timeout_s: PositiveSeconds = 10.0  # without a sign of life a peer is dead; the longest an exchange waits
    token_timeout_s: PositiveSeconds = 20.0  # plus hold_max_s per coordinator, without a sign of the token: it is lost

    def __post_init__(self) -> None:
        """Check what one key alone cannot say."""
        if self.hold_min_s > self.hold_max_s:
            raise ValueError(f"hold_min_s is {self.hold_min_s}, above hold_max_s, {self.hold_max_s}")
        if self.token_timeout_s <= self.peer_timeout_s:
            raise ValueError(
                f"token_timeout_s is {self.token_timeout_s}, not above peer_timeout_s, {self.peer_timeout_s}: "
                "a token would count as lost while its holder waits for a dead peer"
            )

    def start(
        self,
        name: str,
        peers: Sequence[str],
        now_s: float,
        state: TokenState | None,
        barrier: BarrierState | None = None,
    ) -> Machine:
        """Return the machine of coordinator `name`; without peers, one that never does anything.

        Args:
            name: of this coordinator.
            peers: names of all others; every coordinator must list the same federation.
            now_s: on the clock of all later events.
            state: of the token machine's `snapshot`; None at the first start, or where the state is lost.
            barrier: of the barrier machine's, which alone looks at it.
        """
        return TokenMachine(self, name, peers, now_s, state) if peers else Alone(state)

    def spread_max(self, devices: int) -> float:
        """Return the difference of ages between regions from which on the holder starts an exchange."""
        return self.h_inter if self.h_inter is not None else float(max(1, round(0.2 * devices)))

    def growth_max(self, devices: int) -> float:
        """Return the growth of the own age since the last merge above which the holder starts an exchange."""
        return self.h_intra if self.h_intra is not None else 10.0 * max(1, devices)

    def is_far_behind(self, peer_age: float, age: float, devices: int) -> bool:
        """Say whether a peer's model is to catch up before it is merged: it was cut off, or starts afresh.

        Less than half as old, and further behind than an own model grows between two merges. The paper's weight never
        falls below eta_a / (1 + exp(phi)), 18 % of the way to a model that has learned nothing.
        """
        return self.phi > 0.0 and peer_age < FAR_BEHIND * age and age - peer_age > self.growth_max(devices)

    def merge(self, age: float, peer_age: float) -> Merged:
        """Return what a peer's model weighs, and the merged age."""
        return merge_by_age(age, peer_age, self.eta_a, self.phi)


class SynchronousExchange(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="synchronous_exchange"
):
    """After so many rounds, or so many seconds, all regions wait for one another and take the mean of their models.

    Source: HierFAVG (Liu et al. 2020, arXiv:1905.06641); with Spyker's arrivals the ablation of its token (2024,
    arXiv:2406.01439). Deviations: see `barrier`.
    """

    merge_entries: ClassVar[MergedEntries] = "all"  # it is a mean of whole models

    every_rounds: Annotated[int, Meta(ge=1, le=1_000_000)] = 2  # times that the arrival rule applied updates
    interval_s: PositiveSeconds | None = None  # instead: so long after the last exchange, or when a peer begins one
    density: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0  # share of the entries in a difference to a peer's replica
    values: ValueEncoding = ValueEncoding.FLOAT32
    distance_max: DistanceMax = 5.0  # times the usual distance, at which a peer's model counts; 0: any does
    peer_timeout_s: PositiveSeconds = 10.0  # without a sign of life a peer is dead, and not waited for
    barrier_timeout_s: PositiveSeconds = 1800.0  # the longest wait for peers that live

    def start(
        self,
        name: str,
        peers: Sequence[str],
        now_s: float,
        state: TokenState | None,
        barrier: BarrierState | None = None,
    ) -> Machine:
        """Return the machine of coordinator `name`; arguments as those of `SpykerToken.start`."""
        return BarrierMachine(self, name, peers, now_s, barrier) if peers else Alone(state)


FederationRule = NoFederation | SpykerToken | SynchronousExchange
