"""The pages of docs/tasks say what the catalogue says."""

from pathlib import Path

import pytest

from skerry.tasks.builtin.catalogue import TASKS, BuiltinTask
from skerry.tasks.builtin.source import DATA_SETS

DOCS = Path(__file__).resolve().parents[3] / "docs"


@pytest.mark.parametrize(
    "task", [task for task in TASKS.values() if task.name != "activity"], ids=lambda task: task.name
)
def test_each_task_stands_on_its_data_sets_page_with_its_size(task: BuiltinTask) -> None:
    page = (DOCS / "tasks" / f"{task.data_set}.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith(f"| `{task.name}`"))
    assert f"{task.parameters:,}" in row
    assert f"(tasks/{task.data_set}.md)" in (DOCS / "adding_a_task.md").read_text()


@pytest.mark.parametrize("name", DATA_SETS)
def test_each_page_says_where_the_data_come_from_and_how_they_are_dealt(name: str) -> None:
    page = (DOCS / "tasks" / f"{name}.md").read_text()
    assert f'"builtin:{name}?part=3' in page
    assert f"`{DATA_SETS[name].partition}` (default)" in page
    assert f"(tasks/{name}.md)" in (DOCS / "data.md").read_text()
    assert DATA_SETS[name].home.split()[0].strip("/") in page or "gutenberg" in page
