"""`report.html` of a comparison: every world with its curves, its table and its grids, on one page that needs nothing.

Everything that a summary says is escaped. The same summary and curves give the same page.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from testbed import whole_file
from testbed.comparison.run_spec import CurvePoint
from testbed.comparison.summary import ArmSummary, ComparisonSummary, Spread, WorldSummary
from testbed.report import comparison_world
from testbed.report.frame import FILE_NAME, framed
from testbed.report.markup import details, dot, escape, flat, pairs, table
from testbed.report.palette import Palette
from testbed.report.quantities import MISSING, TIMES, duration, number, percent, size

Curves = Mapping[str, Mapping[str, Sequence[Sequence[CurvePoint]]]]  # of each world and arm, one for each seed
REACHED_NOT = "not reached"


def write(summary: ComparisonSummary, curves: Curves, folder: Path) -> Path:
    """Store the page as `folder/report.html`, written beside and renamed; return the path."""
    return whole_file.write(folder / FILE_NAME, page(summary, curves).encode())


def page(summary: ComparisonSummary, curves: Curves) -> str:
    """Return the page."""
    palette = Palette({arm.name: () for arm in summary.worlds[0].arms})
    worlds = (_world(summary, world, curves.get(world.world.name, {}), palette) for world in summary.worlds)
    return framed(
        "comparison.html",
        {"failures": _failures(summary), "overview": _overview(summary, palette), "worlds": "\n".join(worlds)},
        palette,
        scenario=summary.scenario,
        description=summary.description,
        notes=summary.notes,
        badge=_badge(summary),
        lead=_lead(summary),
        command=summary.command,
        setup=_setup(summary),
        versions=summary.versions,
        files="every run with its curve: runs/",
    )


def _badge(summary: ComparisonSummary) -> tuple[str, str]:
    done, total = summary.runs_finished, summary.runs_total
    if summary.failures:
        return f"✗ {len(summary.failures)} runs failed", "bad"
    if done < total:
        return f"{done} of {total} runs so far", "muted"
    return f"✓ all {total} runs finished", "good"


def _lead(summary: ComparisonSummary) -> str:
    seeds = f"{len(summary.seeds)} seeds" if len(summary.seeds) > 1 else "one seed"
    share = summary.training_wall_share
    training = "" if share is None else f", of which {percent(share, 0)} was training and evaluating"
    return (
        f"{len(summary.worlds[0].arms)} arms in {len(summary.worlds)} worlds, {seeds} each, in virtual time. Figures"
        f" are medians over seeds. A target counts as reached when the mean over {number(summary.hold_s)} s holds it."
        f" All runs together took {duration(summary.wall_s)} of one core{training}."
    )


def _failures(summary: ComparisonSummary) -> str:
    if not summary.failures:
        return ""
    items = "".join(
        f"<p><strong>{escape(one.run)}</strong>: {escape(one.reason)}</p>"
        + (f"<pre><code>{escape(one.traceback)}</code></pre>" if one.traceback else "")
        for one in summary.failures
    )
    return f'<section class="card failure"><h2>What failed</h2>{items}</section>'


def _overview(summary: ComparisonSummary, palette: Palette) -> str:
    """Return one row for each world and arm: the judged model's times, their ratios, the end, the bytes."""
    judged, hardest = summary.judged, summary.targets[-1] if summary.targets else None
    head = ["world", "arm", *(f"to {_target(summary, one)}, s" for one in summary.targets)]
    head += [f"{TIMES} {summary.reference}"] if hardest is not None else []
    head += [f"{judged}, final", "federated, final" if judged == "regional" else "regional, final", "bytes"]
    other = "federated" if judged == "regional" else "regional"
    rows = []
    for world in summary.worlds:
        for arm in world.arms:
            cells = [escape(world.world.name), dot(palette.groups[arm.name].css) + escape(arm.name)]
            cells += [_time(arm.over_seeds.get(f"{judged}_s_to_{one:g}")) for one in summary.targets]
            if hardest is not None:
                cells.append(_ratio(arm.ratios.get(f"{judged}_s_to_{hardest:g}")))
            cells += [_metric(summary, arm.over_seeds.get(f"{model}_final")) for model in (judged, other)]
            cells.append(_bytes(arm))
            rows.append(cells)
    caption = f"Time to targets of the {judged} model, and what was reached and sent by the end"
    return table(caption, head, rows, words=2)


