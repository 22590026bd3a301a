"""`skerry-task`, as a person calls it."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skerry.cli import main
from skerry.tasks.bundle import Bundle
from skerry.tasks.data import load

Done = subprocess.CompletedProcess[str]
Call = Callable[..., Done]


@pytest.fixture
def skerry_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Return what runs a command in `tmp_path` and in this process: torch is loaded once."""

    def call(*arguments: str) -> Done:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [*sys.path])  # a build looks for definitions in the folder it is called in
        monkeypatch.setattr(sys, "argv", ["skerry-task", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return Done(arguments, ended.value.code, *capsys.readouterr())

    return call


def in_a_process(*arguments: str) -> Done:
    root = Path(__file__).resolve().parent.parent
    code = (
        f"import sys; sys.path.append({str(root)!r}); from skerry.cli import main; sys.argv[0] = 'skerry-task'; main()"
    )
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def printed(result: Done) -> dict[str, Any]:
    assert result.returncode == 0, result.stderr
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def test_a_command_is_a_process_with_an_exit_code() -> None:
    assert printed(in_a_process("show", "builtin:activity", "--json"))["name"] == "activity"
    failed = in_a_process("show", "gone.skerry")
    assert failed.returncode == 5
    assert re.fullmatch(r"skerry-task: .*gone\.skerry: cannot be read: No such file or directory\n", failed.stderr)


def test_show_tells_what_a_bundle_is_about(skerry_task: Call) -> None:
    report = printed(skerry_task("show", "builtin:activity", "--json"))
    assert report["name"] == "activity"
    assert report["classes"] == ["Walking", "Jogging", "Upstairs", "Downstairs", "Sitting", "Standing"]
    assert report["parameters"] == 14278
    assert report["sha256"] == Bundle.builtin("activity").sha256
    text = skerry_task("show", "builtin:activity").stdout
    assert "Kwapisz" in text
    assert "float32 (examples, 43), missing values as 0, normalised" in text


def test_check_counts_the_classes_of_a_devices_data(skerry_task: Call) -> None:
    report = printed(skerry_task("check", "builtin:activity", "--data", "builtin:activity?part=0&parts=6", "--json"))
    assert report["data"]["examples"] == sum(report["data"]["classes"]) == 808
    assert report["data"]["held_out_examples"] == 202
    assert report["gradient_error"] < report["gradient_error_max"] == 0.1


def test_check_says_how_right_the_gradient_is_and_how_many_rows_there_are(skerry_task: Call) -> None:
    verdict, rows, first, *_ = skerry_task(
        "check", "builtin:activity", "--data", "builtin:activity?part=0&parts=6"
    ).stdout.splitlines()
    assert re.fullmatch(
        r"builtin:activity: intact; the gradient is right: 0\.\d\d% off the slope of the loss as finite differences "
        r"give it, 10% allowed",
        verdict,
    )
    assert rows == "builtin:activity?part=0&parts=6: 808 rows to train on, 202 held out"
    assert first == "  Walking: 308"
    alone = skerry_task("check", "builtin:activity", "--data", "builtin:activity?part=0&parts=6&split=all").stdout
    assert "1010 rows to train on, none held out" in alone


def test_check_says_which_column_the_label_was(skerry_task: Call, tmp_path: Path) -> None:
    names = Bundle.builtin("activity").manifest.input.names
    file = tmp_path / "rows.csv"
    file.write_text(f"{','.join(names)},state\n{','.join('1' for _ in names)},Jogging\n")
    arguments = "check", "builtin:activity", "--data", f"csv:{file}"
    assert "\nlabel: column state\n" in skerry_task(*arguments).stdout
    assert printed(skerry_task(*arguments, "--json"))["data"]["label_column"] == "state"


def test_list_names_every_task_with_its_size_and_where_its_data_come_from(skerry_task: Call) -> None:
    tasks = {task["name"]: task for task in printed(skerry_task("list", "--json"))["tasks"]}
    assert tasks["activity"]["shipped"]
    assert tasks["cifar10-cnn"]["parameters"] == 550_570
    assert tasks["cifar10-cnn"]["build"] == "skerry-task build builtin:cifar10-cnn --output cifar10-cnn.skerry"
    assert tasks["shakespeare-gru"]["data_from"].startswith("the plays")
    text = skerry_task("list").stdout
    assert all(name in text for name in tasks)
    assert "mnist: https://" in text


@pytest.mark.torch
def test_a_built_in_task_is_built_by_name(skerry_task: Call, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    built = printed(skerry_task("build", "builtin:mnist-fc?width=8", "-o", "fc.skerry", "--json"))
    assert built["parameters"] == 784 * 8 + 8 + 2 * (8 * 8 + 8) + 8 * 10 + 10
    assert Bundle.open(tmp_path / "fc.skerry").manifest.name == "mnist-fc"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["check", "gone.skerry"], 5, "skerry-task: {cwd}/gone.skerry: cannot be read: No such file or directory"),
        (["check", "builtin:activity", "--data", "csv:gone.csv"], 5, "skerry-task: {cwd}/gone.csv: no such file"),
        (["show", "builtin:chess"], 5, "there is: activity"),
        (["show", "builtin:cifar10-cnn"], 5, "run `skerry-task build builtin:cifar10-cnn --output cifar10-cnn.skerry`"),
        (["show", "builtin:wikitext2-lstm"], 5, "--output wikitext2-lstm.skerry --data-dir DIR`"),
        pytest.param(
            ["build", "builtin:mnist-cnn?depth=3", "-o", "x.skerry"], 5, "unknown option depth", marks=pytest.mark.torch
        ),
        (["check", "builtin:activity", "--data", "builtin:mnist", "--data-dir", "gone"], 5, "no folder gone"),
        pytest.param(
            ["build", "gone:definition", "-o", "x.skerry"],
            5,
            "gone:definition: ModuleNotFoundError",
            marks=pytest.mark.torch,
        ),
        (["build", "x:y"], 2, "--output"),
        (["mend"], 2, "No such command"),
    ],
)
def test_what_goes_wrong_is_one_line_and_an_exit_code(
    skerry_task: Call, arguments: list[str], code: int, said: str, tmp_path: Path
) -> None:
    result = skerry_task(*arguments)
    assert result.returncode == code
    assert said.format(cwd=tmp_path) in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [[], ["build"], ["check"], ["list"], ["show"]])
def test_every_help_has_an_example_and_the_exit_codes(skerry_task: Call, command: list[str]) -> None:
    text = skerry_task(*command, "--help").stdout
    assert "Examples:\n" in text
    assert "Exit codes:" in text


@pytest.mark.torch
def test_the_example_of_the_documentation_builds(skerry_task: Call, tmp_path: Path) -> None:
    """docs/adding_a_task.md: its python block, as a person would save it."""
    pytest.importorskip("torch")
    page = (Path(__file__).resolve().parent.parent / "docs" / "adding_a_task.md").read_text()
    (tmp_path / "my_task.py").write_text(page.split("```python\n")[1].split("```")[0])
    built = printed(skerry_task("build", "my_task:definition", "-o", "my_task.skerry", "--json"))
    assert built["gradient_error"] < 1e-5
    bundle = Bundle.open(tmp_path / "my_task.skerry")
    assert bundle.sha256 == built["sha256"]
    readings = tmp_path / "readings.csv"
    readings.write_text("temperature,humidity,pressure,label\n21.5,40,1013,ok\n60,,1012,overheated\n")
    assert load(f"csv:{readings}", bundle.manifest).y.tolist() == [0, 2]
