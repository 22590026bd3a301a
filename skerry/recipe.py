"""A recipe: how training is done, as a choice of one entry for each stage.

Each stage's entries stand in one module of `skerry.algorithms`; a new method is a new entry there. A recipe is a TOML
file, one table per stage, `rule` naming the entry. Every key has a default: the empty file is the default recipe.
"""

import msgspec

from skerry.agent_stages import AgentStages
from skerry.algorithms.arrival import ArrivalRule, GainControlled
from skerry.algorithms.decay import Decay, Relative
from skerry.algorithms.downlink import Downlink
from skerry.algorithms.downlink import TopK as TopKDownlink
from skerry.algorithms.federation import FederationRule, SpykerToken
from skerry.algorithms.guard import GuardRule, WellFormed
from skerry.algorithms.participation import OnOffer
from skerry.algorithms.privacy import NoPrivacy
from skerry.algorithms.uplink import Dense, WholeModel


class Recipe(AgentStages, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All stages: those of the device, and those of the coordinator."""

    name: str = "default"
    description: str = ""
    guard: GuardRule = WellFormed()
    arrival: ArrivalRule = GainControlled()
    decay: Decay = Relative()
    downlink: Downlink = TopKDownlink()
    federation: FederationRule = SpykerToken()

    def __post_init__(self) -> None:
        """Check what one stage alone cannot say."""
        if self.uplink.whole and self.arrival.averages:
            rule = msgspec.to_builtins(self.arrival)["rule"]
            raise ValueError(
                f"uplink.rule is whole_model: models are mixed in one by one, but arrival.rule, {rule}, takes the mean "
                'of differences; set uplink.rule = "dense"'
            )
        if self.arrival.trim is not None and not isinstance(self.uplink, Dense):
            rule, uplink = (msgspec.to_builtins(stage)["rule"] for stage in (self.arrival, self.uplink))
            raise ValueError(
                f"arrival.rule is {rule}, under which an entry that few devices send, as with uplink.rule {uplink}, "
                'never moves; set uplink.rule = "dense", whose values may be int8'
            )
        if self.uplink.whole and not isinstance(self.privacy, NoPrivacy):
            raise ValueError(
                "uplink.rule is whole_model: a model is sent, but privacy.rule, gaussian, protects a difference; set "
                'uplink.rule = "dense"'
            )
        if self.uplink.whole and self.guard.compares:
            rule = msgspec.to_builtins(self.guard)["rule"]
            raise ValueError(
                f"uplink.rule is whole_model: devices send models, but guard.rule, {rule}, compares differences; set "
                'uplink.rule = "dense"'
            )
        if self.uplink.whole and isinstance(self.downlink, TopKDownlink):
            raise ValueError(
                "uplink.rule is whole_model: a device's model takes back whatever it was not sent yet, and under "
                'downlink.rule, top_k, that is most of what others learned; set downlink.rule = "newest"'
            )

    def agent_stages(self) -> AgentStages:
        """Return the part that devices need.

        Under a rule whose weights are shares, one below 1 leaves nothing out: the rest is other devices' updates. So
        nothing may return to the residual then, whatever `uplink.return_unapplied` says. In rounds devices train when
        they are selected, whatever `participation` says.
        """
        uplink = self.uplink
        if self.arrival.shares and not isinstance(uplink, WholeModel):
            uplink = msgspec.structs.replace(uplink, return_unapplied=False)
        return AgentStages(
            participation=OnOffer() if self.arrival.synchronous else self.participation,
            local_steps=self.local_steps,
            optimizer=self.optimizer,
            schedule=self.schedule,
            privacy=self.privacy,
            uplink=uplink,
            merge=self.merge,
        )
