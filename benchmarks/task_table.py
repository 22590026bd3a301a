"""The table of built-in tasks: what was measured of each, held against the targets, as text and as Markdown. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

STEP_RATIO_MAX = 1.25  # of a step with onnxruntime to one with torch
RESIDUAL_STEP_RATIO_MAX = 1.4  # of the same, for residual networks
MEMORY_RATIO_MAX = 0.5  # of an agent with onnxruntime to one with torch, for models below
SMALL_PARAMETERS = 1_000_000
AGENT_MB_MAX = {"mnist-cnn": 110.0}  # at its peak
MISSING = "-"

Row = Mapping[str, Any]  # the figures of one task by section: export, steps, onnx, torch; a failed one has `error`


def figure(row: Row, section: str, name: str) -> float | None:
    """Return a figure; None where it was not measured."""
    found = row.get(section, {}).get(name)
    return None if found is None else float(found)


def memory_ratio(row: Row) -> float | None:
    """Return the agent's memory with onnxruntime over that with torch."""
    ours, theirs = figure(row, "onnx", "resident_mb"), figure(row, "torch", "resident_mb")
    return None if ours is None or theirs is None else ours / theirs


def step_ratio_max(name: str) -> float:
    """Return the target of a task's step."""
    return RESIDUAL_STEP_RATIO_MAX if "resnet" in name else STEP_RATIO_MAX


def verdicts(name: str, row: Row) -> dict[str, bool | None]:
    """Return whether each target that the task has is met; None where it was not measured."""
    found = {"step": _at_most(figure(row, "steps", "ratio"), step_ratio_max(name))}
    parameters = figure(row, "export", "parameters")
    if parameters is not None and parameters < SMALL_PARAMETERS:
        found["memory"] = _at_most(memory_ratio(row), MEMORY_RATIO_MAX)
    if name in AGENT_MB_MAX:
        found["agent"] = _at_most(figure(row, "onnx", "peak_mb"), AGENT_MB_MAX[name])
    return found


def _at_most(value: float | None, limit: float) -> bool | None:
    return None if value is None else value <= limit


def _verdict(name: str, row: Row) -> str:
    words = {True: "", False: " missed", None: " not measured"}
    found = verdicts(name, row)
    if all(found.values()):
        return "met"
    return ", ".join(f"{target}{words[met]}" for target, met in found.items() if not met)


def _number(section: str, name: str, form: str) -> Callable[[str, Row], str]:
    return lambda _task, row: _formatted(figure(row, section, name), form)


def _formatted(value: float | None, form: str) -> str:
    return MISSING if value is None else format(value, form)


def _spread(_task: str, row: Row) -> str:
    low, high = figure(row, "steps", "ratio_low"), figure(row, "steps", "ratio_high")
    return MISSING if low is None or high is None else f"{low:.2f}-{high:.2f}"


COLUMNS: tuple[tuple[str, Callable[[str, Row], str]], ...] = (
    ("task", lambda task, _row: task),
    ("parameters", _number("export", "parameters", ",.0f")),
    ("build s", _number("export", "build_s", ".1f")),
    ("export s", _number("export", "export_s", ".1f")),
    ("gradient error", _number("export", "gradient_error", ".1e")),
    ("bundle kB", lambda _task, row: _thousand(figure(row, "export", "bundle_bytes"))),
    ("ms ONNX", _number("steps", "onnx_ms", ".2f")),
    ("ms torch", _number("steps", "torch_ms", ".2f")),
    ("ratio", _number("steps", "ratio", ".2f")),
    ("quartiles", _spread),
    ("wall ratio", _number("steps", "wall_ratio", ".2f")),
    ("MB ONNX", _number("onnx", "resident_mb", ".0f")),
    ("peak", _number("onnx", "peak_mb", ".0f")),
    ("MB torch", _number("torch", "resident_mb", ".0f")),
    ("memory ratio", lambda _task, row: _formatted(memory_ratio(row), ".2f")),
    ("targets", _verdict),
)


def _thousand(value: float | None) -> str:
    return MISSING if value is None else f"{value / 1e3:,.0f}"


def cells(rows: Mapping[str, Row]) -> list[list[str]]:
    """Return the table, its head first."""
    return [
        [title for title, _ in COLUMNS],
        *([of(task, row) for _, of in COLUMNS] for task, row in rows.items()),
    ]


def errors(rows: Mapping[str, Row]) -> list[str]:
    """Return a line for every measurement that failed."""
    return [
        f"{task}: {section}: {' '.join(figures['error'].split())}"
        for task, row in rows.items()
        for section, figures in row.items()
        if "error" in figures
    ]


def text(lines: Sequence[Sequence[str]]) -> str:
    """Return the table for a terminal, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) if place in {0, len(widths) - 1} else cell.rjust(width)
                  for place, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in lines
    )  # fmt: skip


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Return the table in Markdown."""
    head, *rest = lines
    rule = ["---", *["---:"] * (len(head) - 2), "---"]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rest))


LEGEND = {
    "build s, export s": (
        "wall seconds of `skerry-task build`, and of its tracing and translating alone; the rest measures forms of "
        "convolutions and compares with torch"
    ),
    "gradient error": "the gate's: of the worst tensor, the median over seeds, relative to torch's",
    "ms ONNX, ms torch": (
        "processor time of one step (loss, gradient, plain gradient descent) on the same batch of 32, one thread; "
        "medians. Torch: the model's own module, `torch.autograd.grad`, and the rule written by hand"
    ),
    "ratio, quartiles": (
        "of these, in alternating turns of one process: the median over the turns, and their quartiles; "
        "`wall ratio` is the same of wall time"
    ),
    "MB ONNX, MB torch": (
        "the largest resident memory (VmRSS) of the whole agent process from its first acknowledged update on, with "
        "either engine; `peak` is VmHWM with onnxruntime, which has the start in it. 1 MB is 1,000,000 bytes"
    ),
    "targets": (
        f"step: at most {STEP_RATIO_MAX:g} times torch's, residual networks {RESIDUAL_STEP_RATIO_MAX:g}; "
        f"memory: at most {MEMORY_RATIO_MAX:g} times torch's below {SMALL_PARAMETERS:,} parameters; agent: "
        + ", ".join(f"`{task}` at most {limit:g} MB" for task, limit in AGENT_MB_MAX.items())
        + " at its peak"
    ),
}


def page(rows: Mapping[str, Row], command: str, machine: Mapping[str, str | int], versions: Mapping[str, str]) -> str:
    """Return docs/results/tasks.md: the table, what its columns are, and how it was made."""
    packages = ", ".join(f"{package} {number}" for package, number in versions.items())
    memory = f"{int(machine['memory_bytes']) / 1e9:.0f} GB"
    failed = errors(rows)
    return "\n".join(
        (
            "# Built-in tasks: export, step and memory\n",
            f"`{command}`: {machine['cores']} cores of {machine['processor']}, {memory}; {packages}.",
            "Every figure is in [tasks.json](tasks.json); the same program writes this page.\n",
            markdown(cells(rows)),
            "",
            markdown([("column", "meaning"), *LEGEND.items()]),
            *(("\nWhat could not be measured:\n", *(f"- {line}" for line in failed)) if failed else ()),
            "",
        )
    )
