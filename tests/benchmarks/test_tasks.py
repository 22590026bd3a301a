"""A run over the built-in tasks goes on where an earlier one stopped."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from benchmarks import builtin_task, child, tasks


def options(folder: Path, **given: Any) -> argparse.Namespace:
    return argparse.Namespace(**({"folder": folder, "data_dir": None, "again": "", "quick": True} | given))


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Measurements that take no time; the list says which were made."""
    made: list[str] = []

    def export(name: str, bundle: Path, data_dir: Path | None) -> dict[str, float]:
        made.append("export")
        bundle.write_bytes(b"a bundle")
        return {"parameters": 5.0}

    def run(module: str, arguments: list[str], timeout_s: float) -> dict[str, float]:
        made.append(f"{module.rpartition('.')[2]} {'torch' if 'torch' in arguments else ''}".strip())
        if made[-1] == "agent_memory torch":
            raise child.ChildFailedError("no MaxPool")
        return {"ratio": 1.0}

    def fingerprint(bundle: str) -> str:
        return bundle if bundle.startswith("builtin:") else Path(bundle).read_bytes().hex()

    monkeypatch.setattr(builtin_task, "export", export)
    monkeypatch.setattr(builtin_task, "fingerprint", fingerprint)
    monkeypatch.setattr(child, "run", run)
    return made


def test_only_what_failed_or_was_asked_for_is_measured_again(tmp_path: Path, calls: list[str]) -> None:
    tasks.measure("cifar10-cnn", options(tmp_path))
    assert calls == ["export", "step_times", "agent_memory", "agent_memory torch"]
    calls.clear()
    tasks.measure("cifar10-cnn", options(tmp_path))
    assert calls == ["agent_memory torch"]
    calls.clear()
    tasks.measure("cifar10-cnn", options(tmp_path, again="steps"))
    assert calls == ["step_times", "agent_memory torch"]
    calls.clear()
    tasks.measure("cifar10-cnn", options(tmp_path, quick=False))
    assert calls == ["step_times", "agent_memory", "agent_memory torch"]


def test_another_bundle_is_measured_from_the_beginning(tmp_path: Path, calls: list[str]) -> None:
    tasks.measure("cifar10-cnn", options(tmp_path))
    calls.clear()
    (tmp_path / "cifar10-cnn.skerry").write_bytes(b"another")
    tasks.measure("cifar10-cnn", options(tmp_path))
    assert calls == ["export", "agent_memory torch"]  # which wrote the first bundle again: its figures hold


def test_a_shipped_bundle_is_what_is_measured(tmp_path: Path, calls: list[str]) -> None:
    tasks.measure("activity", options(tmp_path))
    steps = tasks.merged(tmp_path, ["activity"])["activity"]["steps"]
    assert steps["key"].startswith("builtin:activity ")


def test_tasks_are_merged_in_the_catalogue_s_order(tmp_path: Path, calls: list[str]) -> None:
    for task in ("shakespeare-gru", "cifar10-cnn"):
        tasks.measure(task, options(tmp_path))
    rows = tasks.merged(tmp_path, builtin_task.names())
    assert list(rows) == ["cifar10-cnn", "shakespeare-gru"]
    assert list(rows["cifar10-cnn"]) == ["export", "steps", "onnx", "torch"]
    assert rows["cifar10-cnn"]["torch"]["error"] == "no MaxPool"
    assert rows["cifar10-cnn"]["steps"]["ratio"] == 1.0


def test_a_child_s_figures_are_its_last_line() -> None:
    assert child.figures("m", 0, 'a note\n{"ratio": 1.5}\n', "") == {"ratio": 1.5}
    with pytest.raises(child.ChildFailedError, match="exit code 3:\nwhy"):
        child.figures("m", 3, "", "why\n")
    with pytest.raises(child.ChildFailedError, match="only a note"):
        child.figures("m", 0, "only a note", "")
