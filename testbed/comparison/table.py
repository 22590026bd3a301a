"""Comparisons as a table, on a terminal or in Markdown: every world and arm of some results. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from testbed.comparison.scenario import ModelKind
from testbed.comparison.summary import ArmSummary, ComparisonSummary, Spread, Values, ratios
from testbed.report.quantities import MISSING, number, percent, size

REACHED_NOT = "never"


@dataclass(frozen=True)
class Row:
    """One arm in one world."""

    source: str  # which results it is from; "" where there is only one folder
    world: str
    arm: str
    medians: Values
    ratios: Values  # over the reference arm of the same world in the first results


def rows(results: Sequence[tuple[str, ComparisonSummary]]) -> list[Row]:
    """Return a row for each world and arm of each of the results, which have names.

    Ratios are to the reference arm of the first results, so that a change can be compared with what was before.
    """
    first = results[0][1]
    references = {world.world.name: _arm(world.arms, first.reference) for world in first.worlds}
    return [
        Row(
            source=name if len(results) > 1 else "",
            world=world.world.name,
            arm=arm.name,
            medians={measure: one.median for measure, one in arm.over_seeds.items()},
            ratios=ratios(arm.over_seeds, references.get(world.world.name, {})),
        )
        for name, summary in results
        for world in summary.worlds
        for arm in world.arms
    ]


def differences(results: Sequence[tuple[str, ComparisonSummary]]) -> list[str]:
    """Return what the results should have in common and do not: rows that differ in it tell little side by side."""
    told = {
        "scenario": [summary.scenario for _, summary in results],
        "virtual seconds": [MISSING if one.duration_s is None else f"{one.duration_s:g}" for _, one in results],
        "seeds": [" ".join(map(str, summary.seeds)) for _, summary in results],
    }
    names = [name for name, _ in results]
    return [
        f"not alike: {what}: " + ", ".join(f"{value} in {name}" for name, value in zip(names, values, strict=True))
        for what, values in told.items()
        if len(set(values)) > 1
    ]


def text(results: Sequence[tuple[str, ComparisonSummary]]) -> str:
    """Return the table for a terminal; targets and the judged model are those of the first results."""
    words, lines = _cells(results)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown(results: Sequence[tuple[str, ComparisonSummary]]) -> str:
    """Return the same table in Markdown, below what each of the results was made with."""
    words, (head, *body) = _cells(results)
    rule = ["---" if column < words else "---:" for column in range(len(head))]
    table = [f"| {' | '.join(cells)} |" for cells in (head, rule, *body)]
    return "\n".join([*(_made_with(summary) for _, summary in results), "", *table])


def _made_with(summary: ComparisonSummary) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in summary.versions.items())
    seeds = ", ".join(map(str, summary.seeds))
    return f"`{summary.command}`: seeds {seeds}; medians; ratios to `{summary.reference}`; {versions}."


def _cells(results: Sequence[tuple[str, ComparisonSummary]]) -> tuple[int, list[list[str]]]:
    """Return how many columns hold words, and the lines, of which the first is the head."""
    first = results[0][1]
    model: ModelKind = first.judged
    other: ModelKind = "federated" if model == "regional" else "regional"
    head = ["results", "world", "arm"] if len(results) > 1 else ["world", "arm"]
    words = len(head)
    for target in first.targets:
        head += [f"s to {percent(target, 0) if first.metric == 'accuracy' else f'{target:g}'}", "ratio"]
    lines = [[*head, model, other, "updates", "bytes", "a second"]]
    for row in rows(results):
        cells = [*([row.source] if row.source else []), row.world, row.arm]
        for target in first.targets:
            measure = f"{model}_s_to_{target:g}"
            at_s, ratio = row.medians.get(measure), row.ratios.get(measure)
            cells += [REACHED_NOT if row.medians and at_s is None else number(at_s)]
            cells += [MISSING if ratio is None else f"{ratio:.2f}"]
        for one in (model, other):
            final = row.medians.get(f"{one}_final")
            cells.append(percent(final) if first.metric == "accuracy" else number(final))
        sent = [row.medians.get(f"bytes_{way}") for way in ("up", "down", "peers")]
        known = [value for value in sent if value is not None]
        elapsed_s = row.medians.get("elapsed_s")
        cells += [number(row.medians.get("updates")), size(sum(known)) if known else MISSING]
        lines.append([*cells, size(sum(known) / elapsed_s) if known and elapsed_s else MISSING])  # runs may end early
    return words, lines


def _arm(arms: Sequence[ArmSummary], name: str) -> dict[str, Spread]:
    return next((arm.over_seeds for arm in arms if arm.name == name), {})
