"""What runs on a device does the same on an emulated 64-bit ARM: for correctness, it says nothing about speed.

`make test-arm64`; `make test` leaves this folder out.
"""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from coordinator.history import History, read_history
from skerry import toml_file
from skerry.recipe import Recipe
from testbed.processes.federation import Federation
from testbed.scenario import Scenario
from tests.arm64 import environment

ROOT = Path(__file__).resolve().parents[2]
DEVICE_SIDE = ("algorithms", "edge_agent", "protocol", "tasks", "training")
DEVICE_SIDE_FILES = tuple(
    f"test_{name}.py" for name in ("logging_setup", "policy", "profile", "recipe", "task_cli", "toml_file")
)
WITHOUT = (
    # measures memory, which would be the emulator's
    "edge_agent/test_agent_process.py::test_a_terminated_agent_exits_in_good_order_and_stays_small",
    # 4,000 steps, which take minutes
    "edge_agent/test_agent_service.py::test_a_new_learning_rate_reaches_the_cycle_under_way",
)
PROCESSORS = (
    "cortex-a53",
    "cortex-a72",
    "cortex-a76",
    "max",
)  # Zero 2 W; Pi 4; Pi 5: dot products; vectors of any size
GRADIENT_ERROR_MAX = 1e-5  # relative, in the Euclidean norm
ENVIRONMENT = os.environ | {"ORT_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
PATIENCE_S = 240.0

WORLD = """
name = "one-emulated-device"
description = "one region on this machine, one emulated device"
evaluate_every_s = 1.0
central = {}

[[regions]]
name = "here"
coordinator = "here-1"
devices = [{ name = "device", profile = "raspberry-pi-4b", link = {} }]
"""
RECIPE = """
[local_steps]
rule = "fixed"
steps_per_cycle = 40
"""

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(1200)]


def run(*command: str | Path, **more: str) -> str:
    """Run to its end and return what it printed."""
    done = subprocess.run([*map(str, command)], env=ENVIRONMENT | more, cwd=ROOT, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_the_interpreter_is_emulated_and_so_is_what_it_starts(emulated_python: Path) -> None:
    code = "import platform; print(platform.machine())"
    started = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], check=True)"
    assert run(emulated_python, "-c", started).strip() == "aarch64"


@pytest.mark.timeout(5400)
def test_the_tests_of_the_device_side_pass(emulated_python: Path) -> None:
    """Its output goes to the terminal: it takes minutes."""
    where = [f"tests/{name}" for name in (*DEVICE_SIDE, *DEVICE_SIDE_FILES)]
    left_out = [f"--deselect=tests/{name}" for name in WITHOUT]
    options = ["-q", "-m", "not torch", "--timeout=600", "-p", "no:cacheprovider", *left_out]
    options += ["--numprocesses=logical", "--maxprocesses=4", "--dist=worksteal"]
    options += ["--hypothesis-profile=ci"]  # without a deadline for each example
    patient = ENVIRONMENT | {"SKERRY_TEST_PATIENCE": "5"}
    start = time.monotonic()
    done = subprocess.run([emulated_python, "-m", "pytest", *options, *where], env=patient, cwd=ROOT, check=False)
    print(f"{time.monotonic() - start:.0f} s")
    assert done.returncode == 0


@pytest.mark.parametrize("processor", PROCESSORS)
def test_gradients_are_those_of_this_machine(emulated_python: Path, tmp_path: Path, processor: str) -> None:
    files = {"here": tmp_path / "here.npz", "there": tmp_path / "there.npz"}
    run(sys.executable, "-m", "tests.arm64.steps", files["here"])
    print(
        f"\n{processor}:", run(emulated_python, "-m", "tests.arm64.steps", files["there"], QEMU_CPU=processor).strip()
    )
    here, there = np.load(files["here"]), np.load(files["there"])
    assert set(here) == set(there)
    assert "activity gradient" in here
    for name in here:
        error = np.linalg.norm(there[name] - here[name]) / np.linalg.norm(here[name])
        print(f"{processor}: {name}: relative difference {error:.1e}")
        assert error < GRADIENT_ERROR_MAX, name


async def test_an_emulated_agent_trains_in_a_region_of_this_machine(emulated_python: Path, tmp_path: Path) -> None:
    """The coordinator takes its updates, acknowledges them, and its model gets better."""
    federation = Federation(
        toml_file.parse(WORLD, Scenario, "world"),
        toml_file.parse(RECIPE, Recipe, "recipe"),
        tmp_path,
        seed=1,
        agent_python=(str(emulated_python),),
    )
    start = time.monotonic()

    def journal() -> History:
        return read_history(federation.state_dir("here-1"))

    def accuracies() -> list[float]:
        return [(one.correct or 0) / one.examples for one in journal().evaluations if one.kind == "regional"]

    try:
        await federation.start()
        while len(journal().updates) < 10 or max(accuracies(), default=0.0) < 0.7:
            assert time.monotonic() - start < PATIENCE_S, "\n".join(federation.agents["device"].log_tail())
            await asyncio.sleep(0.5)
    finally:
        await federation.stop()
    updates, seconds = journal().updates, time.monotonic() - start
    print(f"\n{len(updates)} updates in {seconds:.0f} s, accuracy {accuracies()[0]:.3f} to {accuracies()[-1]:.3f}")
    assert [one.sequence for one in updates] == list(range(1, len(updates) + 1))
    assert all(one.steps == 40 for one in updates)
    assert accuracies()[0] < 0.5


def test_a_requirement_without_a_wheel_fails_and_is_no_skip(emulated_python: Path, tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        environment.install(tmp_path, ["onnxruntime==0.1"])
