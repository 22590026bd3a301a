"""The plots of a report: each shows one thing, or is left out where a run has nothing to show for it."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from testbed.report import canvas
from testbed.report.canvas import EndLabel
from testbed.report.palette import Palette
from testbed.report.quantities import TIMES, percent, size, times
from testbed.report.summary import DeviceSummary, Summary
from testbed.run_record import DeviceRecord, EvaluationPoint, RunRecord, UpdatePoint

POINTS_PER_LINE_MAX = 240
NAMES_PT = 88.0
LINE_HEIGHT_PT = 200.0


@dataclass(frozen=True)
class Material:
    """What a plot is made from."""

    record: RunRecord
    summary: Summary
    palette: Palette

    def bound(self, goal: str) -> float | None:
        """Return the bound of a goal of the run, None if that was no goal."""
        return next((verdict.bound for verdict in self.record.verdicts if verdict.goal == goal), None)

    def device_rows(self) -> tuple[list[DeviceSummary], list[tuple[str, str]], list[int]]:
        """Return the devices by region, their names with colours, and the rows at which a region begins."""
        order = {region.name: index for index, region in enumerate(self.record.world.regions)}
        devices = sorted(self.summary.devices, key=lambda device: order[device.region])
        gaps = [index for index in range(1, len(devices)) if devices[index].region != devices[index - 1].region]
        return devices, [(device.name, self.palette.members[device.name].key) for device in devices], gaps


@dataclass(frozen=True)
class Plot:
    """One plot: its heading, how to read it, and how it is drawn; None if there is nothing to draw."""

    name: str
    title: str
    caption: str
    draw: Callable[[Material], Figure | None]

    def svg(self, material: Material) -> str | None:
        """Return the `<svg>` element, or None."""
        return canvas.render(lambda: self.draw(material), self.name, self.title, material.palette)


def accuracy(material: Material) -> Figure | None:
    """Accuracy of each region's models on the held-out rows over time, beside the central model's."""
    best = material.record.central
    central = None if best is None or best.accuracy is None else 100.0 * best.accuracy
    bound = material.bound("points_below_central_max")
    return _evaluations(
        material,
        "accuracy on held-out rows (%)",
        lambda point: None if point.accuracy is None else 100.0 * point.accuracy,
        _percent_limits,
        "{:.1f}",
        central,
        None if central is None or bound is None else central - bound,
    )


def loss(material: Material) -> Figure | None:
    """Loss of each region's models on the held-out rows over time, where the task has no accuracy."""
    record = material.record
    if any(point.accuracy is not None for region in record.regions for point in region.evaluations):
        return None
    central = None if record.central is None else record.central.loss
    return _evaluations(material, "loss on held-out rows", lambda point: point.loss, _loss_limits, "{:.3g}", central)


def local_steps(material: Material) -> Figure | None:
    """Local steps of each update over time."""
    return _device_lines(material, "local steps per update", lambda update: float(update.steps), stairs=True)


def speed(material: Material) -> Figure | None:
    """Speed of each device over time, as it measured itself."""
    return _device_lines(material, "steps per second", lambda update: 1.0 / update.seconds_per_step, stairs=False)


def ratios(material: Material) -> Figure | None:
    """Local steps against speed, both as multiples of the slowest device of the region."""
    devices, names, gaps = material.device_rows()
    known = [device for device in devices if device.steps_ratio and device.speed_ratio]
    if not known:
        return None
    palette = material.palette
    figure, axes = canvas.axes_of(
        canvas.rows_height_pt(len(names), len(gaps)),
        palette,
        left_pt=NAMES_PT,
        right_pt=44.0,
        x_label="multiple of the slowest device in the region",
    )
    places = canvas.rows(axes, names, gaps)
    error = material.bound("steps_to_speed_error_max") or 0.0
    values = [ratio for device in known for ratio in (device.steps_ratio, device.speed_ratio) if ratio]
    canvas.logarithmic(
        axes,
        palette,
        [min(values) / (1.0 + error), max(values) * (1.0 + error)],
        which="x",
        write=lambda x: f"{x:g}{TIMES}",
    )
    for device, y in zip(devices, places, strict=True):
        if not (device.steps_ratio and device.speed_ratio):
            continue
        colour = palette.members[device.name].key
        low, high = device.speed_ratio / (1.0 + error), device.speed_ratio * (1.0 + error)
        axes.plot([low, high], [y, y], color=colour, linewidth=7.0, alpha=0.22, solid_capstyle="butt")
        axes.plot([device.speed_ratio] * 2, [y - 0.26, y + 0.26], color=colour, linewidth=1.6, solid_capstyle="butt")
        axes.plot([device.steps_ratio], [y], "o", color=colour, markersize=5.5, markeredgewidth=0.0)
        canvas.row_value(axes, y, times(device.steps_ratio), palette)
    return figure


