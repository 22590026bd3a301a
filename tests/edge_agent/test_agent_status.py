"""status.json and what `skerry-agent status` makes of it: whether the process lives, and how old its words are."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from edge_agent import status as status_file
from edge_agent.device import UNFIT
from edge_agent.learning_rate import LearningRate, learning_rate
from edge_agent.recipe_text import SCHEDULE_OVER
from edge_agent.rejections import Rejected
from edge_agent.rest_remedy import REMEDIES
from edge_agent.status import KILLED, Status
from edge_agent.status_text import text
from edge_agent.task_checks import RegionalCycle, check_schedule, judge_speed
from edge_agent.vitals import ThisProcess
from skerry.agent_stages import AgentStages
from skerry.algorithms.local_steps import Cycle, Fixed
from skerry.algorithms.schedule import Cosine
from skerry.algorithms.uplink import TopK
from skerry.policy import Policy, Reading, _findings
from skerry.protocol.messages import ModelVersion

BUDGET = "flash-budget used up, pauses until 10% is back"


def status_of(pid: int, process_started_at_s: float, **changes: Any) -> Status:
    """Return the status of an agent in the middle of its work."""
    plain: dict[str, Any] = {
        "device": "pi-1",
        "region": "eu",
        "connected": True,
        "base": None,
        "uptime_s": 100.0,
        "training_s": 90.0,
        "idle_s": 1.0,
        "idle_share": 0.01,
        "cycles": 7,
        "steps": 70,
        "steps_per_cycle": 10,
        "seconds_per_step": 0.1,
        "outbox_updates": 0,
        "sent_bytes": 1,
        "received_bytes": 1,
        "resident_bytes": 1,
        "temperature_c": None,
        "held_out_examples": 0,
        "held_out_correct": 0,
        "held_out_loss_sum": 0.0,
        "personal_correct": None,
        "last_loss": 0.5,
        "last_error": "",
        "written_at_s": 0.0,
        "running": True,
    }
    return Status(**(plain | {"pid": pid, "process_started_at_s": process_started_at_s} | changes))


@pytest.fixture
def child() -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """A process and when it was started."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        yield process, psutil.Process(process.pid).create_time()
    finally:
        process.kill()
        process.wait()


def test_a_process_that_was_killed_and_not_reaped_does_not_run(
    child: tuple[subprocess.Popen[bytes], float], tmp_path: Path
) -> None:
    process, started_at_s = child
    status_file.write(tmp_path, status_of(process.pid, started_at_s))
    found = status_file.read(tmp_path)
    assert found is not None
    assert found.running
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is dead now, and nobody has taken note
    found = status_file.read(tmp_path)
    assert found is not None
    assert (found.running, found.connected, found.last_error) == (False, False, KILLED)
    status_file.write(tmp_path, status_of(process.pid, started_at_s, last_error="no route"))
    found = status_file.read(tmp_path)
    assert found is not None
    assert found.last_error == f"{KILLED}; before that: no route"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"outbox_updates": 7, "outbox_updates_max": 8}, "outbox        7 updates wait for an answer\n"),
        (
            {"outbox_updates": 8, "outbox_updates_max": 8},
            "outbox        8 updates wait for an answer: it is full, and training waits until one is answered\n",
        ),
        ({"outbox_updates": 8}, "outbox        8 updates wait for an answer\n"),  # of an older agent
        (
            {"rejected": Rejected({"late": 5, "quarantined": 220})},
            "rejected      225 updates: 220 quarantined, 5 late\n",
        ),
        (
            {"rejected": Rejected({"quarantined": 1}, "points away")},
            "quarantine    its updates do not count: points away; an operator may let it in again: "
            "skerry-coordinator devices release pi-1\n",
        ),
    ],
)
def test_what_holds_a_device_back_is_said(changes: dict[str, Any], words: str) -> None:
    assert words in text(status_of(1, 0.0, **changes), now_s=1.0)
    plain = text(status_of(1, 0.0), now_s=1.0)
    assert "quarantine" not in plain
    assert "rejected" not in plain


