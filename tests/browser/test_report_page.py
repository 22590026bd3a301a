"""The report in a real browser: readable on a phone and a desktop, in the light and in the dark, without scripts.

Skipped, and said so, where there is no playwright or no Chromium on the machine; nothing is downloaded.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from testbed import report, run_record

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
RECORDED_RUN = Path(__file__).parents[1] / "testbed" / "recorded_run"
PHONE, DESKTOP = (360, 800), (1280, 900)
LETTERS_PX_MIN = 9.0  # below this a label in a plot cannot be read


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next((found for name in CHROMIUM_NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no Chromium on this machine: none of {', '.join(CHROMIUM_NAMES)} is on the path")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    report.write(run_record.read(RECORDED_RUN), folder)
    return (folder / "report.html").as_uri()


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[PHONE, DESKTOP], ids=["phone", "desktop"])
def page(request: pytest.FixtureRequest, browser: "Browser", address: str, scheme: str) -> "Iterator[Page]":
    width, height = request.param
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        java_script_enabled=True,  # for the test's own questions; the page has none, and its policy allows none
    )
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    yield page
    context.close()
    assert complaints == []
    assert requests == [address]


def test_the_page_fits_the_screen(page: "Page") -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_every_plot_has_a_size_and_letters_that_can_be_read(page: "Page") -> None:
    letters = page.evaluate(
        """[...document.querySelectorAll('svg.plot')].map(svg => {
            const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
            return [...svg.querySelectorAll('text')].map(text => scale * parseFloat(getComputedStyle(text).fontSize));
        })"""
    )
    assert len(letters) == 8
    for sizes in letters:
        assert len(sizes) > 5
        assert min(sizes) >= LETTERS_PX_MIN


def test_no_text_is_cut_off_by_the_edge_of_its_plot(page: "Page") -> None:
    cut = page.evaluate(
        """[...document.querySelectorAll('svg.plot')].flatMap(svg => {
            const edge = svg.getBoundingClientRect();
            return [...svg.querySelectorAll('text')].filter(text => {
                const box = text.getBoundingClientRect();
                return box.left < edge.left - 1 || box.right > edge.right + 1
                    || box.top < edge.top - 1 || box.bottom > edge.bottom + 1;
            }).map(text => text.textContent);
        })"""
    )
    assert cut == []


def test_labels_do_not_cover_one_another(page: "Page") -> None:
    """Letters' boxes include the room above and below them: a third of their height may overlap."""
    covered = page.evaluate(
        """[...document.querySelectorAll('svg.plot')].flatMap(svg => {
            const texts = [...svg.querySelectorAll('text')]
                .map(text => [text.textContent, text.getBoundingClientRect()]);
            return texts.flatMap(([name, a], index) => texts.slice(index + 1).filter(([_, b]) =>
                Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
                && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > a.height / 3
            ).map(([other, _]) => name + ' / ' + other));
        })"""
    )
    assert covered == []


def test_the_page_follows_the_readers_light_or_dark(page: "Page", scheme: str) -> None:
    ground, ink, line = page.evaluate(
        """[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,
            getComputedStyle(document.querySelector('svg.plot text')).fill]"""
    )

    def brightness(colour: str) -> float:
        return sum(float(part) for part in colour[4:-1].split(",")) / 3.0

    if scheme == "dark":
        assert brightness(ground) < 60.0
        assert min(brightness(ink), brightness(line)) > 130.0
    else:
        assert brightness(ground) > 230.0
        assert max(brightness(ink), brightness(line)) < 150.0


def test_wide_tables_scroll_by_themselves(page: "Page") -> None:
    assert page.evaluate(
        """[...document.querySelectorAll('.scroll')]
            .every(one => one.getBoundingClientRect().right <= window.innerWidth)"""
    )


def test_without_scripts_nothing_is_missing(browser: "Browser", address: str) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 360, "height": 800})
    page = context.new_page()
    page.goto(address)
    assert page.locator("svg.plot").count() == 8
    assert page.locator("li.tile").count() == len(run_record.read(RECORDED_RUN).verdicts)
    versions = page.locator("details", has_text="Versions").get_by_text("onnxruntime")
    assert not versions.is_visible()
    page.get_by_text("Versions", exact=True).first.click()
    assert versions.is_visible()
    context.close()
