"""A whole comparison from its tables to its folder, with an analytic stand-in for the simulation."""

import io
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from skerry.errors import ConfigError, DataError
from testbed import scenario as scenarios
from testbed.cli import cli
from testbed.comparison import bundles, command, scenario_file, summary, table
from testbed.comparison.command import Wish
from testbed.comparison.plan import Plan
from testbed.report.quantities import MISSING

WORKER = (sys.executable, str(Path(__file__).with_name("analytic.py")))

pytestmark = pytest.mark.end_to_end


@pytest.fixture
def wish(tmp_path: Path, tables: Callable[..., dict[str, Any]]) -> Wish:
    whole = tables()
    whole["world"]["task"]["bundle"] = "builtin:activity"
    return Wish(
        tables=whole,
        origin="small.toml",
        scenario_folder=Path(),
        smoke=False,
        arms=(),
        seeds=(),
        folder=tmp_path / "out",
        results=tmp_path / "results",
        data_dir=None,
        jobs=2,
        command="skerry-lab run small",
    )


def changed(wish: Wish, **changes: Any) -> Wish:
    return Wish(**(wish.__dict__ | changes))


def test_a_comparison_leaves_its_summary_its_page_and_its_runs(wish: Wish) -> None:
    progress = io.StringIO()
    outcome = command.run(wish, progress, WORKER)
    assert outcome.complete
    assert wish.folder is not None
    assert {"summary.json", "report.html", "runs"} <= {path.name for path in wish.folder.iterdir()}
    assert summary.read(wish.folder) == outcome.summary
    lines = progress.getvalue().splitlines()
    assert lines[:2] == ["small: 5 runs, 2 at a time, seeds 1, 2", "repeat or go on with: skerry-lab run small"]
    assert sum(line.startswith("done   ") for line in lines) == 5
    assert lines[-1].startswith("5 of 5 runs")
    assert outcome.summary.versions["source"]


def test_it_goes_on_where_it_was(wish: Wish) -> None:
    command.run(changed(wish, arms=["plain"]), io.StringIO(), WORKER)
    progress = io.StringIO()
    outcome = command.run(wish, progress, WORKER)
    assert outcome.summary.runs_finished == 5
    assert "runs are finished from before" in progress.getvalue()
    assert sum(line.startswith("done   ") for line in progress.getvalue().splitlines()) == 3


def test_one_seed_and_the_smoke_form_can_be_asked_for(wish: Wish, tmp_path: Path) -> None:
    outcome = command.run(changed(wish, smoke=True, seeds=(7,), folder=None), io.StringIO(), WORKER)
    assert outcome.summary.seeds == (7,)
    assert outcome.folder == tmp_path / "results" / "small-smoke"
    assert outcome.summary.worlds[0].world.devices == 2