def _world(
    summary: ComparisonSummary,
    world: WorldSummary,
    curves: Mapping[str, Sequence[Sequence[CurvePoint]]],
    palette: Palette,
) -> str:
    description = f'<p class="muted">{escape(world.world.description)}</p>' if world.world.description else ""
    figures = "\n".join(_figures(summary, world, curves, palette))
    return (
        f"<section><h2>World: {escape(world.world.name)}</h2>{description}"
        f'<div class="plots">\n{figures}\n</div>\n<h3>The numbers</h3>\n'
        + "\n".join((_times(summary, world, palette), _work(summary, world, palette)))
        + _per_class(world, palette)
        + _grids(summary, world)
        + _settings(world)
        + "</section>"
    )


def _figures(
    summary: ComparisonSummary,
    world: WorldSummary,
    curves: Mapping[str, Sequence[Sequence[CurvePoint]]],
    palette: Palette,
) -> Iterator[str]:
    from testbed.report.comparison_plots import PLOTS, Material  # matplotlib: only when a page is made

    material = Material(
        name=world.world.name,
        metric=summary.metric,
        judged=summary.judged,
        targets=summary.targets,
        arms=world.arms,
        curves=curves,
        palette=palette,
    )
    for plot in PLOTS:
        svg = plot.svg(material)
        if svg is not None:
            yield _figure(plot.title, svg, plot.caption)
    yield _figure("The world", comparison_world.draw(world.world), comparison_world.describe(world.world))


def _figure(title: str, svg: str, caption: str) -> str:
    return f"<figure><h3>{escape(title)}</h3>\n{svg}\n<figcaption>{escape(caption)}</figcaption></figure>"


def _times(summary: ComparisonSummary, world: WorldSummary, palette: Palette) -> str:
    head = ["arm", "model"]
    for target in summary.targets:
        head += [f"to {_target(summary, target)}, s", f"{TIMES} {summary.reference}", "bytes until then"]
    head += ["final", "best"]
    rows = []
    for arm in world.arms:
        for model in ("regional", "federated"):
            cells = [_name(arm, palette), model]
            for target in summary.targets:
                cells.append(_range(arm.over_seeds.get(f"{model}_s_to_{target:g}")))
                cells.append(_ratio(arm.ratios.get(f"{model}_s_to_{target:g}")))
                sent = arm.over_seeds.get(f"{model}_bytes_to_{target:g}")
                cells.append(MISSING if sent is None or sent.median is None else size(sent.median))
            cells += [_metric(summary, arm.over_seeds.get(f"{model}_{which}")) for which in ("final", "best")]
            rows.append(cells)
    return table("Median over seeds, and in brackets the lowest and the highest", head, rows, words=2)


def _work(summary: ComparisonSummary, world: WorldSummary, palette: Palette) -> str:
    head = (
        "arm", "servers", "updates", "rejected", "staleness, mean", "99 %", "bytes up", "down", "between servers",
        "devices idle", "servers idle", "virtual time", "wall time of a run",
    )  # fmt: skip
    rows = []
    for arm in world.arms:
        medians = {name: one.median for name, one in arm.over_seeds.items()}
        place = f"one, in {arm.home}" if arm.home else f"{len(world.world.regions)}, one a region"
        rows.append(
            [
                _name(arm, palette),
                escape(place),
                number(medians.get("updates")),
                number(medians.get("updates_rejected")),
                number(medians.get("staleness_mean")),
                number(medians.get("staleness_p99")),
                *(_size(medians.get(name)) for name in ("bytes_up", "bytes_down", "bytes_peers")),
                *(percent(medians.get(name)) for name in ("idle_devices", "idle_servers")),
                *(_duration(medians.get(name)) for name in ("elapsed_s", "wall_s")),
            ]
        )
    return table("By the end of a run, medians over seeds", head, rows, words=2)


def _per_class(world: WorldSummary, palette: Palette) -> str:
    known = [(arm, run) for arm in world.arms for run in arm.runs if run.per_class is not None]
    if not known:
        return ""
    classes = max(len(run.per_class or ()) for _, run in known)
    rows = [
        [_name(arm, palette), number(run.seed), *(percent(one) for one in run.per_class or ())] for arm, run in known
    ]
    head = ["arm", "seed", *(str(one) for one in range(classes))]
    return details("Accuracy of each class at the end", table("Accuracy of each class at the end", head, rows))