def staleness(material: Material) -> Figure | None:
    """How stale the updates of each device were when they arrived."""
    devices, names, gaps = material.device_rows()
    if not any(device.staleness for device in devices):
        return None
    palette = material.palette
    figure, axes = canvas.axes_of(
        canvas.rows_height_pt(len(names), len(gaps)),
        palette,
        left_pt=NAMES_PT,
        right_pt=44.0,
        x_label="staleness at arrival (age of the region's model)",
    )
    places = canvas.rows(axes, names, gaps)
    top = max(device.staleness.max for device in devices if device.staleness)
    axes.set_xlim(-0.02 * top, 1.04 * top or 1.0)
    canvas.linear(axes, palette, which="x")
    for device, y in zip(devices, places, strict=True):
        if (one := device.staleness) is None:
            continue
        colour = palette.members[device.name].key
        axes.plot([one.p5, one.p95], [y, y], color=colour, linewidth=1.2, solid_capstyle="butt")
        axes.plot([one.p25, one.p75], [y, y], color=colour, linewidth=7.0, alpha=0.45, solid_capstyle="butt")
        axes.plot([one.median] * 2, [y - 0.26, y + 0.26], color=colour, linewidth=2.0, solid_capstyle="butt")
        axes.plot([one.max], [y], "|", color=colour, markersize=5.0, markeredgewidth=1.0)
        canvas.row_value(axes, y, f"{one.median:.3g}", palette)
    return figure


