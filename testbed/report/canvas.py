"""What all plots share: size, type, axes, labels that do not collide, and the way from a figure to SVG in a page.

Text stays text and colours stay roles (see palette.py), so a plot follows the reader's font and light or dark setting.
The same figure always gives the same SVG. Importing this imports matplotlib.
"""

import html
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from testbed.report.palette import Palette

# Small enough that its text is readable at the width of a phone, where the page shows it about 1:1.
WIDTH_PT = 310.0
TEXT_PT = 9.0
END_LABELS_MAX = 14  # more lines than that cannot be told apart by labels
LABEL_GAP_PT = 10.5
ROW_PT = 17.0
NAME_LETTERS_MAX = 17

_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "skerry",
    "text.parse_math": False,  # a name may hold a dollar
    "axes.unicode_minus": True,
    "font.size": TEXT_PT,
    "path.simplify_threshold": 0.3,
}


@dataclass(frozen=True)
class EndLabel:
    """A name beside the end of a line."""

    y: float  # in data
    text: str
    colour: str  # key of a palette


def render(draw: Callable[[], Figure | None], name: str, description: str, palette: Palette) -> str | None:
    """Return the figure that `draw` makes as an `<svg>` element with ids that begin with `name`, or None."""
    with mpl.rc_context(_SETTINGS):
        figure = draw()
        if figure is None:
            return None
        text = io.StringIO()
        figure.savefig(
            text, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    # each plot on the page has its own ids
    svg = re.sub(r'( id="|xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r' transform="rotate\(-0 [^"]*"|font-family: [^;"]*; ?', "", svg)
    view_box = re.search(r'viewBox="[^"]*"', svg)
    assert view_box is not None
    opening = f'<svg class="plot" role="img" aria-label="{html.escape(description)}" {view_box[0]}>'
    return palette.paint(re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1))


def axes_of(
    height_pt: float, palette: Palette, *, left_pt: float, right_pt: float, x_label: str
) -> tuple[Figure, Axes]:
    """Return a figure with one empty pair of axes; margins are what names and labels need."""
    figure = Figure(figsize=(WIDTH_PT / 72.0, height_pt / 72.0))
    top_pt, bottom_pt = 18.0, 31.0
    axes = figure.add_axes(
        (
            left_pt / WIDTH_PT,
            bottom_pt / height_pt,
            (WIDTH_PT - left_pt - right_pt) / WIDTH_PT,
            (height_pt - top_pt - bottom_pt) / height_pt,
        )
    )
    ink, muted = palette.key("ink"), palette.key("muted")
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(muted)
    axes.tick_params(colors=muted, length=0, pad=4, labelsize=TEXT_PT)
    axes.set_xlabel(x_label, color=ink, fontsize=TEXT_PT, labelpad=3)
    return figure, axes


def y_title(axes: Axes, text: str, palette: Palette) -> None:
    """Write what the y axis measures, upright, above it."""
    axes.annotate(
        text,
        xy=(0.0, 1.0),
        xytext=(-axes.get_position().x0 * WIDTH_PT + 2.0, 7.0),
        xycoords="axes fraction",
        textcoords="offset points",
        color=palette.key("ink"),
        fontsize=TEXT_PT,
    )


