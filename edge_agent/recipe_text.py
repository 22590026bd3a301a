"""The recipe's stages that run on a device, in words, for its log and its status. Pure, no I/O."""

from typing import Any

import msgspec

from edge_agent.learning_rate import LearningRate
from skerry.agent_stages import AgentStages
from skerry.algorithms.local_steps import Cycle

SCHEDULE_OVER = "schedule has ended: a step would change nothing"  # as a reason to pause: its cause is "schedule"


def line(stages: AgentStages, rate: LearningRate | None) -> str:
    """Return all stages and the learning rate in one line."""
    rows = [*rows_of(stages), *([] if rate is None else [("rate", rate_text(rate))])]
    return "; ".join(f"{name} {words}" for name, words in rows)


def rows_of(stages: AgentStages) -> list[tuple[str, str]]:
    """Return each stage's name, and its rule with all keys, as a recipe spells them."""
    return [(name, _entry(chosen)) for name, chosen in msgspec.to_builtins(stages).items()]


def most_steps(stages: AgentStages, steps: float) -> int | None:
    """Return the bound that cuts a cycle of so many `steps` short; None: there is none, or they are below it."""
    rule = stages.local_steps
    return rule.steps_max if isinstance(rule, Cycle) and steps >= rule.steps_max else None


def most_steps_text(limit: int, seconds_per_step: float) -> str:
    """Say what `most_steps` found, and what to change."""
    return (
        f"local_steps.steps_max, {limit}, is reached: cycles last {limit * seconds_per_step:.3g} s, however long the "
        "recipe's cycle_min_s; raise steps_max for longer ones"
    )


def rate_text(rate: LearningRate) -> str:
    """Say what the rate is, why, and when the schedule ends or that it has."""
    if rate.over:
        return f"0 at step {rate.step}: {SCHEDULE_OVER}"
    if rate.ended and rate.factor == 1.0:
        return f"{rate.plan:.4g}, as planned"
    parts = f"{rate.plan:.4g} as planned times {rate.factor:.4g} by the schedule"
    end = "never ends" if rate.end_step is None else f"{'ended' if rate.ended else 'ends'} at step {rate.end_step}"
    return f"{rate.effective:.4g} at step {rate.step}: {parts}, which {end}"


def _entry(chosen: dict[str, Any]) -> str:
    keys = ", ".join(f"{key} {_value(value)}" for key, value in chosen.items() if key != "rule")
    return f"{chosen['rule']} ({keys})" if keys else str(chosen["rule"])


def _value(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:.4g}"
    return str(value)
