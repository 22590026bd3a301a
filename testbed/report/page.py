"""`report.html`: a run as one page that needs nothing but itself, no network and no script.

Everything that the record says is escaped. The same record gives the same page.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from testbed import whole_file
from testbed.report import world
from testbed.report.frame import FILE_NAME, framed
from testbed.report.markup import details, dot, escape, flat, pairs, table
from testbed.report.palette import Palette
from testbed.report.quantities import MISSING, TIMES, duration, number, percent, reached, size, times
from testbed.report.summary import Summary
from testbed.report.verdicts import tiles
from testbed.run_record import FailureRecord, RunRecord


def write(record: RunRecord, summary: Summary, folder: Path) -> Path:
    """Store the page as `folder/report.html`, written beside and renamed; return the path."""
    return whole_file.write(folder / FILE_NAME, page(record, summary).encode())


def page(record: RunRecord, summary: Summary) -> str:
    """Return the page."""
    palette = Palette({region.name: region.devices for region in record.world.regions})
    return framed(
        "page.html",
        {
            "failure": _failure(summary.failure) if summary.failure else "",
            "verdicts": tiles(summary.verdicts),
            "plots": "\n".join(_figures(record, summary, palette)),
            "tables": "\n".join((_regions(summary, palette), _devices(summary, palette), _traffic(summary))),
        },
        palette,
        scenario=summary.scenario,
        description=record.description,
        badge=_badge(summary),
        lead=_lead(summary),
        command=summary.command,
        setup=_setup(summary) + _links(record),
        versions=summary.versions,
        files="everything that was recorded: record.json",
    )


def _badge(summary: Summary) -> tuple[str, str]:
    missed = sum(not verdict.holds for verdict in summary.verdicts)
    if summary.failure is not None:
        return "✗ the run failed", "bad"
    if not summary.verdicts:
        return "no goals were set", "muted"
    if missed:
        return f"✗ {missed} of {len(summary.verdicts)} goals missed", "bad"
    return f"✓ all {len(summary.verdicts)} goals held", "good"


def _lead(summary: Summary) -> str:
    evaluated = [region for region in summary.regions if region.regional_loss is not None]
    up = summary.traffic.up
    sentences = [f"{duration(summary.elapsed_s)} of training, {summary.ended}."]
    if evaluated:
        what = "On held-out rows" if evaluated[0].regional_accuracy is None else "Accuracy on held-out rows"
        regions = (f"{one.name} {reached(one.regional_accuracy, one.regional_loss)}" for one in evaluated)
        best = summary.central
        central = "" if best is None else f"; trained in one place: {reached(best.accuracy, best.loss)}"
        sentences.append(f"{what}: {', '.join(regions)}{central}.")
    if up.frame_bytes:
        sentences.append(f"The devices sent {size(up.frame_bytes)} where dense float32 is {size(up.dense_bytes)}.")
    # a number keeps its unit on its line
    return re.sub(r"(?<=\d) (?=%|s\b|[kMGT]?B\b)", "\N{NO-BREAK SPACE}", " ".join(sentences))


def _failure(failure: FailureRecord) -> str:
    who = f"<strong>{escape(failure.process)}</strong>: " if failure.process else ""
    tail = "\n".join(escape(line) for line in failure.log_tail)
    log = f"<pre><code>{tail}</code></pre>" if tail else ""
    return f'<section class="card failure"><h2>Why it failed</h2><p>{who}{escape(failure.reason)}</p>{log}</section>'


def _figures(record: RunRecord, summary: Summary, palette: Palette) -> Iterator[str]:
    from testbed.report.plots import PLOTS, Material  # matplotlib: only when a page is made

    material = Material(record, summary, palette)
    figures = [_figure(plot.title, svg, plot.caption) for plot in PLOTS if (svg := plot.svg(material)) is not None]
    drawing = _figure(
        "The world",
        world.draw(record.world, palette),
        "Squares: coordinators. Dots: devices. Every link with its latency one way and its bandwidth, emulated by"
        f" {record.world.shaping}.",
    )
    yield from [*figures[:1], drawing, *figures[1:]]


def _figure(title: str, svg: str, caption: str) -> str:
    return f"<figure><h3>{escape(title)}</h3>\n{svg}\n<figcaption>{escape(caption)}</figcaption></figure>"


def _regions(summary: Summary, palette: Palette) -> str:
    head = (
        "region", "coordinator", "devices", "updates", "merges", "version", "age",
        "accuracy, regional", "federated", "points below central",
    )  # fmt: skip
    rows = [
        (
            dot(palette.groups[region.name].css) + escape(region.name),
            escape(region.coordinator),
            number(region.devices),
            number(region.updates),
            number(region.merges),
            number(region.version),
            number(region.age),
            reached(region.regional_accuracy, region.regional_loss),
            reached(region.federated_accuracy, region.federated_loss),
            MISSING if region.points_below_central is None else f"{region.points_below_central:.2f}",
        )
        for region in summary.regions
    ]
    return table("Regions, at the end of the run", head, rows, words=2)


def _devices(summary: Summary, palette: Palette) -> str:
    head = (
        "device", "region", "type", "share of a core", "examples", "updates", "local steps", "steps per update",
        "steps per second", f"steps {TIMES}", f"speed {TIMES}", "staleness, median", "idle", "sent", "received",
        "memory", "last error",
    )  # fmt: skip
    rows = [
        (
            dot(palette.members[device.name].css) + escape(device.name),
            escape(device.region),
            escape(device.profile),
            percent(device.duty_cycle),
            number(device.examples),
            number(device.updates),
            number(device.steps),
            number(device.steps_per_update),
            number(device.steps_per_s),
            times(device.steps_ratio),
            times(device.speed_ratio),
            number(device.staleness.median) if device.staleness else MISSING,
            percent(device.idle_share, 2),
            size(device.sent_bytes),
            size(device.received_bytes),
            size(device.resident_bytes),
            escape(device.last_error or MISSING),
        )
        for device in summary.devices
    ]
    return table(f"Devices, over the whole run; {TIMES} is to the slowest device of the region", head, rows, words=3)


def _traffic(summary: Summary) -> str:
    head = ("direction", "messages", "vectors", "everything sent", "dense float32", "times smaller")
    rows = [
        (
            escape(name),
            number(one.messages),
            MISSING if one.payload_bytes is None else size(one.payload_bytes),
            size(one.frame_bytes),
            size(one.dense_bytes),
            times(one.saving) if one.frame_bytes else MISSING,
        )
        for name, one in (
            ("devices up", summary.traffic.up),
            ("devices down", summary.traffic.down),
            ("between peers", summary.traffic.peers),
        )
    ]
    return table("Traffic; the saving counts everything sent", head, rows)


def _setup(summary: Summary) -> str:
    facts = {
        "scenario": summary.scenario,
        "recipe": summary.recipe,
        "seed": summary.seed,
        "task": summary.task,
        "bundle sha256": summary.bundle_sha256,
        "parameters": number(summary.parameters),
        "held-out rows": number(summary.held_out_examples),
        "started": datetime.fromtimestamp(summary.started_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
    }
    if summary.central:
        facts["central model"] = f"{summary.central.epochs:g} epochs over {number(summary.central.examples)} rows"
    return (
        table("The run", ("what", "value"), [(escape(key), escape(value)) for key, value in facts.items()], words=2)
        + details("Versions", table("Versions", ("part", "version"), pairs(summary.versions), words=2))
        + details("Stages of the recipe", table("Stages", ("key", "value"), pairs(flat(summary.stages)), words=2))
    )


def _links(record: RunRecord) -> str:
    rows = [(escape(link.a), escape(link.b), escape(world.describe(link, link.a))) for link in record.world.links]
    return details("Links", table("Links; ↑ is from the first to the second", ("from", "to", "link"), rows, words=3))
