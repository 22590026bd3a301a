"""The plots of a comparison: each shows one thing in one world, or is left out where there is nothing to show."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from testbed.comparison.run_spec import CurvePoint
from testbed.comparison.scenario import Metric, ModelKind
from testbed.comparison.summary import ArmSummary, Spread
from testbed.report import canvas
from testbed.report.band import Band, over_bytes, over_time
from testbed.report.canvas import EndLabel
from testbed.report.palette import Palette
from testbed.report.quantities import number, size

NAMES_PT = 96.0
LABELS_PT = 104.0
VALUES_PT = 66.0
LINE_HEIGHT_PT = 230.0
Curves = Mapping[str, Sequence[Sequence[CurvePoint]]]  # of each arm, one for each seed
# Arms that share a hue differ in their dashes.
DASHES: tuple[tuple[float, tuple[float, ...]], ...] = ((0.0, ()), (0.0, (5.0, 1.5)), (0.0, (1.5, 1.2)))
MARKERS = ("o", "D", "s", "^", "v", "P", "X", "*")


@dataclass(frozen=True)
class Material:
    """What the plots of one world are made from."""

    name: str  # of the world: plots of other worlds have other ids
    metric: Metric
    judged: ModelKind
    targets: Sequence[float]  # from the easiest to the hardest
    arms: Sequence[ArmSummary]
    curves: Curves
    palette: Palette

    def dashes(self, arm: str) -> tuple[float, tuple[float, ...]]:
        """Return how an arm's line is drawn."""
        hues = 8
        return DASHES[list(self.palette.groups).index(arm) // hues % len(DASHES)]


@dataclass(frozen=True)
class Plot:
    """One plot: its heading, how to read it, and how it is drawn; None if there is nothing to draw."""

    name: str
    title: str
    caption: str
    draw: Callable[[Material], Figure | None]

    def svg(self, material: Material) -> str | None:
        """Return the `<svg>` element, or None."""
        return canvas.render(
            lambda: self.draw(material),
            f"{material.name}-{self.name}",
            f"{self.title}, {material.name}",
            material.palette,
        )


def regional_over_time(material: Material) -> Figure | None:
    """Draw the mean of the regional models over virtual time."""
    return _lines(material, "regional", over_time, "virtual time (s)")


def federated_over_time(material: Material) -> Figure | None:
    """Draw the federated model over virtual time."""
    return _lines(material, "federated", over_time, "virtual time (s)")


def judged_over_bytes(material: Material) -> Figure | None:
    """Draw the judged model over everything that was sent."""
    return _lines(material, material.judged, over_bytes, "bytes sent, in all directions, logarithmic")


def times(material: Material) -> Figure | None:
    """Draw when each arm reached each target."""
    rows = [
        (arm, [(target, arm.over_seeds.get(f"{material.judged}_s_to_{target:g}")) for target in material.targets])
        for arm in material.arms
        if arm.runs
    ]
    known = [
        value for _, spreads in rows for _, one in spreads if one for value in (one.low, one.median, one.high) if value
    ]
    if not known:
        return None
    palette = material.palette
    figure, axes = canvas.axes_of(
        canvas.rows_height_pt(len(rows), 0),
        palette,
        left_pt=NAMES_PT,
        right_pt=VALUES_PT,
        x_label="virtual time (s), logarithmic",
    )
    names = [(arm.name, palette.groups[arm.name].key) for arm, _ in rows]
    places = canvas.rows(axes, names, [])
    canvas.logarithmic(axes, palette, known, which="x")
    for (arm, spreads), y in zip(rows, places, strict=True):
        colour = palette.groups[arm.name].key
        for index, (_, one) in enumerate(spreads):
            if one is not None:
                _spread(axes, one, y, colour, MARKERS[index % len(MARKERS)])
        _reached_at(axes, y, spreads[-1][1], palette)
    return figure


def traffic(material: Material) -> Figure | None:
    """Draw what each arm sent in each direction."""
    arms = [arm for arm in material.arms if arm.runs]
    directions = (("bytes_up", 1.0), ("bytes_down", 0.6), ("bytes_peers", 0.3))
    medians = {arm.name: [(arm.over_seeds[name].median or 0.0, alpha) for name, alpha in directions] for arm in arms}
    known = [value for parts in medians.values() for value, _ in parts if value > 0.0]
    if not known:
        return None
    palette = material.palette
    figure, axes = canvas.axes_of(
        canvas.rows_height_pt(len(arms), 0) * 1.35,
        palette,
        left_pt=NAMES_PT,
        right_pt=VALUES_PT,
        x_label="bytes, logarithmic",
    )
    places = canvas.rows(axes, [(arm.name, palette.groups[arm.name].key) for arm in arms], [])
    low = 10.0 ** math.floor(math.log10(min(known) / 2.0))
    canvas.logarithmic(axes, palette, [low * 1.15, max(known)], which="x", decades_only=True, write=size)
    axes.set_xlim(left=low)
    for arm, y in zip(arms, places, strict=True):
        for offset, (value, alpha) in zip((-0.26, 0.0, 0.26), medians[arm.name], strict=True):
            if value > 0.0:
                colour = palette.groups[arm.name].key
                axes.barh(y + offset, value - low, left=low, height=0.22, color=colour, alpha=alpha)
        canvas.row_value(axes, y, size(sum(value for value, _ in medians[arm.name])), palette)
    return figure


PLOTS = (
    Plot(
        "regional",
        "Regional models over time",
        "Mean over the regions' own models on held-out rows. Line: median over seeds; band: from the lowest to the"
        " highest. Dotted: targets. A run that ended early goes on with its last value.",
        regional_over_time,
    ),
    Plot(
        "federated",
        "Federated model over time",
        "Mean over the federated models that the regions hold: the age-weighted mean of a region's own model and what"
        " it last heard of its peers' ones.",
        federated_over_time,
    ),
    Plot(
        "bytes",
        "Over bytes",
        "Everything that was sent, envelopes included: from devices, to devices and between coordinators.",
        judged_over_bytes,
    ),
    Plot(
        "times",
        "Time to targets",
        "Mark: median over seeds; line: from the first to the last. The marks stand for the targets, from the easiest"
        " (circle) on; the figure is the median of the hardest.",
        times,
    ),
    Plot(
        "traffic",
        "Bytes sent by the end",
        "Strong: from devices; fainter: to devices; faintest: between coordinators. The figure is their sum.",
        traffic,
    ),
)


def _lines(
    material: Material,
    model: ModelKind,
    band_of: Callable[[Sequence[Sequence[CurvePoint]], Metric, ModelKind], Band | None],
    x_label: str,
) -> Figure | None:
    bands = {arm: band for arm, curves in material.curves.items() if (band := band_of(curves, material.metric, model))}
    if not bands:
        return None
    palette = material.palette
    figure, axes = canvas.axes_of(LINE_HEIGHT_PT, palette, left_pt=30.0, right_pt=LABELS_PT, x_label=x_label)
    scale = 100.0 if material.metric == "accuracy" else 1.0
    _limits(axes, material, bands, scale)
    if band_of is over_bytes:
        ends = [float(x) for band in bands.values() for x in (band.x[0], band.x[-1])]
        canvas.logarithmic(axes, palette, ends, which="x", write=size)
    else:
        axes.set_xlim(0.0, max(float(band.x[-1]) for band in bands.values()))
        canvas.linear(axes, palette, which="x")
    canvas.linear(axes, palette, which="y")
    unit = " (%)" if material.metric == "accuracy" else ""
    canvas.y_title(axes, f"{material.metric} on held-out rows{unit}", palette)
    for target in material.targets:
        axes.axhline(scale * target, color=palette.key("muted"), linewidth=0.9, linestyle=(0, (1, 1.6)))
    labels: list[EndLabel] = []
    for arm, band in bands.items():
        colour = palette.groups[arm].key
        axes.fill_between(band.x, scale * band.low, scale * band.high, color=colour, alpha=0.15, linewidth=0.0)
        axes.plot(band.x, scale * band.median, color=colour, linewidth=1.6, linestyle=material.dashes(arm))
        end = float(scale * band.median[-1])
        written = f"{end:.1f}" if material.metric == "accuracy" else f"{end:.3g}"
        labels.append(EndLabel(end, f"{canvas.short(arm)} {written}", colour))
    if len(labels) <= canvas.END_LABELS_MAX:
        canvas.label_ends(axes, labels)
    return figure


def _limits(axes: Axes, material: Material, bands: Mapping[str, Band], scale: float) -> None:
    values = [float(value) for band in bands.values() for value in scale * band.median]
    if material.metric == "accuracy":
        axes.set_ylim(0.0, min(100.0, math.ceil((max(values) + 1.0) / 5.0) * 5.0))
        return
    low, high = min(values), max(values)
    axes.set_ylim(low - 0.05 * (high - low or 1.0), high + 0.05 * (high - low or 1.0))


def _spread(axes: Axes, one: Spread, y: float, colour: str, marker: str) -> None:
    if one.low is not None:
        high = one.high if one.high is not None else axes.get_xlim()[1]
        axes.plot([one.low, high], [y, y], color=colour, linewidth=1.4, solid_capstyle="butt", alpha=0.6)
    if one.median is not None:
        axes.plot([one.median], [y], marker, color=colour, markersize=5.5, markeredgewidth=0.0)


def _reached_at(axes: Axes, y: float, one: Spread | None, palette: Palette) -> None:
    reached = "not reached" if one is None or one.median is None else f"{number(one.median)} s"
    canvas.row_value(axes, y, reached, palette)
