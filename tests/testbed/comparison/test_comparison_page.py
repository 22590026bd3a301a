"""report.html of a comparison: complete, self-contained, escaped, and there at every stage of a comparison."""

import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser

import msgspec
import numpy as np
import pytest

from testbed.comparison import summary
from testbed.comparison.command import curves_of
from testbed.comparison.crew import State
from testbed.comparison.plan import Plan, RunKey
from testbed.comparison.run_spec import CurvePoint, RunResult, RunSpec
from testbed.comparison.scenario import Comparison
from testbed.comparison.worker import Failed
from testbed.report import comparison_page, comparison_world
from testbed.report.band import over_bytes, over_time

PlanOf = Callable[..., Plan]
Simulated = Callable[[RunSpec], RunResult]
VOID = {"meta", "br", "hr", "img", "input", "link"}
HOSTILE = "</text></svg><script>alert('$x')</script>\x1b[31m\x00\"&"
PLOTS = 6  # with the drawing of the world


class Outline(HTMLParser):
    """Checks that elements are closed in order, and gathers what the page consists of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.addresses: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            assert not name.startswith("on")
            if name == "id":
                self.ids[value or ""] += 1
            if name in {"src", "href", "xlink:href"}:
                self.addresses.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


def page(state: State) -> str:
    told = summary.summarise(state, command="skerry-lab run small --seed 1", versions={"skerry": "0.1.0"})
    return comparison_page.page(told, curves_of(state))


def test_every_world_has_its_plots_its_table_its_grids_and_its_settings(state_of: Callable[..., State]) -> None:
    worlds = [{"name": "near"}, {"name": "far", "distance": 3.0, "description": "three times as far"}]
    outline = Outline(page(state_of(worlds=worlds, per_class=True)))
    assert outline.tags["svg"] == 2 * PLOTS
    words = outline.words
    for told in (
        "✓ all 10 runs finished", "World: near", "World: far", "three times as far", "300 ms", "Time to targets",
        "to 50 %, s", "✓ chosen", "arrival.server_rate = 0.3", "one, in north", "Accuracy of each class at the end",
        "skerry-lab run small --seed 1", "builtin:activity?part={part}&parts={parts}", "plain-1", "uplink.density",
        "80 % was training and evaluating", "north: 2 devices",
    ):  # fmt: skip
        assert told in words, told


def test_the_page_needs_nothing_but_itself(state_of: Callable[..., State]) -> None:
    text = page(state_of(worlds=[{"name": "near"}, {"name": "far"}]))
    outline = Outline(text)
    assert not outline.tags.keys() & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert all(address.startswith("#") for address in outline.addresses)
    assert max(outline.ids.values()) == 1
    assert {address[1:] for address in outline.addresses} <= outline.ids.keys()
    assert page(state_of(worlds=[{"name": "near"}, {"name": "far"}])) == text


def test_every_colour_in_a_plot_is_the_style_sheets(state_of: Callable[..., State]) -> None:
    text = page(state_of())
    plots = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert set(re.findall(r"#[0-9a-f]{6}\b", plots)) == set()
    sheet = text[: text.index("</style>")]
    assert all(f"{variable}:#" in sheet for variable in re.findall(r"var\((--[\w-]+)\)", plots))


def test_a_comparison_that_has_not_begun_still_has_a_page(plan_of: PlanOf) -> None:
    outline = Outline(page(State(plan_of(), {})))
    assert outline.tags["svg"] == 1  # the world
    assert "0 of 5 runs so far" in outline.words


def test_a_failure_is_told_first(plan_of: PlanOf) -> None:
    failed = Failed(reason="the rows do not fit", traceback="line 7 <of> it")
    words = Outline(page(State(plan_of(), {}, {RunKey("near", "plain", "", 1): failed}))).words
    assert "✗ 1 runs failed" in words
    assert words.index("near, plain, seed 1 : the rows do not fit line 7 <of> it") < words.index("at a glance")


def test_a_target_that_nobody_reaches_is_said(state_of: Callable[..., State]) -> None:
    words = Outline(page(state_of(duration_s=1.0, targets=[0.99]))).words
    assert "not reached" in words


def test_a_loss_is_written_as_a_number(state_of: Callable[..., State]) -> None:
    words = Outline(page(state_of(metric="loss", targets=[0.5]))).words
    assert "loss on held-out rows" in words
    assert "to loss 0.5, s" in words
    assert "accuracy on held-out rows" not in words


def test_text_stays_text(state_of: Callable[..., State]) -> None:
    state = state_of(description=HOSTILE, notes=HOSTILE)
    told = summary.summarise(state, command=HOSTILE, versions={HOSTILE: HOSTILE})
    text = comparison_page.page(told, curves_of(state))
    outline = Outline(text)
    assert outline.tags["script"] == 0
    assert not any(ord(letter) < 0x20 and letter not in "\n\t" for letter in text)
    assert "<script>alert('$x')</script>␛[31m␀\"&" in outline.words


def test_more_arms_than_hues_are_told_apart_by_their_dashes(state_of: Callable[..., State]) -> None:
    arms = [{"name": f"arm-{number}"} for number in range(10)]
    state = state_of(arms=arms, seeds=[1])
    regional = re.findall(r"<svg.*?</svg>", page(state), re.DOTALL)[0]
    assert regional.count("stroke-dasharray") >= 2 + 2  # targets and the two arms


@pytest.mark.parametrize("regions", [1, 2, 3, 4, 9])
def test_a_world_is_drawn_with_all_its_regions(make: Callable[..., Comparison], regions: int) -> None:
    names = [f"region-{number}" for number in range(regions)]
    latency = [[0 if one == other else 10 * (one + other) for other in range(regions)] for one in range(regions)]
    base = {
        "name": "w", "regions": names, "latency_ms": latency, "devices": 50 * regions,
        "task": {"data": "", "held_out": ""},
    }  # fmt: skip
    world = make(world=base).worlds[0]
    outline = Outline(comparison_world.draw(world))
    assert all(f"{name}: 50 devices" in outline.words for name in names)
    assert outline.tags["circle"] == 32 * regions
    if 1 < regions <= 6:
        assert all(f"{10 * (one + other)} ms" in outline.words for one in range(regions) for other in range(one))


def test_a_world_is_told_in_words(make: Callable[..., Comparison]) -> None:
    base = make().worlds[0]
    replace = msgspec.structs.replace
    assert "2 devices a region, 10 ms one way" in comparison_world.describe(base)
    speed = replace(base.speed, multipliers=(0.5, 2.0), steps=5)
    told = comparison_world.describe(replace(base, speed=speed, device_mbit_per_s=8.0, server_mbit_per_s=100.0))
    assert "10 ms one way, 8 Mbit/s from their coordinator, which has 100 Mbit/s" in told
    assert "5 local steps take 150 ms, deviation 7.5 ms, times 0.5 / 2 in turn" in told


def point(at_s: float, value: float | None, sent: int = 0) -> CurvePoint:
    return CurvePoint(
        at_s=at_s, regional_accuracy=value, regional_loss=None, federated_accuracy=None, federated_loss=None, updates=0,
        bytes_up=sent, bytes_down=sent, bytes_peers=0,
    )  # fmt: skip


def test_a_band_is_the_median_and_the_ends_and_goes_on_after_an_early_end() -> None:
    curves = [
        [point(0.0, 0.0), point(2.0, 0.5)],
        [point(0.0, 0.0), point(4.0, 0.9)],
        [point(0.0, 0.2), point(4.0, 0.4)],
    ]
    band = over_time(curves, "accuracy", "regional")
    assert band is not None
    assert (band.x[0], band.x[-1]) == (0.0, 4.0)
    assert (band.low[0], band.median[0], band.high[0]) == (0.0, 0.0, 0.2)
    assert (band.low[-1], band.median[-1], band.high[-1]) == (0.4, 0.5, 0.9)


def test_over_bytes_a_band_goes_as_far_as_every_run() -> None:
    curves = [
        [point(0.0, 0.0), point(1.0, 0.5, 50), point(2.0, 0.9, 5000)], [point(1.0, 0.1, 100), point(2.0, 0.3, 500)]
    ]  # fmt: skip
    band = over_bytes(curves, "accuracy", "regional")
    assert band is not None
    assert (band.x[0], band.x[-1]) == (pytest.approx(200.0), pytest.approx(1000.0))
    assert np.all(np.diff(np.log(band.x)) > 0)
    assert band.high[0] == pytest.approx(0.5 + 0.4 * (200 - 100) / (10_000 - 100))


def test_nothing_is_no_band() -> None:
    assert over_time([[point(0.0, None)]], "accuracy", "regional") is None
    assert over_bytes([[point(0.0, 0.5)]], "accuracy", "regional") is None
    assert over_time([], "loss", "federated") is None
