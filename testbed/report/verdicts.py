"""The goals of a run as tiles: what was measured, large, and what was asked for. Pure."""

from collections.abc import Sequence

from testbed.report.markup import escape
from testbed.report.quantities import MISSING, number, percent, times
from testbed.run_record import Verdict

TITLES = {
    "points_below_central_max": "Accuracy below central",
    "updates_min": "Updates, fewest",
    "idle_share_max": "Idle share, largest",
    "steps_to_speed_error_max": "Steps off speed by",
    "uplink_saving_min": "Uplink against dense",
}


def tiles(verdicts: Sequence[Verdict]) -> str:
    """Return one tile per verdict, missed ones first; nothing where no goals were set."""
    if not verdicts:
        return ""
    ordered = sorted(verdicts, key=lambda verdict: verdict.holds)
    return '<ul class="tiles">\n' + "\n".join(_tile(verdict) for verdict in ordered) + "\n</ul>"


def measured(verdict: Verdict, value: float | None) -> str:
    """Return a value of a verdict with its unit."""
    if value is None:
        return MISSING
    match verdict.unit:
        case "share":
            return percent(value)
        case "points":
            return f"{round(value, 2):g} points"
        case "ratio" if "_error_" in verdict.goal:
            return percent(value)
        case "ratio":
            return times(value)
        case unit:
            return f"{number(value)} {unit}"


def _tile(verdict: Verdict) -> str:
    title = TITLES.get(verdict.goal, verdict.goal.replace("_", " "))
    subject = "" if verdict.subject == "run" else f"<span>{escape(verdict.subject)}</span>"
    side = "at least" if verdict.goal.endswith("_min") else "at most"
    kind, word = ("good", "✓ held") if verdict.holds else ("bad", "✗ missed")
    return (
        f'<li class="tile {kind}"><div class="verdict">{word}{subject}</div>'
        f"<div>{escape(title)}</div>"
        f'<div class="value">{escape(measured(verdict, verdict.measured))}</div>'
        f'<div class="bound">goal: {side} {escape(measured(verdict, verdict.bound))}</div>'
        f'<div class="statement">{escape(verdict.statement)}</div></li>'
    )