def idle(material: Material) -> Figure | None:
    """Share of its time that each device had nothing to train on."""
    devices, names, gaps = material.device_rows()
    if not any(device.uptime_s > 0.0 for device in devices):
        return None
    palette = material.palette
    figure, axes = canvas.axes_of(
        canvas.rows_height_pt(len(names), len(gaps)),
        palette,
        left_pt=NAMES_PT,
        right_pt=44.0,
        x_label="idle share of the time (%)",
    )
    places = canvas.rows(axes, names, gaps)
    bound = material.bound("idle_share_max")
    top = max([device.idle_share for device in devices] + ([bound] if bound else []))
    axes.set_xlim(0.0, 112.0 * top or 1.0)
    canvas.linear(axes, palette, which="x")
    for device, y in zip(devices, places, strict=True):
        colour = palette.members[device.name].key
        axes.barh(y, 100.0 * device.idle_share, height=0.55, color=colour)
        canvas.row_value(axes, y, percent(device.idle_share), palette)
    if bound is not None:
        axes.axvline(100.0 * bound, color=palette.key("bad"), linewidth=1.2)
        axes.annotate(
            "goal: below",
            xy=(100.0 * bound, 1.0),
            xytext=(0.0, 4.0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            color=palette.key("bad"),
            fontsize=canvas.TEXT_PT,
            horizontalalignment="right",
        )
    return figure


def traffic(material: Material) -> Figure | None:
    """Bytes in each direction against dense float32."""
    summary, palette = material.summary, material.palette
    directions = [
        (name, one)
        for name, one in (
            ("devices up", summary.traffic.up),
            ("devices down", summary.traffic.down),
            ("between peers", summary.traffic.peers),
        )
        if one.frame_bytes > 0 and one.dense_bytes > 0
    ]
    if not directions:
        return None
    figure, axes = canvas.axes_of(
        49.0 + 46.0 * len(directions), palette, left_pt=77.0, right_pt=82.0, x_label="bytes, logarithmic"
    )
    axes.set_ylim(len(directions) - 0.45, -0.55)
    axes.set_yticks(range(len(directions)), [name for name, _ in directions], color=palette.key("ink"))
    values = [float(value) for _, one in directions for value in (one.frame_bytes, one.dense_bytes)]
    low = 10.0 ** math.floor(math.log10(min(values) / 2.0))
    canvas.logarithmic(axes, palette, [low * 1.15, max(values)], which="x", decades_only=True, write=size)
    axes.set_xlim(left=low)
    for y, (_, one) in enumerate(directions):
        for value, offset, role, word in (
            (one.dense_bytes, -0.18, "dense", "dense"),
            (one.frame_bytes, 0.18, "ink", "sent"),
        ):
            axes.barh(y + offset, value - low, left=low, height=0.32, color=palette.key(role))
            axes.annotate(
                f"{word} {size(value)}",
                xy=(value, y + offset),
                xytext=(4.0, 0.0),
                textcoords="offset points",
                color=palette.key("ink" if role == "ink" else "muted"),
                fontsize=canvas.TEXT_PT,
                verticalalignment="center",
                annotation_clip=False,
            )
    return figure


PLOTS = (
    Plot(
        "accuracy",
        "Accuracy over time",
        "Solid: a region's own model. Dashed: the federated model as that region holds it. Dotted: the same model"
        " trained in one place on everybody's rows. Green: within the goal.",
        accuracy,
    ),
    Plot(
        "loss",
        "Loss over time",
        "Solid: a region's own model. Dashed: the federated model as that region holds it. Dotted: the same model"
        " trained in one place on everybody's rows, at its best.",
        loss,
    ),
    Plot(
        "ratios",
        "Local steps follow speed",
        "Tick: speed, steps per second of training. Dot: local steps of a typical update. Band: how far the goal lets"
        " them differ. The figure is that of the steps.",
        ratios,
    ),
    Plot(
        "idle",
        "Nobody waits",
        "Share of a device's time in which it had nothing to train on.",
        idle,
    ),
    Plot(
        "steps",
        "Local steps over time",
        "How many steps each device took for each of its updates.",
        local_steps,
    ),
    Plot(
        "speed",
        "Speed over time",
        "As each device measured itself when it made an update.",
        speed,
    ),
    Plot(
        "traffic",
        "Bytes sent, against dense float32",
        "Everything that went over the wire, envelopes and heartbeats included, beside what the same messages would"
        " have taken as plain float32 vectors.",
        traffic,
    ),
    Plot(
        "staleness",
        "Staleness of updates",
        "By how much the region's model had aged since the update's base. Tick and figure: median; band: the middle"
        " half; line: 5 % to 95 %; end mark: the most stale.",
        staleness,
    ),
)


def _device_lines(
    material: Material, title: str, value: Callable[[UpdatePoint], float], *, stairs: bool
) -> Figure | None:
    record, palette = material.record, material.palette
    devices = [device for device in record.devices if device.updates]
    if not devices:
        return None
    scale, unit = _time_unit(record.elapsed_s)
    figure, axes = canvas.axes_of(
        LINE_HEIGHT_PT, palette, left_pt=30.0, right_pt=96.0, x_label=f"time since the start ({unit})"
    )
    lines = {device.name: _thinned(device) for device in devices}
    canvas.logarithmic(axes, palette, [value(one) for line in lines.values() for one in line], which="y")
    axes.set_xlim(0.0, max(record.elapsed_s, *(line[-1].at_s for line in lines.values())) / scale)
    canvas.linear(axes, palette, which="x")
    canvas.y_title(axes, title, palette)
    labels: list[EndLabel] = []
    for name, line in lines.items():
        colour = palette.members[name].key
        ys = [value(one) for one in line]
        axes.plot(
            [one.at_s / scale for one in line],
            ys,
            color=colour,
            linewidth=1.5,
            drawstyle="steps-post" if stairs else "default",
        )
        labels.append(EndLabel(ys[-1], canvas.short(name), colour))
    if len(labels) <= canvas.END_LABELS_MAX:
        canvas.label_ends(axes, labels)
    return figure


def _thinned(device: DeviceRecord) -> Sequence[UpdatePoint]:
    """Return every k-th update and the last: a line needs no more points than it has pixels."""
    every = math.ceil(len(device.updates) / POINTS_PER_LINE_MAX)
    kept = device.updates[::every]
    return kept if kept[-1] is device.updates[-1] else (*kept, device.updates[-1])


def _time_unit(elapsed_s: float) -> tuple[float, str]:
    if elapsed_s < 300.0:
        return 1.0, "s"
    return (60.0, "min") if elapsed_s < 4.0 * 3600.0 else (3600.0, "h")


def _evaluations(
    material: Material,
    title: str,
    value: Callable[[EvaluationPoint], float | None],
    limits: Callable[[Sequence[float]], tuple[float, float]],
    form: str,
    central: float | None,
    goal: float | None = None,
) -> Figure | None:
    """Draw a value of each region's models over time beside the central model's; from there to `goal` it is green."""
    record, palette = material.record, material.palette
    points = [(point.at_s, y) for region in record.regions for point, y in _valued(region.evaluations, value)]
    if not points:
        return None
    scale, unit = _time_unit(record.elapsed_s)
    figure, axes = canvas.axes_of(
        LINE_HEIGHT_PT + 20.0, palette, left_pt=30.0, right_pt=96.0, x_label=f"time since the start ({unit})"
    )
    axes.set_ylim(*limits([y for _, y in points] + ([] if central is None else [central])))
    axes.set_xlim(0.0, max(record.elapsed_s, *(at_s for at_s, _ in points)) / scale)
    canvas.linear(axes, palette, which="x")
    canvas.linear(axes, palette, which="y")
    canvas.y_title(axes, title, palette)
    labels: list[EndLabel] = []
    if central is not None:
        axes.axhline(central, color=palette.key("ink"), linewidth=1.1, linestyle=(0, (1, 1.6)))
        labels.append(EndLabel(central, f"central {form.format(central)}", palette.key("ink")))
        if goal is not None:
            axes.axhspan(goal, central, color=palette.key("good"), alpha=0.10, linewidth=0.0)
    for region in record.regions:
        colour = palette.groups[region.name].key
        for kind, style, width in (("federated", (0, (4, 2)), 1.2), ("regional", "-", 1.8)):
            line = _valued((point for point in region.evaluations if point.kind == kind), value)
            if not line:
                continue
            ys = [y for _, y in line]
            axes.plot([point.at_s / scale for point, _ in line], ys, color=colour, linewidth=width, linestyle=style)
            if kind == "regional" or len(record.regions) <= 3:
                name = canvas.short(region.name) if kind == "regional" else f"{canvas.short(region.name)} fed."
                labels.append(EndLabel(ys[-1], f"{name} {form.format(ys[-1])}", colour))
    canvas.label_ends(axes, labels)
    return figure


def _valued(
    points: Iterable[EvaluationPoint], value: Callable[[EvaluationPoint], float | None]
) -> list[tuple[EvaluationPoint, float]]:
    return [(point, y) for point in points if (y := value(point)) is not None]


def _percent_limits(percents: Sequence[float]) -> tuple[float, float]:
    """Return limits in percent that show the end well: the steep beginning may enter from below."""
    early = sorted(percents)[len(percents) // 8]
    low = max(0.0, math.floor((early - 8.0) / 10.0) * 10.0)
    high = min(100.0, math.ceil((max(percents) + 1.0) / 5.0) * 5.0)
    return low, max(high, low + 5.0)


def _loss_limits(losses: Sequence[float]) -> tuple[float, float]:
    """Return limits from zero that show the end well: the steep beginning may enter from above."""
    early = sorted(losses, reverse=True)[len(losses) // 8]
    return 0.0, 1.25 * early if early > 0.0 else 1.0
