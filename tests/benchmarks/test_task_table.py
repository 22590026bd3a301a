"""The table of built-in tasks: figures in their places, verdicts as the targets say."""

import pytest

from benchmarks import task_table

MEASURED = {
    "export": {"parameters": 21840, "build_s": 10.0, "export_s": 3.0, "gradient_error": 4e-7, "bundle_bytes": 103845},
    "steps": {
        "onnx_ms": 5.0,
        "torch_ms": 4.0,
        "ratio": 1.25,
        "ratio_low": 1.2,
        "ratio_high": 1.3,
        "wall_ratio": 1.26,
    },
    "onnx": {"resident_mb": 100.0, "peak_mb": 101.0},
    "torch": {"resident_mb": 200.0, "peak_mb": 210.0},
}


def with_figure(section: str, name: str, value: float) -> dict[str, dict[str, float]]:
    return {**MEASURED, section: {**MEASURED[section], name: value}}


def test_targets_are_met_at_their_limits() -> None:
    assert task_table.verdicts("mnist-cnn", MEASURED) == {"step": True, "memory": True, "agent": True}


@pytest.mark.parametrize(
    ("section", "name", "value", "target"),
    [
        ("steps", "ratio", 1.26, "step"),
        ("torch", "resident_mb", 199.0, "memory"),
        ("onnx", "peak_mb", 110.5, "agent"),
    ],
)
def test_a_target_is_missed_beyond_its_limit(section: str, name: str, value: float, target: str) -> None:
    row = with_figure(section, name, value)
    assert task_table.verdicts("mnist-cnn", row)[target] is False
    assert f"{target} missed" in task_table.cells({"mnist-cnn": row})[1]


def test_residual_networks_may_be_slower() -> None:
    row = with_figure("steps", "ratio", 1.4)
    assert task_table.verdicts("cifar10-resnet8", row)["step"] is True
    assert task_table.verdicts("cifar10-cnn", row)["step"] is False


def test_a_large_model_has_no_target_for_memory() -> None:
    assert "memory" not in task_table.verdicts("mnist-fc", with_figure("export", "parameters", 1e6))


def test_what_failed_is_told_and_not_met() -> None:
    row = {**MEASURED, "torch": {"error": "benchmarks.agent_memory ended:\n  no MaxPool"}}
    assert task_table.verdicts("mnist-cnn", row)["memory"] is None
    assert task_table.cells({"mnist-cnn": row})[1][-1] == "memory not measured"
    assert task_table.errors({"mnist-cnn": row}) == ["mnist-cnn: torch: benchmarks.agent_memory ended: no MaxPool"]


def test_text_and_markdown_have_every_cell() -> None:
    lines = task_table.cells({"mnist-cnn": MEASURED})
    assert len({len(line) for line in lines}) == 1
    for shown in (task_table.text(lines), task_table.markdown(lines)):
        for cell in lines[1]:
            assert cell in shown
    assert lines[1] == [
        *("mnist-cnn", "21,840", "10.0", "3.0", "4.0e-07", "104"),
        *("5.00", "4.00", "1.25", "1.20-1.30", "1.26"),
        *("100", "101", "200", "0.50", "met"),
    ]


def test_the_page_names_command_machine_and_failures() -> None:
    row = {**MEASURED, "torch": {"error": "no MaxPool"}}
    machine: dict[str, str | int] = {"cores": 2, "processor": "a processor", "memory_bytes": 8_000_000_000}
    page = task_table.page({"mnist-cnn": row}, "python -m benchmarks.tasks", machine, {"torch": "2"})
    assert "`python -m benchmarks.tasks`: 2 cores of a processor, 8 GB; torch 2." in page
    assert "- mnist-cnn: torch: no MaxPool" in page
    assert "could not be measured" not in task_table.page({"mnist-cnn": MEASURED}, "", machine, {})
