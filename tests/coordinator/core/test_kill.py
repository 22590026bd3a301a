"""A real process is killed with SIGKILL while it takes updates in; the files it leaves must tell the whole truth."""

import hashlib
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from coordinator.history import UpdateEntry, read_history
from coordinator.recovery import rebuild
from tests.coordinator.core import ingesting

SCRIPT = Path(ingesting.__file__)
UPDATES = 400
KILLS = 4


def run_and_kill(state_dir: Path, after_answers: int | None) -> list[list[str]]:
    """Run until so many answers were given, then SIGKILL; return the answers. None: let it finish."""
    answers: list[list[str]] = []
    with subprocess.Popen(
        [sys.executable, str(SCRIPT), str(state_dir), str(UPDATES)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path.cwd(),
        env={"PYTHONPATH": str(Path.cwd()), "PATH": ""},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if not line.endswith("\n"):
                break  # torn by the kill: never said
            answers.append(line.split())
            if len(answers) == after_answers:
                process.kill()
        errors = process.stderr.read()
    assert process.returncode == (0 if after_answers is None else -9), errors
    return answers


def test_what_was_acknowledged_before_a_kill_is_there_once_and_the_model_is_the_same(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    rng = random.Random(4)
    told: dict[tuple[str, int], tuple[int, float]] = {}
    digests: dict[int, str] = {}
    journalled: set[tuple[str, int]] = set()
    for life in range(KILLS + 1):
        after = None if life == KILLS else 100 * life + rng.randint(1, 100)
        for device, sequence, version, weight, digest in run_and_kill(state_dir, after):
            if weight == "None":  # a repeat from long ago, of an earlier life
                assert (device, int(sequence)) in journalled
                continue
            answer = int(version), float(weight)
            assert told.setdefault((device, int(sequence)), answer) == answer, "answered differently in another life"
            if digest != "-":
                assert digests.setdefault(int(version), digest) == digest
        rows = read_history(state_dir).updates
        journalled = {(row.device, row.sequence) for row in rows}
        _check_rows(rows, told)
        _check_model(rows, state_dir)
    assert len(journalled) == UPDATES * len(ingesting.DEVICES)
    assert len(digests) > KILLS
    newest = max(digests)
    assert _digest(rebuild(state_dir, newest)) == digests[newest]


def _check_rows(rows: list[UpdateEntry], told: dict[tuple[str, int], tuple[int, float]]) -> None:
    sequences: dict[str, list[int]] = {}
    for row in rows:
        sequences.setdefault(row.device, []).append(row.sequence)
    for found in sequences.values():
        assert found == list(range(1, len(found) + 1)), "a gap or a repeat"
    there = {(row.device, row.sequence): (row.version, row.weight) for row in rows}
    assert told.items() <= there.items(), "acknowledged, and not in the journal"


def _check_model(rows: list[UpdateEntry], state_dir: Path) -> None:
    """Add the updates up once more, without any of the coordinator's code for it."""
    model = ingesting.initial()
    for row in rows:
        sent = ingesting.vector(row.device, row.sequence)
        model[sent.indices] = model[sent.indices] + np.float32(row.weight) * sent.values
    if rows:
        assert rebuild(state_dir, len(rows)).tobytes() == model.tobytes()


def _digest(values: Any) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()
