"""The stages of a recipe that run on a device, and travel to it. A device needs no others."""

from typing import Any

import msgspec

from skerry.algorithms.local_steps import Cycle, LocalSteps
from skerry.algorithms.merge import CarryOver, Merge
from skerry.algorithms.optimizer import Optimizer, Sgd
from skerry.algorithms.participation import Always, Participation
from skerry.algorithms.privacy import NoPrivacy, Privacy
from skerry.algorithms.schedule import Constant, Schedule
from skerry.algorithms.uplink import TopK, Uplink


class AgentStages(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The stages that run on a device; travels in Welcome."""

    participation: Participation = Always()
    local_steps: LocalSteps = Cycle()
    optimizer: Optimizer = Sgd()
    schedule: Schedule = Constant()
    privacy: Privacy = NoPrivacy()
    uplink: Uplink = TopK()
    merge: Merge = CarryOver()


def on_wire(stages: AgentStages, entries: int) -> dict[str, Any]:
    """Return `stages` as Welcome carries them, for a model of so many `entries`.

    An agent refuses a stage that it does not know. So one that is younger than protocol 1.0 travels only where it asks
    for something else than what agents did before there was a choice. And a norm that follows the model travels as the
    number: agents that know no other clip to the same.
    """
    tables: dict[str, Any] = msgspec.to_builtins(stages)
    if isinstance(stages.participation, Always):
        del tables["participation"]
    if isinstance(stages.privacy, NoPrivacy):
        del tables["privacy"]
    else:
        tables["privacy"]["clip_norm"] = stages.privacy.norm(entries)
    return tables
