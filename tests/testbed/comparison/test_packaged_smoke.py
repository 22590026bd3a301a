"""The small form of the packaged comparison on MNIST: every recipe of it learns something, in its own world."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.comparison import summary

BESIDE = Path(__file__).resolve().parents[4] / "shared" / "datasets"
DATA = Path(os.environ.get("SKERRY_DATA", BESIDE))


@pytest.mark.end_to_end
@pytest.mark.timeout(600)
@pytest.mark.skipif(not (DATA / "mnist").is_dir(), reason=f"the data set mnist is not in {DATA}: set SKERRY_DATA")
def test_every_arm_of_the_comparison_on_mnist_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "testbed.cli", "run", "spyker-mnist", "--smoke"]
    options = ["--data-dir", str(DATA), "--output", str(tmp_path / "out")]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = summary.read(tmp_path / "out")
    assert told.runs_finished == told.runs_total == 6
    for arm in told.worlds[0].arms:
        values = arm.runs[0].values
        assert values["updates_rejected"] == 0.0, arm.name
        for measure in ("updates", "bytes_up", "bytes_down"):
            assert (values[measure] or 0.0) > 0.0, (arm.name, measure)
        assert ((values["bytes_peers"] or 0.0) > 0.0) == (arm.servers == "regions"), arm.name