def test_an_agent_that_ends_leaves_the_reason_and_its_figures(tmp_path: Path) -> None:
    here = ThisProcess()
    for before in (None, status_of(1, 0.0), b"no status of this version", b'{"device": "\xac"}'):
        if isinstance(before, Status):
            status_file.write(tmp_path, before)
        elif before is not None:
            (tmp_path / status_file.FILE_NAME).write_bytes(before)
        status_file.write_end(tmp_path, "pi-2", "the disk is full", here, 7.0)
        found = status_file.read(tmp_path)
        assert found is not None
        assert (found.device, found.connected, found.running, found.pid) == ("pi-2", False, False, here.pid)
        assert (found.last_error, found.written_at_s) == ("the disk is full", 7.0)
        assert found.cycles == (7 if isinstance(before, Status) else 0)
        assert "last error    the disk is full" in text(found, now_s=8.0)


def test_another_process_of_the_same_number_is_not_the_agent(tmp_path: Path) -> None:
    here = psutil.Process()
    status_file.write(tmp_path, status_of(here.pid, here.create_time() - 60.0))
    found = status_file.read(tmp_path)
    assert found is not None
    assert not found.running


def test_what_an_agent_said_before_it_ended_is_told_as_of_then() -> None:
    found = status_of(1, 0.0, running=False, written_at_s=1e9)
    first, *others = text(found, now_s=1e9 + 3 * 3600.0).splitlines()
    assert first == "agent         NOT RUNNING. When it last ran, 3 h ago:"
    assert "  region        eu, connected" in others
    assert all(line.startswith("  ") for line in others)


@pytest.mark.parametrize(
    ("ago_s", "told"),
    [(-5.0, "0 s"), (119.0, "119 s"), (120.0, "2 min"), (7199.0, "120 min"), (7200.0, "2 h"), (200_000.0, "2 days")],
)
def test_how_old_the_words_of_a_running_agent_are(ago_s: float, told: str) -> None:
    lines = text(status_of(1, 0.0, written_at_s=1e9), now_s=1e9 + ago_s).splitlines()
    assert lines[:2] == [f"agent         running, as of {told} ago", "device        pi-1"]


def test_a_process_that_lives_and_says_nothing_is_not_taken_for_a_running_agent() -> None:
    found = status_of(17, 0.0, written_at_s=100.0)
    assert status_file.silent_s(found, 5.0, now_s=120.0) is None
    assert status_file.silent_s(found, 5.0, now_s=121.0) == 21.0
    assert status_file.silent_s(status_of(17, 0.0, running=False), 5.0, now_s=999.0) is None
    first, second, *_ = text(found, 121.0, 21.0).splitlines()
    assert first.startswith("agent         process 17 lives, but DOES NOT ANSWER since 21 s: does it hang?")
    assert second == "  device        pi-1"


def row(name: str, **changes: Any) -> str:
    """Return what the text says in the row of that name and those that belong to it."""
    lines = text(status_of(1, 0.0, **changes), now_s=0.0).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"{name:<13} "))
    further = next(number for number, line in enumerate(lines[start + 1 :], start + 1) if line[0] != " ")
    return "\n".join(line[14:] for line in lines[start:further])


@pytest.mark.parametrize(
    ("left", "reasons", "told"),
    [
        (None, (), "nothing is counted, nothing is bounded"),
        (1.0, (), "360 MB an hour, 100% left"),
        (0.5, (), "360 MB an hour, 50% left"),
        (0.3, (), "360 MB an hour, 30% left: cycles are longer, and less is saved, until 50% is back"),
        (-0.11, (BUDGET,), "360 MB an hour, used up: training pauses until 10% is back, in about 13 min"),
        (0.12, (BUDGET,), "360 MB an hour, used up: training pauses until 10% is back, in about 0 s"),
    ],
)
def test_how_the_hours_bytes_stand(left: float | None, reasons: tuple[str, ...], told: str) -> None:
    pace = "pause" if reasons else "train"
    assert row("flash budget", flash_left=left, flash_bytes_per_hour=360e6, pace=pace, reasons=reasons) == told


