"""The recipe's stages that a Welcome asks for, if this device goes along with them. Pure."""

import msgspec

from skerry.agent_stages import AgentStages
from skerry.algorithms.privacy import Gaussian, Privacy
from skerry.protocol.messages import Welcome


class RecipeRefusedError(Exception):
    """This device does not train by that recipe; the text says why."""


def stages_of(welcome: Welcome, noise_multiplier_min: float = 0.0) -> AgentStages:
    """Return the stages.

    `noise_multiplier_min`: of the stage `privacy`, below which this device sends nothing.

    Raises:
        RecipeRefusedError: one is unknown here, or protects too little.
    """
    try:
        stages = msgspec.convert(welcome.recipe, AgentStages)
    except msgspec.ValidationError as error:
        detail = f"a recipe that this agent does not know: {error}; is the agent older than the coordinator?"
        raise RecipeRefusedError(detail) from error
    if (noise := stages.privacy.noise_multiplier) < noise_multiplier_min:
        raise RecipeRefusedError(
            f"a recipe whose noise_multiplier, {noise:g}, is below this device's privacy.noise_multiplier_min, "
            f"{noise_multiplier_min:g}: nothing is sent"
        )
    return stages


def protects_more(now: Privacy, before: Privacy) -> bool:
    """Say whether what was made under `before` tells more than `now` lets out: less noise, or a longer norm."""
    if now.noise_multiplier > before.noise_multiplier:
        return True
    if not isinstance(now, Gaussian) or not isinstance(before, Gaussian) or now.clip_norm == before.clip_norm:
        return False
    # A norm that follows the model may be any: to be sure, as if it were the shorter one.
    return now.clip_norm is None or before.clip_norm is None or now.clip_norm < before.clip_norm