def linear(axes: Axes, palette: Palette, *, which: str, write: Callable[[float], str] = "{:g}".format) -> None:
    """Give an axis a few round numbers and hairlines."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: write(value)))
    axis.grid(visible=True, color=palette.key("grid"), linewidth=0.7)


def logarithmic(
    axes: Axes,
    palette: Palette,
    values: Sequence[float],
    *,
    which: str,
    decades_only: bool = False,
    write: Callable[[float], str] = "{:g}".format,
) -> None:
    """Make an axis logarithmic, wide enough for `values` (> 0) and never less than a factor of five.

    The wider it is, the fewer steps of a decade have a tick.
    """
    low, high = min(values) / 1.15, max(values) * 1.15
    widen = max(1.0, 5.0 / (high / low)) ** 0.5
    span = high / low
    ticks = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if span < 6.0 else (1.0, 2.0, 5.0) if span < 150.0 else (1.0,)
    axis = axes.xaxis if which == "x" else axes.yaxis
    if which == "x":
        axes.set_xscale("log")
        axes.set_xlim(low / widen, high * widen)
    else:
        axes.set_yscale("log")
        axes.set_ylim(low / widen, high * widen)
    axis.set_major_locator(LogLocator(subs=(1.0,) if decades_only else ticks, numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: write(value)))
    axis.set_minor_formatter(NullFormatter())
    axis.grid(visible=True, color=palette.key("grid"), linewidth=0.7)


def label_ends(axes: Axes, labels: Sequence[EndLabel]) -> None:
    """Write names beside the ends of lines, moved apart so that none covers another. Set the limits before."""
    height_pt = axes.get_window_extent().height * 72.0 / axes.figure.dpi
    to_axes = axes.transData + axes.transAxes.inverted()
    wanted = [float(to_axes.transform((0.0 if axes.get_xscale() == "linear" else 1.0, one.y))[1]) for one in labels]
    order = sorted(range(len(labels)), key=lambda index: wanted[index])
    places = spread([wanted[index] * height_pt for index in order], LABEL_GAP_PT, height_pt + LABEL_GAP_PT / 2.0)
    for index, place in zip(order, places, strict=True):
        axes.annotate(
            labels[index].text,
            xy=(1.0, place / height_pt),
            xytext=(5.0, 0.0),
            xycoords="axes fraction",
            textcoords="offset points",
            color=labels[index].colour,
            fontsize=TEXT_PT,
            verticalalignment="center",
            annotation_clip=False,
        )


def spread(places: Sequence[float], gap: float, top: float) -> list[float]:
    """Move ascending `places` apart by at least `gap`, as little as possible, within [0, top] if there is room."""
    clusters: list[list[float]] = []  # neighbours that touch, each as the place of its lowest member
    for index, place in enumerate(places):
        clusters.append([place - gap * index])
        while len(clusters) > 1 and fmean(clusters[-2]) > fmean(clusters[-1]):
            last = clusters.pop()
            clusters[-1] += last
    ceiling = max(0.0, top - gap * (len(places) - 1))
    lowest = [min(max(fmean(cluster), 0.0), ceiling) for cluster in clusters for _ in cluster]
    return [low + gap * index for index, low in enumerate(lowest)]


def rows(axes: Axes, names: Sequence[tuple[str, str]], gaps: Sequence[int]) -> list[float]:
    """Name the rows of a chart, from the top; return their y.

    Args:
        axes: where.
        names: name and colour of each row.
        gaps: rows before which there is some distance, to set groups apart.
    """
    places = [index + 0.6 * sum(gap <= index for gap in gaps) for index in range(len(names))]
    axes.set_ylim(places[-1] + 0.7, -0.7)
    axes.set_yticks(places, [short(name) for name, _ in names])
    for text, (_, colour) in zip(axes.get_yticklabels(), names, strict=True):
        text.set_color(colour)
    return places


def row_value(axes: Axes, y: float, text: str, palette: Palette) -> None:
    """Write a row's value at the right edge."""
    axes.annotate(
        text,
        xy=(1.0, y),
        xytext=(6.0, 0.0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        color=palette.key("ink"),
        fontsize=TEXT_PT,
        verticalalignment="center",
        annotation_clip=False,
    )


def rows_height_pt(count: int, gaps: int) -> float:
    """Return the height of a chart of so many rows."""
    return 49.0 + ROW_PT * (count + 0.6 * gaps + 0.4)


def short(name: str) -> str:
    """Return a name that fits beside a plot; tables show it whole."""
    return name if len(name) <= NAME_LETTERS_MAX else name[: NAME_LETTERS_MAX - 1] + "…"
