"""The recipe in words: for the log, once, and for the status, with what the learning rate is made of."""

import logging

import pytest

from edge_agent.learning_rate import LearningRate, learning_rate
from edge_agent.recipe_log import RecipeLog
from edge_agent.recipe_text import line, rate_text, rows_of
from skerry.agent_stages import AgentStages
from skerry.algorithms.optimizer import Adam, Sgd
from skerry.algorithms.schedule import Constant, Cosine, Exponential, Schedule
from skerry.algorithms.uplink import TopK

COSINE = AgentStages(schedule=Cosine(fall_steps=1000))


def rate_at(step: int, stages: AgentStages = COSINE) -> LearningRate:
    return learning_rate(0.02, stages.schedule, step)


def test_each_stage_is_told_with_all_its_keys() -> None:
    stages = AgentStages(optimizer=Adam(beta1=0.8, clip_norm=2.0), uplink=TopK(density=0.02))
    assert rows_of(stages) == [
        ("participation", "always"),
        ("local_steps", "cycle (steps_median 20, steps_max 1000, cycle_min_s 0.1, cycle_max_s 60)"),
        (
            "optimizer",
            "adam (beta1 0.8, beta2 0.999, epsilon 1e-08, weight_decay 0, decoupled false, clip_norm 2)",
        ),
        ("schedule", "constant (warmup_steps 0)"),
        ("privacy", "none"),
        ("uplink", "top_k (density 0.02, scope tensor, values int8, return_unapplied true)"),
        ("merge", "carry_over"),
    ]
    assert dict(rows_of(AgentStages(optimizer=Sgd())))["optimizer"].endswith("nesterov false, clip_norm none)")


@pytest.mark.parametrize(
    ("schedule", "step", "told"),
    [
        (Constant(), 0, "0.02, as planned"),
        (
            Constant(warmup_steps=3),
            1,
            "0.01 at step 1: 0.02 as planned times 0.5 by the schedule, which ends at step 3",
        ),
        (Constant(warmup_steps=3), 3, "0.02, as planned"),
        (Exponential(gamma=0.5), 2, "0.005 at step 2: 0.02 as planned times 0.25 by the schedule, which never ends"),
        (Cosine(8), 0, "0.02 at step 0: 0.02 as planned times 1 by the schedule, which ends at step 8"),
        (Cosine(8), 4, "0.01 at step 4: 0.02 as planned times 0.5 by the schedule, which ends at step 8"),
        (Cosine(8, 0.1), 8, "0.002 at step 8: 0.02 as planned times 0.1 by the schedule, which ended at step 8"),
        (Cosine(8), 9, "0 at step 9: schedule has ended: a step would change nothing"),
        (Exponential(gamma=0.5), 2000, "0 at step 2000: schedule has ended: a step would change nothing"),
    ],
)
def test_the_rate_is_told_with_what_it_is_made_of(schedule: Schedule, step: int, told: str) -> None:
    assert rate_text(learning_rate(0.02, schedule, step)) == told


def test_a_recipe_is_logged_once_and_again_when_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    recipe_log, other = RecipeLog(), AgentStages(uplink=TopK(density=0.5))
    with caplog.at_level(logging.INFO):
        recipe_log.tell(COSINE, None)
        for step in (0, 20):
            recipe_log.tell(COSINE, rate_at(step))
        recipe_log.tell(other, rate_at(40, other))
    assert [record.getMessage() for record in caplog.records] == [
        f"recipe: {line(COSINE, rate_at(0))}",
        f"recipe: {line(other, rate_at(40, other))}",
    ]
    assert "; uplink top_k (density 0.5, " in caplog.text
    assert caplog.text.endswith("; rate 0.02, as planned\n")


def test_the_end_of_a_schedule_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    recipe_log = RecipeLog()
    with caplog.at_level(logging.INFO):
        for step in (980, 1000, 1020):
            recipe_log.tell(COSINE, rate_at(step))
        again = RecipeLog()
        for step in (1020, 1040):  # after a restart
            again.tell(COSINE, rate_at(step))
    first, over, restarted = caplog.records
    assert "; rate 1.973e-05 at step 980: " in first.getMessage()
    assert (over.levelname, over.getMessage()) == ("WARNING", "schedule has ended: a step would change nothing")
    assert restarted.getMessage().endswith("; rate 0 at step 1020: schedule has ended: a step would change nothing")
