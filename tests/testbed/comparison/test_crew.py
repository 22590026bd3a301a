"""Real worker processes with an analytic stand-in for the simulation: everything is run once, and nothing is lost."""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from testbed.comparison import crew as crew_module
from testbed.comparison import store
from testbed.comparison.crew import Crew, State
from testbed.comparison.plan import Plan, RunKey
from testbed.comparison.run_spec import Place

PlanOf = Callable[..., Plan]
VERSIONS = {"skerry": "1"}
COMMAND = (sys.executable, str(Path(__file__).with_name("analytic.py")))

pytestmark = pytest.mark.end_to_end


def crew(plan: Plan, folder: Path, show: Callable[[State], None] = lambda _: None) -> tuple[Crew, State]:
    state = State(plan, store.finished(folder, plan, VERSIONS))
    places = {plan.comparison.worlds[0].task.bundle: Place(bundle="builtin:activity", data_dir=None)}
    return Crew(state, folder, versions=VERSIONS, places=places, command=COMMAND, show=show), state


async def test_everything_is_run_and_kept(tmp_path: Path, plan_of: PlanOf) -> None:
    shown: list[int] = []
    workers, state = crew(plan_of(), tmp_path, lambda now: shown.append(len(now.results)))
    await workers.run(2)
    assert len(state.results) == plan_of().total() == 5
    assert (state.failures, state.running) == ({}, {})
    assert store.finished(tmp_path, plan_of(), VERSIONS) == state.results
    assert shown[-1] == 5
    assert state.results[RunKey("near", "plain", "", 2)].digest == "plain-2"


async def test_what_is_there_is_not_run_again(tmp_path: Path, plan_of: PlanOf, monkeypatch: pytest.MonkeyPatch) -> None:
    workers, first = crew(plan_of(seeds=[1]), tmp_path)
    await workers.run(2)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.json")}
    monkeypatch.setenv("FAKE_FAULTS", "")
    workers, second = crew(plan_of(), tmp_path)
    assert second.results == first.results
    await workers.run(2)
    assert len(second.results) == 5
    assert {path: path.stat().st_mtime_ns for path in written} == written


@pytest.mark.parametrize(
    ("fault", "reason", "trace"),
    [
        ("refused", "the rows do not fit", ""),
        ("defect", "ZeroDivisionError: planted", "Traceback"),
        ("dies", "its worker ended with exit code 3", "last words"),
    ],
)
async def test_a_run_that_fails_is_told_and_the_others_go_on(
    tmp_path: Path, plan_of: PlanOf, monkeypatch: pytest.MonkeyPatch, fault: str, reason: str, trace: str
) -> None:
    monkeypatch.setenv("FAKE_FAULTS", f"plain={fault}")
    workers, state = crew(plan_of(), tmp_path)
    await workers.run(1)
    assert {key.arm for key in state.results} == {"tuned"}
    assert len(state.results) == 3
    assert {key.seed for key in state.failures} == {1, 2}
    for failure in state.failures.values():
        assert failure.reason == reason
        assert trace in failure.traceback
    monkeypatch.setenv("FAKE_FAULTS", "")
    workers, again = crew(plan_of(), tmp_path)
    await workers.run(1)
    assert len(again.results) == 5


async def test_a_stop_gives_up_what_is_under_way_and_keeps_the_rest(
    tmp_path: Path, plan_of: PlanOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAULTS", "plain=hangs")
    hangs = asyncio.Event()

    def show(state: State) -> None:
        if {key.seed for key, job in state.running.items() if key.arm == "plain" and job.progress} == {1, 2}:
            hangs.set()

    monkeypatch.setattr(crew_module, "MEMORY", tmp_path / "memory")
    (tmp_path / "memory").mkdir()
    workers, _ = crew(plan_of(), tmp_path, show)
    running = asyncio.create_task(workers.run(2))
    await hangs.wait()
    assert len(list((tmp_path / "memory").rglob("left"))) == 1
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert list((tmp_path / "memory").iterdir()) == []
    children = [" ".join(child.cmdline()) for child in psutil.Process(os.getpid()).children()]
    assert not any("analytic.py" in child for child in children)
    assert len(store.finished(tmp_path, plan_of(), VERSIONS)) == 2
