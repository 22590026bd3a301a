"""What is told of a comparison under way, and how much longer it takes."""

import io
from collections.abc import Callable

import pytest

from testbed.comparison.crew import Job, State
from testbed.comparison.estimate import left_s
from testbed.comparison.plan import Plan, RunKey
from testbed.comparison.run_spec import Progress, RunResult, RunSpec
from testbed.comparison.view import LINE_EVERY_S, View, line
from testbed.comparison.worker import Failed

PlanOf = Callable[..., Plan]
Simulated = Callable[[RunSpec], RunResult]

PLAIN = [RunKey("near", "plain", "", seed) for seed in (1, 2)]
TUNED = [RunKey("near", "tuned", f"arrival.server_rate={rate}", 1) for rate in (0.3, 0.6)]


def test_nothing_is_known_before_the_first_run_has_got_somewhere(plan_of: PlanOf) -> None:
    state = State(plan_of(), {})
    assert left_s(state, 10.0, 2) is None
    state.running[PLAIN[0]] = Job(0.0, Progress(at_s=0.1, duration_s=10.0))
    assert left_s(state, 10.0, 2) is None


def test_a_run_under_way_gives_the_pace(plan_of: PlanOf) -> None:
    """A tenth of the first of five runs took 10 s: it needs 90 more, and each of the others 100."""
    state = State(plan_of(), {})
    state.running[PLAIN[0]] = Job(0.0, Progress(at_s=1.0, duration_s=10.0))
    assert left_s(state, 10.0, 2) == pytest.approx((90.0 + 4 * 100.0) / 2)


def test_finished_runs_of_the_same_arm_tell_most(plan_of: PlanOf, simulated: Simulated) -> None:
    """A plain run takes 1 s and a tuned one 3 s; what will be chosen is not known, so it counts as their mean."""
    plan = plan_of()
    state = State(plan, {key: simulated(plan.spec(key)) for key in (PLAIN[0], TUNED[0])})
    state.running[TUNED[1]] = Job(10.0, None)
    assert left_s(state, 11.0, 1) == pytest.approx(1.0 + (3.0 - 1.0) + 2.0)
    assert left_s(state, 99.0, 1) == pytest.approx(1.0 + 0.0 + 2.0)


def test_when_everything_is_done_nothing_is_left(plan_of: PlanOf, simulated: Simulated) -> None:
    plan = plan_of(seeds=[1])
    state = State(plan, {key: simulated(plan.spec(key)) for key in (PLAIN[0], *TUNED)})
    assert left_s(state, 0.0, 2) == 0.0
    assert line(state, 0.0, 2) == "3 of 3 runs"


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_log_gets_a_line_for_each_finished_run_and_now_and_then_one_more(
    plan_of: PlanOf, simulated: Simulated
) -> None:
    stream, clock, plan = io.StringIO(), Clock(), plan_of()
    view = View(stream, 2, now_s=clock)
    state = State(plan, {PLAIN[0]: simulated(plan.spec(PLAIN[0]))})
    view.already(state)
    assert stream.getvalue() == "1 of 5 runs are finished from before\n"
    state.running[TUNED[0]] = Job(100.0, Progress(at_s=5.0, duration_s=10.0))
    view.show(state)
    clock.now_s += 0.9 * LINE_EVERY_S
    view.show(state)
    assert len(stream.getvalue().splitlines()) == 2
    clock.now_s += 0.2 * LINE_EVERY_S
    view.show(state)
    last = stream.getvalue().splitlines()[-1]
    assert len(stream.getvalue().splitlines()) == 3
    assert last.startswith("1 of 5 runs, about ")
    assert last.endswith("| near, tuned (arrival.server_rate=0.3), seed 1 50 %")
    del state.running[TUNED[0]]
    state.results[TUNED[0]] = simulated(plan.spec(TUNED[0]))
    state.failures[PLAIN[1]] = Failed(reason="no rows", traceback="")
    view.show(state)
    assert stream.getvalue().splitlines()[3:5] == [
        "done   near, tuned (arrival.server_rate=0.3), seed 1 (3.0 s)",
        "FAILED near, plain, seed 2: no rows",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminals_line_is_redrawn_in_place_and_cut_at_its_width(plan_of: PlanOf, simulated: Simulated) -> None:
    stream, plan = Terminal(), plan_of()
    view = View(stream, 2, now_s=Clock(), columns=20)
    state = State(plan, {})
    state.running[TUNED[0]] = Job(100.0, None)
    view.show(state)
    assert stream.getvalue() == "\r\x1b[K0 of 5 runs | near, "
    view.end()
    assert stream.getvalue().endswith("\r\x1b[K")
