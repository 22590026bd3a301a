"""What the log tells of the recipe: each time that it changes, and when its schedule leaves nothing to learn."""

import logging

from edge_agent.learning_rate import LearningRate
from edge_agent.recipe_text import SCHEDULE_OVER, line
from skerry.agent_stages import AgentStages

log = logging.getLogger(__name__)


class RecipeLog:
    """Remembers what was told: devices reconnect, and finish cycles, often."""

    def __init__(self) -> None:
        self._stages: AgentStages | None = None
        self._over = False

    def tell(self, stages: AgentStages, rate: LearningRate | None) -> None:
        """Log what is new in the recipe and the learning rate that are in force now; None: there are none yet."""
        if rate is None:
            return
        if stages != self._stages:
            log.info("recipe: %s", line(stages, rate))
        elif rate.over and not self._over:
            log.warning(SCHEDULE_OVER)
        self._stages, self._over = stages, rate.over
