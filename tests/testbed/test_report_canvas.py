"""Plots become SVG that fits into a page; labels do not collide."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from testbed.report import canvas
from testbed.report.palette import Palette

GAP = 10.0


@given(st.lists(st.floats(-50.0, 250.0), max_size=12).map(sorted))
def test_spread_labels_keep_their_order_and_distance(places: list[float]) -> None:
    moved = canvas.spread(places, GAP, 200.0)
    assert len(moved) == len(places)
    assert all(above - below >= GAP - 1e-6 for below, above in pairwise(moved))
    assert all(-1e-6 <= place <= 200.0 + 1e-6 for place in moved)


@given(st.lists(st.integers(0, 15), unique=True, max_size=12).map(sorted))
def test_labels_that_have_room_stay_where_they_are(places: list[int]) -> None:
    wanted = [place * GAP * 1.01 for place in places]
    assert canvas.spread(wanted, GAP, 200.0) == pytest.approx(wanted)


def test_two_labels_in_one_place_move_apart_evenly() -> None:
    assert canvas.spread([100.0, 100.0], GAP, 200.0) == [95.0, 105.0]


def test_more_labels_than_there_is_room_for_still_keep_their_distance() -> None:
    assert canvas.spread([1.0] * 5, GAP, 20.0) == [0.0, 10.0, 20.0, 30.0, 40.0]


@pytest.fixture
def palette() -> Palette:
    return Palette({"north": ["fast", "slow"]})


def plot(palette: Palette, name: str = "one", text: str = "named") -> str:
    def draw() -> Figure:
        figure, axes = canvas.axes_of(120.0, palette, left_pt=30.0, right_pt=60.0, x_label=text)
        axes.plot([0.0, 1.0], [0.0, 1.0], color=palette.key("ink"))
        canvas.linear(axes, palette, which="x")
        canvas.linear(axes, palette, which="y")
        canvas.label_ends(axes, [canvas.EndLabel(1.0, text, palette.key("good"))])
        return figure

    svg = canvas.render(draw, name, f"What {text} shows", palette)
    assert svg is not None
    return svg


def test_the_same_plot_is_the_same_text(palette: Palette) -> None:
    assert plot(palette) == plot(palette)


def test_ids_belong_to_the_plot(palette: Palette) -> None:
    svg = plot(palette, name="speed")
    assert all(one.startswith("speed-") for one in re.findall(r' id="([^"]*)"', svg))
    named = set(re.findall(r' id="([^"]*)"', svg))
    assert set(re.findall(r'(?:href="|url\()#([^")]*)', svg)) <= named


def test_an_svg_says_nothing_about_the_page_around_it(palette: Palette) -> None:
    svg = plot(palette)
    assert svg.startswith("<svg ")
    assert "<style" not in svg
    assert "<metadata" not in svg
    assert "font-family" not in svg
    assert " width=" not in svg[: svg.index(">")]  # the page decides how large it is


def test_colours_are_left_to_the_style_sheet(palette: Palette) -> None:
    svg = plot(palette)
    assert "var(--ink)" in svg
    assert "#fe" not in svg


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "a -->", '"onload="x', "$x^2$ & co", "]]>"])
def test_text_stays_text(palette: Palette, text: str) -> None:
    svg = plot(palette, text=text)
    assert "<script" not in svg
    assert 'onload="x"' not in svg
    assert re.sub(r"&lt;|&gt;|&amp;|&quot;|&#x27;", "", svg).count("&") == 0
    if text.startswith("$"):
        assert "$x^2$ &amp; co" in svg


def test_nothing_drawn_is_nothing_rendered(palette: Palette) -> None:
    assert canvas.render(lambda: None, "one", "nothing", palette) is None


def test_a_narrow_logarithmic_axis_still_has_ticks(palette: Palette) -> None:
    figure, axes = canvas.axes_of(120.0, palette, left_pt=30.0, right_pt=60.0, x_label="")
    canvas.logarithmic(axes, palette, [61.0, 61.5], which="y")
    figure.draw_without_rendering()
    low, high = axes.get_ylim()
    assert sum(low <= tick <= high for tick in axes.get_yticks()) >= 3
    assert low < 61.0
    assert high > 61.5


def test_long_names_are_shortened() -> None:
    assert canvas.short("paris-jetson") == "paris-jetson"
    assert canvas.short("x" * 60) == "x" * (canvas.NAME_LETTERS_MAX - 1) + "…"


@pytest.mark.parametrize("top", [3.0, 30.0, 300.0, 3_000.0, 300_000.0])
def test_a_logarithmic_axis_has_few_round_ticks_however_wide_it_is(palette: Palette, top: float) -> None:
    figure, axes = canvas.axes_of(200.0, palette, left_pt=30.0, right_pt=60.0, x_label="")
    canvas.logarithmic(axes, palette, [1.0, top], which="y")
    figure.draw_without_rendering()
    low, high = axes.get_ylim()
    assert 3 <= sum(low <= tick <= high for tick in axes.get_yticks()) <= 9