def _grids(summary: ComparisonSummary, world: WorldSummary) -> str:
    rows = []
    for arm in world.arms:
        for one in arm.grid:
            values = one.values or {}
            where = ", ".join(f"{key} = {value}" for key, value in one.point.items())
            times = [values.get(f"{summary.judged}_s_to_{target:g}") for target in summary.targets]
            rows.append(
                [
                    escape(arm.name),
                    escape(where),
                    "✓ chosen" if one.chosen else "",
                    *(REACHED_NOT if at_s is None else number(at_s) for at_s in times),
                    _value(summary, values.get(f"{summary.judged}_final")),
                ]
            )
    if not rows:
        return ""
    head = ["arm", "tried", "", *(f"to {_target(summary, one)}, s" for one in summary.targets), "final"]
    caption = f"What was tried for each arm, on seed {summary.seeds[0]}; the {summary.judged} model decides"
    return details("Grids of tuning", table(caption, head, rows, words=3))


def _settings(world: WorldSummary) -> str:
    task = world.world.task
    facts = {
        "task": task.bundle,
        "parameters": number(world.parameters),
        "held-out rows": number(world.held_out_examples),
        "data of each device": task.data,
        "held out": task.held_out,
        "batch": "as the bundle says" if task.batch_examples is None else number(task.batch_examples),
        **{
            f"latency {one} to {other}": f"{1e3 * world.world.latency_s(one, other):.4g} ms"
            for one, other in _pairs(world)
        },
    }
    stages = "".join(
        table(f"Recipe of {arm.name}, {arm.recipe}", ("key", "value"), pairs(flat(arm.stages)), words=2)
        for arm in world.arms
        if arm.stages is not None
    )
    return details("Task and links", table("Task and links", ("what", "value"), pairs(facts), words=2)) + details(
        "Recipes as they were used", stages
    )


def _pairs(world: WorldSummary) -> Iterator[tuple[str, str]]:
    regions = world.world.regions
    return ((one, other) for index, one in enumerate(regions) for other in regions[index + 1 :])


def _setup(summary: ComparisonSummary) -> str:
    facts = {"scenario": summary.scenario, "seeds": ", ".join(map(str, summary.seeds)), "reference": summary.reference}
    digests = [
        (escape(world.world.name), escape(arm.name), number(run.seed), escape(run.digest[:16]), escape(run.ended))
        for world in summary.worlds
        for arm in world.arms
        for run in arm.runs
    ]
    return (
        table("The comparison", ("what", "value"), pairs(facts), words=2)
        + details("Versions", table("Versions", ("part", "version"), pairs(summary.versions), words=2))
        + details(
            "Digests of runs",
            table(
                "The same seed gives the same digest of every message and every model",
                ("world", "arm", "seed", "digest", "ended"),
                digests,
                words=5,
            ),
        )
    )


def _name(arm: ArmSummary, palette: Palette) -> str:
    return dot(palette.groups[arm.name].css) + escape(arm.name)


def _target(summary: ComparisonSummary, target: float) -> str:
    return f"{100.0 * target:g} %" if summary.metric == "accuracy" else f"loss {target:g}"


def _time(one: Spread | None) -> str:
    return MISSING if one is None else REACHED_NOT if one.median is None else number(one.median)


def _range(one: Spread | None) -> str:
    if one is None or one.measured == 0:
        return MISSING if one is None else REACHED_NOT
    high = "never" if one.high is None else number(one.high)
    return f"{REACHED_NOT if one.median is None else number(one.median)} ({number(one.low)} to {high})"


def _ratio(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def _metric(summary: ComparisonSummary, one: Spread | None) -> str:
    if one is None or one.median is None:
        return MISSING
    ends = f" ({_value(summary, one.low)} to {_value(summary, one.high)})" if one.measured > 1 else ""
    return _value(summary, one.median) + ends


def _value(summary: ComparisonSummary, value: float | None) -> str:
    if summary.metric == "accuracy":
        return percent(value)
    return number(value)


def _bytes(arm: ArmSummary) -> str:
    medians = [arm.over_seeds[name].median for name in ("bytes_up", "bytes_down", "bytes_peers") if arm.runs]
    return size(sum(one for one in medians if one is not None)) if medians else MISSING


def _size(value: float | None) -> str:
    return MISSING if value is None else size(value)


def _duration(value: float | None) -> str:
    return MISSING if value is None else duration(value)
