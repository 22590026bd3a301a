"""What the seeds of a comparison say together, and what a journal says of a federation."""

from typing import Any

import pytest

from benchmarks import accuracy, federated_run, process_memory
from benchmarks.training_run import SIDES
from coordinator.history import EvaluationEntry, History, UpdateEntry


def run(seed: int, ours: float, theirs: float) -> dict[str, dict[str, Any]]:
    def side(reached: float, step_ms: float, peak_mb: float) -> dict[str, Any]:
        return {"seed": seed, "steps": 1500, "accuracy": reached, "step_cpu_ms": step_ms, "peak_mb": peak_mb}

    return {"skerry": side(ours, 3.0, 150.0), "torch": side(theirs, 2.0, 300.0)}


def test_differences_are_ours_less_torch_s_in_points() -> None:
    found = accuracy.compared([run(1, 0.91, 0.90), run(2, 0.90, 0.92)])
    assert found["points"] == pytest.approx([1.0, -2.0])
    assert found["points_mean"] == pytest.approx(-0.5)
    assert found["reaches"] is True
    assert found["step_ratio"] == pytest.approx(1.5)
    assert found["memory_ratio"] == pytest.approx(0.5)


def test_a_model_that_is_worse_on_average_does_not_reach_it() -> None:
    assert accuracy.compared([run(1, 0.88, 0.90), run(2, 0.90, 0.901)])["reaches"] is False


def test_the_table_has_a_line_for_each_seed_and_their_mean() -> None:
    lines = list(accuracy.cells("mnist-cnn", [run(1, 0.91, 0.90), run(2, 0.90, 0.92)]))
    assert [line[1] for line in lines] == ["1", "2", "mean"]
    assert {len(line) for line in lines} == {len(accuracy.HEAD)}
    assert lines[0] == [
        *("mnist-cnn", "1", "1,500", "91.00%", "90.00%", "+1.00"),
        *("3.00", "2.00", "1.50", "150", "300", "0.50"),
    ]
    assert lines[2][5] == "-0.50"


def test_both_sides_are_ones_that_a_training_run_knows() -> None:
    assert set(accuracy.SIDES) == set(SIDES)


def update(position: int, at_s: float, steps: int) -> UpdateEntry:
    return UpdateEntry(position, position, "d", position, 0, steps, 32, 1.0, 0.01, 0.0, 1.0, 1.0, 100, 120, at_s)


def evaluation(at_s: float, correct: int, kind: Any = "regional") -> EvaluationEntry:
    return EvaluationEntry(at_s, 1, 1.0, kind, 100, correct, 1.0)


def test_a_federation_counts_from_its_first_update_to_the_first_evaluation_after_its_time() -> None:
    history = History(
        updates=[update(1, 100.0, 10), update(2, 109.0, 20), update(3, 112.0, 40)],
        evaluations=[
            evaluation(99.0, 10),
            evaluation(105.0, 50),
            evaluation(110.5, 77, "federated"),
            evaluation(111.0, 80),
            evaluation(115.0, 90),
        ],
    )
    found = federated_run.figures(history, 10.0, 2)
    assert (found["accuracy"], found["seconds"], found["updates"], found["steps"]) == (0.8, 11.0, 2, 30)
    assert [point["accuracy"] for point in found["points"]] == [0.5, 0.8, 0.9]


def test_memory_is_read_as_the_kernel_writes_it() -> None:
    status = "Name:\tpython\nVmHWM:\t    2000 kB\nVmRSS:\t    1000 kB\nSigQ:\t0/1\n"
    assert process_memory.parsed(status) == {"resident_mb": 1.024, "peak_mb": 2.048}
    own = process_memory.memory_of("self")
    assert own["peak_mb"] >= own["resident_mb"] > 1.0


def test_the_page_tells_how_much_memory_is_data_and_what_the_whole_reached() -> None:
    lines = [accuracy.HEAD, *accuracy.cells("mnist-cnn", [run(1, 0.91, 0.90)])]
    federated = {"mnist-cnn": {"devices": 2, "seconds": 60.0, "updates": 1200, "steps": 24000, "accuracy": 0.9712}}
    page = accuracy.page(lines, {"mnist-cnn": 47.5}, federated, "python -m benchmarks.accuracy")
    assert "48 MB for `mnist-cnn`" in page
    assert "2 agents and a coordinator for 60 s of training, 1,200 updates, 24,000 steps in all: 97.12%" in page
    assert "## End to end" not in accuracy.page(lines, {}, {}, "")
