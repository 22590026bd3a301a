"""Schedules, in figures and against torch's own."""

from math import cos, pi
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.algorithms.schedule import Constant, Cosine, Exponential, Schedule, Step

steps = st.integers(1, 60)
warmups = st.integers(0, 20)
gammas = st.floats(0.5, 1.0)
schedules = st.one_of(
    st.builds(Constant, warmups),
    st.builds(Step, steps, gammas, warmups),
    st.builds(Exponential, gammas, warmups),
    st.builds(Cosine, steps, st.floats(0.0, 1.0), warmups),
)


def factors(schedule: Schedule, *steps: int) -> list[float]:
    return [schedule.factor(step) for step in steps]


def test_the_factors_of_each_rule() -> None:
    assert factors(Constant(), 0, 10**9) == [1.0, 1.0]
    assert factors(Step(every_steps=3, gamma=0.5), 0, 2, 3, 5, 6) == [1.0, 1.0, 0.5, 0.5, 0.25]
    assert factors(Exponential(gamma=0.5), 0, 1, 3) == [1.0, 0.5, 0.125]
    assert factors(Cosine(fall_steps=4, minimum=0.2), 0, 2, 4, 5, 10**9) == pytest.approx([1.0, 0.6, 0.2, 0.2, 0.2])
    assert Cosine(fall_steps=4).factor(1) == pytest.approx((1 + cos(pi / 4)) / 2)


def test_a_warm_up_rises_to_the_full_rate_and_the_rule_counts_from_there() -> None:
    assert factors(Constant(warmup_steps=3), 0, 1, 2, 3, 4) == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors(Step(2, 0.5, warmup_steps=1), 0, 1, 2, 3, 4) == [0.5, 1.0, 1.0, 0.5, 0.5]
    assert factors(Exponential(0.5, warmup_steps=1), 0, 1, 2) == [0.5, 1.0, 0.5]
    assert factors(Cosine(2, warmup_steps=1), 0, 1, 2, 3) == pytest.approx([0.5, 1.0, 0.5, 0.0])


@given(schedules, st.integers(0, 1 << 62))
def test_a_factor_is_a_share_at_every_step_that_can_be_counted(schedule: Schedule, step: int) -> None:
    assert 0.0 <= schedule.factor(step) <= 1.0


@given(schedules, st.integers(0, 200))
def test_it_falls_after_the_warm_up_and_never_before(schedule: Schedule, step: int) -> None:
    now, later = factors(schedule, step, step + 1)
    if step < schedule.warmup_steps:
        assert now < later
    else:
        assert now >= later


@given(schedules, st.integers(0, 200))
def test_from_its_end_on_it_stays_as_it_is_and_not_before(schedule: Schedule, later: int) -> None:
    end_step = schedule.end_step
    if end_step is None:
        assert isinstance(schedule, Step | Exponential)
        return
    last, at_end, after = factors(schedule, max(0, end_step - 1), end_step, end_step + later)
    assert after == at_end
    assert last != at_end or end_step == 0 or getattr(schedule, "minimum", 0.0) > 0.99


def of_torch(schedule: Schedule, optimizer: Any) -> Any:
    """Return torch's scheduler of the same name; a linear one first, where there is a warm-up."""
    from torch.optim import lr_scheduler

    match schedule:
        case Constant():
            scheduler: Any = lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
        case Step():
            scheduler = lr_scheduler.StepLR(optimizer, schedule.every_steps, schedule.gamma)
        case Exponential():
            scheduler = lr_scheduler.ExponentialLR(optimizer, schedule.gamma)
        case Cosine():
            scheduler = lr_scheduler.CosineAnnealingLR(optimizer, schedule.fall_steps, eta_min=schedule.minimum)
    warmup_steps = schedule.warmup_steps
    if not warmup_steps:
        return scheduler
    first = lr_scheduler.LinearLR(optimizer, 1.0 / (warmup_steps + 1), 1.0, total_iters=warmup_steps)
    return lr_scheduler.SequentialLR(optimizer, [first, scheduler], milestones=[warmup_steps])


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:.*epoch parameter:UserWarning")  # said by SequentialLR of its own call
@settings(max_examples=60, deadline=None)
@given(schedules, st.integers(1, 100))
def test_it_is_torchs(schedule: Schedule, count: int) -> None:
    """For as long as torch's cosine falls."""
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = of_torch(schedule, optimizer)
    if isinstance(schedule, Cosine):
        count = min(count, schedule.warmup_steps + schedule.fall_steps + 1)
    for step in range(count):
        assert schedule.factor(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        scheduler.step()
