"""A comparison from the command line to its folder, with the real simulation in real worker processes."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

SCENARIO = """
name = "small"
description = "two arms"
duration_s = 1.5
targets = [0.3]
seeds = [1]

[world]
name = "near"
regions = ["north", "south"]
latency_ms = [[0, 50], [50, 0]]
devices = 4
speed = { rule = "round", ms = 100, sd_ms = 5, steps = 5 }

[world.task]
bundle = "builtin:activity"
data = "builtin:activity?part={part}&parts={parts}"
held_out = "builtin:activity?split=test"

[[arms]]
name = "dense"
recipe = "spyker"
overrides = { local_steps = { steps_per_cycle = 5 } }

[[arms]]
name = "one"
recipe = "fedasync"
servers = "one"
overrides = { local_steps = { steps_per_cycle = 5 } }
"""

pytestmark = pytest.mark.end_to_end


def run(folder: Path, output: str, hash_seed: int, *options: str) -> dict[str, object]:
    command = [sys.executable, "-m", "testbed.cli", "run", "small.toml", "--output", output, "--json", *options]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONHASHSEED": str(hash_seed)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "repeat or go on with: skerry-lab run small.toml" in done.stderr
    result: dict[str, object] = msgspec.json.decode(done.stdout)
    return result | {"progress": done.stderr}


def digests(folder: Path) -> list[str]:
    summary = msgspec.json.decode((folder / "summary.json").read_bytes())
    return [run["digest"] for arm in summary["worlds"][0]["arms"] for run in arm["runs"]]


@pytest.mark.timeout(300)
def test_a_comparison_runs_goes_on_and_repeats_to_the_last_bit(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(SCENARIO)
    first = run(tmp_path, "first", 1)
    assert (first["complete"], first["runs_finished"], first["failures"]) == (True, 2, [])
    assert {"summary.json", "report.html", "runs", "logs"} == {path.name for path in (tmp_path / "first").iterdir()}
    again = run(tmp_path, "first", 2)
    assert "2 of 2 runs are finished from before" in str(again["progress"])
    assert again["rows"] == first["rows"]
    run(tmp_path, "second", 2, "--arms", "one")
    dense, one = digests(tmp_path / "first")
    assert digests(tmp_path / "second") == [one] != [dense]
