"""A task's definition is found by name; what its author did wrong is told with their own line."""

import sys
from pathlib import Path

import pytest

from skerry.training.definition import load_definition
from skerry.training.export_error import ExportError


def refusal(spec: str) -> str:
    with pytest.raises(ExportError) as error:
        load_definition(spec)
    return str(error.value)


@pytest.mark.parametrize(
    ("spec", "meant"),
    [
        ("my_task", "my_task:definition"),
        ("my_task.py", "my_task:definition"),
        ("./tasks/my_task.py", "tasks.my_task:definition"),
        ("tasks/my_task.py:make", "tasks.my_task:make"),
        ("my_task:", "my_task:definition"),
        (":make", "my_task:make"),
    ],
)
def test_what_is_no_module_and_function_is_answered_with_what_may_be_meant(spec: str, meant: str) -> None:
    assert refusal(spec) == f"{spec!r}: must be MODULE:FUNCTION, such as {meant}"


def test_a_file_with_its_ending_is_told_without() -> None:
    assert refusal("no_such_task.py:make").endswith("; a file is named without .py: no_such_task:make")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("x = 1\ny = x / 0\n", "ZeroDivisionError: division by zero (authored.py, line 2: y = x / 0)"),
        (
            "def definition():\n    return inner()\n\n\ndef inner():\n    return int('x')\n",
            "ValueError: invalid literal for int() with base 10: 'x' (authored.py, line 6: return int('x'))",
        ),
        (
            "import json\n\n\ndef definition():\n    return json.loads('?')\n",  # not json's own line
            "JSONDecodeError: Expecting value: line 1 column 1 (char 0) (authored.py, line 5: return json.loads('?'))",
        ),
        ("def definition(:\n", "SyntaxError: invalid syntax (authored.py, line 1)"),
        ("", "AttributeError: module 'authored' has no attribute 'definition'"),
    ],
)
def test_a_mistake_in_the_authors_code_is_told_with_its_line(
    code: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "authored.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "authored", raising=False)
    assert refusal("authored:definition") == f"authored:definition: {told}"