def test_a_device_that_rests_says_what_can_be_done_about_it() -> None:
    said = row("pace", pace="pause", reasons=(BUDGET, "quiet-hours 22:00-06:30"))
    reasons, *remedies = said.splitlines()
    assert reasons == f"pause: {BUDGET}; quiet-hours 22:00-06:30"
    assert [remedy[:3] for remedy in remedies] == ["-> ", "-> "]
    assert "local_steps.cycle_min_s" in remedies[0]
    assert "limits.flash_bytes_per_hour" in remedies[0]
    assert "policy.quiet_hours" in remedies[1]
    assert row("pace") == "train"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"held_out_examples": 0}, "not evaluated"),
        ({"held_out_correct": 15}, "20 rows, mean loss 0.25, 15 right (75.0%)"),
        (
            {"held_out_correct": 15, "held_out_version": ModelVersion("r/1", 0)},
            "version 0: 20 rows, mean loss 0.25, 15 right (75.0%)",
        ),
        (
            {"held_out_correct": 15, "personal_correct": 18, "personal_loss_sum": 2.0},
            "20 rows, mean loss 0.25, 15 right (75.0%); with the own head mean loss 0.1, 18 right (90.0%)",
        ),
        ({"held_out_correct": None}, "20 rows, mean loss 0.25"),
        (
            {"held_out_correct": None, "personal_loss_sum": 2.0},
            "20 rows, mean loss 0.25; with the own head mean loss 0.1",
        ),
    ],
)
def test_what_is_neither_right_nor_wrong_is_told_by_its_loss(changes: dict[str, Any], told: str) -> None:
    assert row("held out", **({"held_out_examples": 20, "held_out_loss_sum": 5.0} | changes)) == told


def test_the_recipe_is_told_a_stage_a_row_and_where_its_schedule_stands(tmp_path: Path) -> None:
    stages = AgentStages(schedule=Cosine(fall_steps=1000), uplink=TopK(density=0.02))
    found = {"recipe": stages, "learning_rate": learning_rate(0.02, stages.schedule, 500)}
    rows = text(status_of(1, 0.0, **found), now_s=0.0).splitlines()
    start = rows.index("local_steps   cycle (steps_median 20, steps_max 1000, cycle_min_s 0.1, cycle_max_s 60)")
    assert [line[:14] for line in rows[start + 1 : start + 7]] == [
        "optimizer     ",
        "schedule      ",
        "privacy       ",
        "uplink        ",
        "merge         ",
        "rate          ",
    ]
    assert row("uplink", **found).startswith("top_k (density 0.02, ")
    assert row("rate", **found).startswith("0.01 at step 500: ")
    assert "rate          " not in text(status_of(1, 0.0), now_s=0.0)
    status_file.write(tmp_path, status_of(1, 0.0, **found))
    again = status_file.read(tmp_path)
    assert again is not None
    assert (again.recipe, again.learning_rate) == (stages, LearningRate(0.01, 0.02, 0.5, 500, 1000))


def test_the_bound_on_steps_that_cuts_cycles_short_is_named() -> None:
    stages = AgentStages(local_steps=Cycle(steps_max=1000, cycle_min_s=5.0))
    said = row("training", recipe=stages, steps_per_cycle=1000, seconds_per_step=0.00014)
    assert "\nlocal_steps.steps_max, 1000, is reached: cycles last 0.14 s" in said
    assert "steps_max" not in row("training", recipe=stages, steps_per_cycle=999, seconds_per_step=0.00014)
    fixed = AgentStages(local_steps=Fixed(steps_per_cycle=1000))
    assert "steps_max" not in row("training", recipe=fixed, steps_per_cycle=1000, seconds_per_step=0.00014)
    for seconds, reached in ((0.13, False), (0.14, True), (5.0, True)):
        found = judge_speed(0.00014, RegionalCycle(seconds, stages), "0.14 ms per step")
        assert (found.outcome, "local_steps.steps_max" in found.found) == ("ok", reached)


def test_bytes_that_nobody_counts_say_why() -> None:
    assert (row("written"), row("flash budget")) == ("not counted", "nothing is counted, nothing is bounded")
    assert row("written", policy_enabled=False) == "not counted: policy.enabled is false"
    assert row("flash budget", policy_enabled=False) == "nothing is bounded: policy.enabled is false"


@pytest.mark.parametrize(("step", "outcome"), [(999, "ok"), (1000, "warning")])
def test_a_schedule_that_has_ended_is_a_warning(step: int, outcome: str) -> None:
    found = check_schedule(learning_rate(0.02, Cosine(fall_steps=1000), step))
    assert (found.outcome, SCHEDULE_OVER in found.found, bool(found.remedy)) == (outcome, step == 1000, step == 1000)


def test_every_reason_to_rest_has_its_remedy() -> None:
    assert {found.cause for found in _findings(Policy(), Reading(), 0)} | {
        one.partition(" ")[0] for one in (UNFIT, SCHEDULE_OVER)
    } == set(REMEDIES)
