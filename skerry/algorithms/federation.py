"""Stage `federation`: when regions exchange models, and what a peer's model counts: the stage's entries. Pure.

The token's state machine stands in `token`.
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from skerry.algorithms.age_weighting import Merged, merge_by_age
from skerry.algorithms.token import Alone, TokenMachine, TokenState
from skerry.values import ValueEncoding

PositiveSeconds = Annotated[float, Meta(gt=0.0, le=86400.0)]


class NoFederation(msgspec.Struct, frozen=True, tag="none", tag_field="rule", forbid_unknown_fields=True):
    """Regions keep to themselves."""

    def start(self, name: str, peers: Sequence[str], now_s: float, state: TokenState | None) -> Alone:
        """Return the machine that never does anything."""
        return Alone()


class SpykerToken(msgspec.Struct, frozen=True, tag="spyker_token", tag_field="rule", forbid_unknown_fields=True):
    """A token decides when all regions exchange models; ages decide what each counts.

    Source: Spyker's released code (arXiv:2406.01439, Middleware '24). Deviations: see `token`.
    """

    h_inter: Annotated[float, Meta(gt=0.0)] | None = None  # spread of ages; None: round(0.2 * devices), at least 1
    h_intra: Annotated[float, Meta(gt=0.0)] = 50.0  # growth of the holder's own age since its last exchange
    eta_a: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.5
    phi: Annotated[float, Meta(gt=0.0, le=100.0)] = 1.5
    density: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0  # of the differences that peers are sent
    values: ValueEncoding = ValueEncoding.FLOAT32
    exchange_interval_min_s: Annotated[float, Meta(ge=0.0, le=86400.0)] = 0.0  # between two exchanges a holder begins
    hold_max_s: PositiveSeconds = 1.0  # a holder without updates decides after so long
    peer_timeout_s: PositiveSeconds = 5.0  # a peer not heard of for so long counts as gone
    token_timeout_s: PositiveSeconds = 10.0  # a token not heard of for so long is made anew

    def start(self, name: str, peers: Sequence[str], now_s: float, state: TokenState | None) -> "TokenMachine | Alone":
        """Return the machine of server `name`; `state` is what `snapshot` gave before a restart."""
        return TokenMachine(self, name, peers, now_s, state) if peers else Alone()

    def threshold(self, devices: int) -> float:
        """Return the spread of ages at which the holder calls for an exchange."""
        return self.h_inter if self.h_inter is not None else float(max(1, round(0.2 * devices)))

    def merge(self, age: float, peer_age: float) -> Merged:
        """Return what a peer's model weighs, and the merged age."""
        return merge_by_age(age, peer_age, self.eta_a, self.phi)


FederationRule = NoFederation | SpykerToken
