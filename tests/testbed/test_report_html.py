"""report.html: complete, self-contained, escaped, the same for the same record."""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from testbed import report, run_record
from testbed.report import page
from testbed.report.quantities import MISSING
from testbed.report.summary import summarise
from testbed.run_record import FailureRecord, RegionRecord, RunRecord, Verdict

RECORDED_RUN = Path(__file__).parent / "recorded_run"
HOSTILE = "</text></svg><script>alert('$x')</script>\x1b[31m\x00\"&"
VOID = {"meta", "br", "hr", "img", "input", "link"}


@pytest.fixture(scope="module")
def recorded() -> RunRecord:
    """A run of two regions with three devices each."""
    return run_record.read(RECORDED_RUN)


@pytest.fixture(scope="module")
def recorded_page(recorded: RunRecord) -> str:
    return page.page(recorded, summarise(recorded))


class Outline(HTMLParser):
    """Checks that elements are closed in order, and gathers what the page consists of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def shown(text: str) -> str:
    return re.sub(r"\s+", " ", " ".join(Outline(text).text))


def test_the_folder_gets_both_files(recorded: RunRecord, tmp_path: Path) -> None:
    report.write(recorded, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "summary.json"]
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_the_same_record_gives_the_same_page(recorded: RunRecord, recorded_page: str) -> None:
    assert page.page(recorded, summarise(recorded)) == recorded_page


def test_the_page_needs_nothing_but_itself(recorded_page: str) -> None:
    outline = Outline(recorded_page)
    assert not outline.tags.keys() & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    for tag, name, value in outline.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in {"src", "href", "xlink:href"}:
            assert value.startswith("#"), (tag, name, value)
    for address in re.findall(r"url\(([^)]*)\)|@import", recorded_page):
        assert address.startswith("#")


def test_ids_are_unique_and_references_lead_to_them(recorded_page: str) -> None:
    outline = Outline(recorded_page)
    ids = Counter(value for _, name, value in outline.attributes if name == "id")
    assert max(ids.values()) == 1
    references = re.findall(r'xlink:href="#([^"]*)"|url\(#([^)]*)\)', recorded_page)
    assert references
    assert {one or other for one, other in references} <= ids.keys()


def test_every_plot_the_world_and_every_name_are_there(recorded: RunRecord, recorded_page: str) -> None:
    outline = Outline(recorded_page)
    assert outline.tags["svg"] == 8
    text = shown(recorded_page)
    for name in (*(one.name for one in recorded.devices), *(one.name for one in recorded.regions)):
        assert text.count(name) >= 3, name
    assert recorded.central is not None
    assert recorded.central.accuracy is not None
    central = f"central {100.0 * recorded.central.accuracy:.1f}"
    for words in ("accuracy on held-out rows (%)", "time since the start (s)", central, "40 ms", "10 Mbit/s"):
        assert words in text
    for words in (recorded.command, recorded.model.bundle_sha256, "onnxruntime", "uplink.density"):
        assert words in text


def test_a_task_without_accuracy_has_a_plot_of_its_losses(
    recorded_page: str, without_accuracy: Callable[..., RunRecord]
) -> None:
    record = without_accuracy()
    told = shown(page.page(record, summarise(record)))
    lead = "On held-out rows: north loss 0.5; trained in one place: loss 0.25."
    for words in (lead, "loss on held-out rows", "central 0.25"):
        assert words in told
    for words in ("accuracy on held-out rows", "Accuracy on held-out rows", "Accuracy over time"):
        assert words not in told
    assert "loss on held-out rows" not in shown(recorded_page)


def test_every_colour_in_a_plot_is_the_style_sheets(recorded_page: str) -> None:
    plots = "".join(re.findall(r"<svg.*?</svg>", recorded_page, re.DOTALL))
    assert set(re.findall(r"#[0-9a-f]{6}\b", plots)) == set()
    sheet = recorded_page[: recorded_page.index("</style>")]
    assert all(f"{variable}:#" in sheet for variable in re.findall(r"var\((--[\w-]+)\)", plots))


def test_missed_goals_come_first_and_in_words(recorded: RunRecord) -> None:
    missed = Verdict(
        goal="idle_share_max", subject="paris-pi", statement="it waited", measured=0.081, bound=0.05, unit="share",
        holds=False,
    )  # fmt: skip
    unmeasured = msgspec.structs.replace(missed, goal="next_goal_min", measured=None, unit="peers")
    held = [one for one in recorded.verdicts if one.holds]
    record = msgspec.structs.replace(recorded, verdicts=(*held, missed, unmeasured))
    text = page.page(record, summarise(record))
    tiles = re.findall(r'<li class="tile (\w+)">', text)
    assert tiles == ["bad", "bad"] + ["good"] * len(held)
    words = shown(text)
    assert f"✗ 2 of {len(tiles)} goals missed" in words
    assert "✗ missed paris-pi Idle share, largest 8.1 % goal: at most 5.0 % it waited" in words
    assert f"next goal min {MISSING} goal: at least 0.05 peers" in words


def test_a_failure_is_told_first_with_the_end_of_the_log(recorded: RunRecord) -> None:
    failure = FailureRecord(process="paris-1", reason="ended with 3", log_tail=("one", "the disk is full <sdb1>"))
    record = msgspec.structs.replace(recorded, ended="failed", failure=failure, verdicts=())
    words = shown(page.page(record, summarise(record)))
    assert "✗ the run failed" in words
    assert words.index("ended with 3") < words.index("the disk is full <sdb1>") < words.index("What happened")


def test_a_run_that_never_got_going_still_has_a_page(recorded: RunRecord) -> None:
    """Every process died before the first update: no evaluation, no update, no byte, no central model."""
    nothing = run_record.Traffic(messages=0, payload_bytes=None, frame_bytes=0, dense_bytes=0)
    record = msgspec.structs.replace(
        recorded,
        central=None,
        elapsed_s=0.0,
        regions=tuple(msgspec.structs.replace(one, evaluations=(), merges=(), age=0.0) for one in recorded.regions),
        devices=tuple(
            msgspec.structs.replace(
                one, updates=(), steps=0, cycles=0, uptime_s=0.0, training_s=0.0, idle_s=0.0, idle_share=0.0,
                sent_bytes=0, received_bytes=0,
            )
            for one in recorded.devices
        ),
        traffic=run_record.TrafficRecord(up=nothing, down=nothing, peers=nothing),
        verdicts=(),
    )  # fmt: skip
    text = page.page(record, summarise(record))
    assert Outline(text).tags["svg"] == 1  # the world
    assert "no goals were set" in shown(text)


def test_a_run_without_idle_time_and_staleness_is_drawn(record: Callable[..., RunRecord]) -> None:
    whole = record()
    devices = tuple(
        msgspec.structs.replace(
            one,
            idle_s=0.0,
            idle_share=0.0,
            updates=tuple(msgspec.structs.replace(update, staleness=0.0) for update in one.updates),
        )
        for one in whole.devices
    )
    changed = msgspec.structs.replace(whole, devices=devices)
    assert "Nobody waits" in shown(page.page(changed, summarise(changed)))


def renamed(record: RunRecord, name: str) -> RunRecord:
    """Put `name` into every text of the record that a person or a process can choose."""
    first = record.world.devices[0].name
    text = msgspec.json.encode(record).decode()
    quoted = msgspec.json.encode(name).decode()
    for old in (first, record.regions[0].name, record.regions[0].coordinator, record.world.devices[0].profile):
        text = text.replace(f'"{old}"', quoted)
    changed = msgspec.json.decode(text.encode(), type=RunRecord)
    verdicts = tuple(msgspec.structs.replace(one, statement=name, subject=name) for one in changed.verdicts)
    return msgspec.structs.replace(
        changed,
        scenario=name,
        description=name,
        recipe=name,
        command=name,
        versions={name: name},
        stages={name: {"rule": name}},
        verdicts=verdicts,
        failure=FailureRecord(process=name, reason=name, log_tail=(name,)),
        devices=tuple(msgspec.structs.replace(one, last_error=name) for one in changed.devices),
    )


def test_text_from_the_record_stays_text(recorded: RunRecord) -> None:
    hostile = renamed(recorded, HOSTILE)
    text = page.page(hostile, summarise(hostile))
    outline = Outline(text)
    assert outline.tags["script"] == 0
    assert outline.tags["svg"] == 8
    assert not any(ord(letter) < 0x20 and letter not in "\n\t" for letter in text)
    assert "<script>alert('$x')</script>␛[31m␀\"&" in shown(text)


def test_four_regions_draw_every_link(recorded: RunRecord) -> None:
    names = [f"region-{index}" for index in range(4)]
    regions = tuple(
        run_record.RegionWorld(name=name, coordinator=f"{name}-1", devices=recorded.world.regions[0].devices[:1])
        for name in names
    )
    links = tuple(
        run_record.LinkRecord(
            a=f"{a}-1", b=f"{b}-1", latency_s=0.1 + 0.01 * names.index(a) + 0.001 * names.index(b),
            a_to_b_bits_per_s=None, b_to_a_bits_per_s=None,
        )
        for a in names
        for b in names
        if a < b
    )  # fmt: skip
    world = msgspec.structs.replace(recorded.world, regions=regions, links=links)
    bare = tuple(
        RegionRecord(name=one.name, coordinator=one.coordinator, version=0, age=0.0, evaluations=(), merges=())
        for one in regions
    )
    first = msgspec.structs.replace(recorded.devices[0], region="region-0")
    record = msgspec.structs.replace(recorded, world=world, regions=bare, devices=(first,))
    words = shown(page.page(record, summarise(record)))
    for link in links:
        assert f"{link.latency_s * 1e3:.3g} ms" in words


@pytest.mark.parametrize("module", ["testbed.report", "testbed.report.live"])
def test_importing_the_report_is_cheap(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'matplotlib', 'rich'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
