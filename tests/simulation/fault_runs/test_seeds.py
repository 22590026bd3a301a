"""Small worlds through random faults: a fixed choice of seeds, and some that nobody has run before.

A failure prints the seed, the plan and the command that replays it.
"""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.fault_runs.campaign import main, report
from tests.simulation.fault_runs.run import run_seed

ROOT = Path(__file__).resolve().parents[3]
FIXED, AT_ONCE, FRESH = 50, 5, 4
FRESH_FROM, FRESH_BELOW = 10**6, 10**9


@pytest.mark.parametrize("first", range(0, FIXED, AT_ONCE))
def test_nothing_that_was_promised_is_broken_and_all_go_on(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        outcome = run_seed(seed)
        assert not outcome.violations, report(outcome)
        assert outcome.updates > 0


def test_nor_under_seeds_that_nobody_has_run_before() -> None:
    for seed in random.SystemRandom().sample(range(FRESH_FROM, FRESH_BELOW), FRESH):
        outcome = run_seed(seed)
        assert not outcome.violations, report(outcome)


@pytest.mark.parametrize("option", ["--seeds", "--jobs"])
def test_no_seeds_and_no_processes_are_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([option, "0"])
    assert ended.value.code == 2
    assert f"argument {option}: 0: must be at least 1" in capsys.readouterr().err


def test_a_seed_replays_to_the_last_bit_in_another_process() -> None:
    outcome = run_seed(7)
    environment = os.environ | {"PYTHONHASHSEED": "5"}
    command = [sys.executable, "-m", "tests.simulation.fault_runs", "--first", "7", "--seeds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=ROOT)
    assert f"seed 7: {outcome.updates} changes of models, digest {outcome.digest}\n" in done.stdout
    assert "1 seeds from 7 on, 0 failed" in done.stdout
    assert run_seed(8).digest != outcome.digest
