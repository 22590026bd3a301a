"""What every `report.html` has in common: head, style, header, how to repeat it, footer. One file that needs no other.

What is handed over as text is escaped here.
"""

from collections.abc import Mapping
from importlib import resources
from string import Template

from testbed.report.markup import escape
from testbed.report.palette import Palette

FILE_NAME = "report.html"


def framed(
    template: str,
    parts: Mapping[str, str],
    palette: Palette,
    *,
    scenario: str,
    description: str,
    notes: str = "",
    badge: tuple[str, str],
    lead: str,
    command: str,
    setup: str,
    versions: Mapping[str, str],
    files: str,
) -> str:
    """Return a page.

    Args:
        template: file of this folder, what stands between header and command.
        parts: of that template, markup.
        palette: of the plots.
        scenario: the heading; text, as all that follows where nothing else is said.
        description: below the heading.
        notes: below the lead.
        badge: how it ended, and the style's class for it: "good", "bad" or "muted".
        lead: the result in some sentences.
        command: repeats what the page shows.
        setup: what was run, markup.
        versions: of the programs that ran.
        files: what else was written, for scripts.
    """
    told, kind = badge
    made = f"Made by Skerry {versions['skerry']}" if versions.get("skerry") else "Made by Skerry"
    return Template(_read("frame.html")).substitute(
        title=escape(f"{scenario}: {told}"),
        colours=palette.style_sheet(),
        style=_read("page.css"),
        heading=escape(scenario),
        description=escape(description),
        badge=escape(told),
        badge_kind=kind,
        lead=escape(lead),
        notes=f'<p class="muted">{escape(notes)}</p>' if notes else "",
        content=Template(_read(template)).substitute(parts),
        command=escape(command),
        setup=setup,
        footer=escape(f"{made}. The same figures for scripts: summary.json; {files}."),
    )


def _read(name: str) -> str:
    return (resources.files("testbed.report") / name).read_text(encoding="utf-8")