def test_a_failed_run_makes_it_incomplete(wish: Wish, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FAULTS", "plain=refused")
    progress = io.StringIO()
    outcome = command.run(wish, progress, WORKER)
    assert not outcome.complete
    assert [one.reason for one in outcome.summary.failures] == ["the rows do not fit"] * 2
    assert "FAILED near, plain, seed 1: the rows do not fit" in progress.getvalue()


class Interrupting(io.StringIO):
    """Presses Ctrl-C as soon as one run is finished."""

    def write(self, text: str) -> int:
        written = super().write(text)
        if text.startswith("done   ") and self.getvalue().count("done   ") == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return written


def test_ctrl_c_keeps_what_is_done_and_says_so(wish: Wish, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FAULTS", "plain=hangs")
    outcome = command.run(wish, Interrupting(), WORKER)
    assert (outcome.interrupted, outcome.complete) == (True, False)
    assert 1 <= outcome.summary.runs_finished < 5
    assert outcome.summary.failures == ()
    monkeypatch.setenv("FAKE_FAULTS", "")
    assert command.run(wish, io.StringIO(), WORKER).complete


def test_the_page_can_be_made_again_and_several_be_put_side_by_side(wish: Wish, tmp_path: Path) -> None:
    outcome = command.run(wish, io.StringIO(), WORKER)
    page = outcome.folder / "report.html"
    before = page.read_text()
    page.unlink()
    result = CliRunner().invoke(cli, ["report", str(outcome.folder)])
    assert result.exit_code == 0, result.output
    assert page.read_text() == before
    assert f"report: {page}" in result.output
    other = command.run(changed(wish, folder=tmp_path / "other", seeds=(3,)), io.StringIO(), WORKER)
    result = CliRunner().invoke(cli, ["compare", str(outcome.folder), str(other.folder)])
    *lines, note = result.output.splitlines()
    assert note == f"not alike: seeds: 1 2 in {outcome.folder}, 3 in {other.folder}"
    assert lines[0].split() == [
        "results", "world", "arm", "s", "to", "50", "%", "ratio", "s", "to", "90", "%", "ratio", "regional",
        "federated", "updates", "bytes", "a", "second",
    ]  # fmt: skip
    assert [line.split()[:3] for line in lines[1:]] == [
        [str(folder), "near", arm] for folder in (outcome.folder, other.folder) for arm in ("plain", "tuned")
    ]
    ratios = [float(line.split()[6]) for line in lines[1:]]
    assert ratios[0] == 1.0
    assert ratios[2] < 1.0  # a higher seed of the stand-in learns faster
    markdown = CliRunner().invoke(cli, ["compare", str(outcome.folder), "--markdown"]).output.splitlines()
    assert markdown[0].startswith("`skerry-lab run small`: seeds 1, 2; medians; ratios to `plain`; python 3.")
    assert markdown[2].startswith("| world | arm | s to 50 % | ratio |")
    assert markdown[3].startswith("| --- | --- | ---: | ---: |")
    assert [line.split(" | ")[1] for line in markdown[4:]] == ["plain", "tuned"]
    found = msgspec.json.decode(CliRunner().invoke(cli, ["compare", str(outcome.folder), "--json"]).output)
    assert [(row["source"], row["arm"]) for row in found["rows"]] == [("", "plain"), ("", "tuned")]


def test_a_folder_without_a_comparison_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["compare", str(tmp_path)])
    assert result.exit_code == 2
    assert "is" in result.output
    assert "the output of a comparison?" in result.output


@pytest.mark.parametrize(
    ("scenario", "options", "said"),
    [
        ("quickstart", ["--smoke"], "--smoke: means nothing for quickstart.toml, which is a scenario of processes"),
        ("quickstart", ["--arms", "a"], "--arms: means nothing"),
        ("quickstart", ["--jobs", "2"], "--jobs: means nothing"),
        ("small.toml", ["--recipe", "quick"], "--recipe: means nothing for small.toml, which is a comparison"),
        ("small.toml", ["--duration", "3"], "--duration: means nothing"),
        ("small.toml", ["--smoke"], "small.toml: has no table [smoke], so no smoke form"),
        ("small.toml", [], "small.toml: worlds[0]: Object missing required field `regions`"),
        ("spyker", [], "no scenario 'spyker'; there are "),
    ],
)
def test_what_cannot_be_run_is_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenario: str, options: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text('name = "small"\ndescription = ""\narms = [{ name = "a" }]\n')
    result = CliRunner().invoke(cli, ["run", scenario, *options])
    assert result.exit_code == 2, result.output
    assert said in result.output
    assert "Traceback" not in result.output


def test_a_bundle_that_is_missing_or_cannot_be_built_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    with pytest.raises(DataError, match=r"mine\.skerry"):
        bundles.places(["mine.skerry"], tmp_path, tmp_path, None, told.append)
    assert told == []
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(DataError, match="builtin:cifar10-cnn: its bundle is not shipped, and building it failed"):
        bundles.places(["builtin:cifar10-cnn"], tmp_path, tmp_path, None, told.append)
    assert told == [
        f"building builtin:cifar10-cnn once, which takes about a minute: {tmp_path}/bundles/cifar10-cnn.skerry"
    ]


def test_a_bundle_that_is_shipped_or_was_built_is_used(tmp_path: Path) -> None:
    shipped = (tmp_path / "bundles").joinpath("cifar10-cnn.skerry")
    shipped.parent.mkdir()
    activity = Path(scenarios.__file__).parents[1] / "skerry/tasks/activity/activity.skerry"
    shipped.write_bytes(activity.read_bytes())
    specs = ["builtin:activity", "builtin:cifar10-cnn", "builtin:activity"]
    places, digests = bundles.places(specs, tmp_path, tmp_path, tmp_path / "data", print)
    assert places["builtin:activity"].bundle == "builtin:activity"
    assert places["builtin:cifar10-cnn"].bundle == str(shipped.resolve())
    assert places["builtin:activity"].data_dir == str(tmp_path / "data")
    assert digests["builtin:activity"] == digests["builtin:cifar10-cnn"]


def test_every_packaged_comparison_is_complete_in_both_forms() -> None:
    for whole in command.packaged():
        tables, origin, _ = scenarios.tables_of(whole.name)
        small = scenario_file.comparison(tables, origin, smoke=True)
        assert small.name == whole.name
        for form in (whole, small):
            Plan.of(form, Path(), {world.task.bundle: "0" * 64 for world in form.worlds})


def test_a_table_marks_what_was_not_reached_and_what_is_not_there(wish: Wish) -> None:
    outcome = command.run(changed(wish, tables=wish.tables | {"duration_s": 2.0}), io.StringIO(), WORKER)
    lines = table.text([("", outcome.summary)]).splitlines()
    assert lines[1].split()[:6] == ["near", "plain", "2", "1.00", "never", MISSING]


@pytest.mark.parametrize(
    ("key", "source"), [("data", "builtin:mnist?part={part}&parts={parts}"), ("held_out", "npz:/nowhere/held_out.npz")]
)
def test_data_that_are_not_there_are_named_before_anything_runs(
    wish: Wish, tmp_path: Path, key: str, source: str
) -> None:
    task = wish.tables["world"]["task"] | {key: source}
    tables = wish.tables | {"world": wish.tables["world"] | {"task": task}}
    with pytest.raises(DataError, match=r"mnist|held_out\.npz"):
        command.run(changed(wish, tables=tables, data_dir=tmp_path / "none"), io.StringIO(), WORKER)
    assert not (tmp_path / "out").exists()


def test_what_an_arm_has_wrong_is_told_with_the_file(wish: Wish) -> None:
    arms = [{"name": "odd", "overrides": {"arrival": {"rule": "spyker", "server_rat": 1.0}}}]
    with pytest.raises(ConfigError, match=rf"{re.escape(wish.origin)}: arm 'odd': arrival: .*`server_rate`"):
        command.run(changed(wish, tables=wish.tables | {"arms": arms, "reference": "odd"}), io.StringIO(), WORKER)


def test_errors_of_the_scenario_are_the_users(wish: Wish) -> None:
    with pytest.raises(ConfigError, match="arm 'other'"):
        command.run(changed(wish, arms=["other"]), io.StringIO(), WORKER)
