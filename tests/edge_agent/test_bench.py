"""`skerry-agent bench` measures what is there, within bounds, and writes a profile that is read again."""

import json
import tomllib
from itertools import count
from pathlib import Path
from statistics import median

import msgspec
import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner, Result

from edge_agent import cli as cli_module
from edge_agent.bench import percentile, sigma, with_slowdown
from edge_agent.cli import cli
from edge_agent.link_speed import BYTES_MAX, ROUND_TRIPS, LinkFailed, LinkSpeed, ask_status, measure_link
from edge_agent.step_times import STEPS_MIN, step_times
from skerry import profile
from skerry.errors import ConfigError
from skerry.profile import Lab, Measured, Profile
from skerry.tasks.bundle import resolve
from skerry.tasks.data import Dataset
from skerry.training.batches import Batches
from skerry.training.made_up import batch
from skerry.training.shuffle import Shuffle
from skerry.training.trainer import open_trainer


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def times(clock_step_s: float, *, steps: int, warm_up: int, seconds_max: float) -> list[float]:
    """Real steps under a clock that goes on by `clock_step_s` whenever it is read."""
    bundle = resolve("builtin:activity")
    made_up = batch(bundle.manifest, 8, seed=0)
    ticks = count()
    return step_times(
        open_trainer(bundle),
        bundle,
        Batches(Dataset(made_up.x, made_up.y), 4, Shuffle(0)),
        steps=steps,
        warm_up=warm_up,
        seconds_max=seconds_max,
        clock=lambda: next(ticks) * clock_step_s,
    )


def test_steps_are_timed_after_those_for_warm_up() -> None:
    assert len(times(1e-6, steps=7, warm_up=3, seconds_max=60.0)) == 7


def test_slow_steps_end_in_time_and_leave_a_measurement() -> None:
    timed = times(100.0, steps=1000, warm_up=50, seconds_max=1.0)
    assert len(timed) == STEPS_MIN - STEPS_MIN // 4
    assert min(timed) >= 100.0


def test_a_profile_is_written_with_the_source_of_every_value(tmp_path: Path, coordinator_url: str) -> None:
    path = tmp_path / "mine.toml"
    result = command(
        *("bench", "--steps", "20", "--name", "mine", "--disk", tmp_path, "--json", "--threads", "2"),
        *("--batch-examples", "8", "--output", path, "--coordinator", coordinator_url),
    )
    assert result.exit_code == 0, result.output
    written = profile.load(str(path))
    assert json.loads(result.stdout) == json.loads(msgspec.json.encode(written))
    assert (written.name, written.threads, written.batch_examples) == ("mine", 2, 8)
    assert written.measured is not None
    assert written.measured.steps == 20
    assert 0.0 < written.measured.seconds_per_step <= written.measured.seconds_per_step_p95
    assert 0.0 < written.measured.disk_sync_s <= written.measured.disk_sync_p95_s
    assert written.link is not None
    assert written.link.down_bytes_per_s > 1e5
    assert written.link.up_bytes_per_s is None
    assert 0.0 < 2.0 * written.link.latency_s <= (written.measured.round_trip_s or 0.0)
    header, *lines = path.read_text().splitlines()
    assert header.endswith("Not measured: throttling; losses; bytes upwards; slowdown, without --reference.")
    sources = {line.partition(" = ")[0]: line.rpartition("  # ")[2] for line in lines if " = " in line}
    assert sources.pop("loss_share") == "not measured: the default"
    assert sources.pop("description") == sources.pop("memory_bytes") == "system: as it says of itself"
    assert {key for key, source in sources.items() if source.startswith("choice: ")} == {
        *("name", "threads", "batch_examples", "bundle")
    }
    assert {key for key, source in sources.items() if source.startswith("measured: ")} == {
        *("latency_s", "jitter_s", "down_bytes_per_s", "sigma", "runs_on", "steps", "seconds_per_step", "round_trip_s"),
        *("seconds_per_step_p95", "disk_sync_s", "disk_sync_p95_s", "resident_bytes"),
    }
    assert tomllib.loads(path.read_text())["name"] == "mine"


def test_what_is_printed_for_people(tmp_path: Path) -> None:
    printed = command("bench", "--steps", "5", "--disk", tmp_path).stdout
    assert "ms (median of 5), 95th percentile" in printed
    assert "onnx: CPUExecutionProvider, 1 thread" in printed
    assert "link       not measured: name a coordinator" in printed


def test_a_provider_that_cannot_be_used_is_seen_in_the_profile(tmp_path: Path) -> None:
    result = command("bench", "--steps", "5", "--disk", tmp_path, "--provider", "NoSuchProvider", "--json")
    assert result.exit_code == 0, result.output
    measured = json.loads(result.stdout)["measured"]
    assert measured["runs_on"] == "onnx: CPUExecutionProvider (NoSuchProvider cannot be used here)"


def test_long_work_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_module, "PROGRESS_S", 0.0)
    result = command("bench", "--steps", "10", "--disk", tmp_path, "--json")
    assert "19 of at most 20 steps" in result.stderr.splitlines()
    assert json.loads(result.stdout)["measured"]["steps"] == 10


def test_a_device_is_as_much_slower_as_the_reference_says(tmp_path: Path) -> None:
    here, there = tmp_path / "here.toml", tmp_path / "there.toml"
    assert command("bench", "--steps", "5", "--disk", tmp_path, "-o", there).exit_code == 0
    result = command("bench", "--steps", "5", "--disk", tmp_path, "-o", here, "--reference", there)
    assert result.exit_code == 0, result.output
    assert profile.load(str(here)).lab.slowdown >= 1.0
    assert here.read_text().splitlines()[0].endswith("Not measured: throttling; the link, without --coordinator.")
    other = command("bench", "--steps", "5", "--disk", tmp_path, "--batch-examples", "7", "--reference", there)
    assert other.exit_code == 2
    assert "batches of 7" in other.stderr


def device(seconds_per_step: float, slowdown: float = 1.0) -> Profile:
    measured = Measured(
        runs_on="onnx: CPUExecutionProvider",
        bundle="activity",
        batch_examples=32,
        steps=1,
        seconds_per_step=seconds_per_step,
        seconds_per_step_p95=seconds_per_step,
        disk_sync_s=1.0,
        disk_sync_p95_s=1.0,
        resident_bytes=1,
    )
    return Profile(name="d", lab=Lab(slowdown=slowdown), measured=measured)


def test_slowdowns_multiply() -> None:
    assert with_slowdown(device(0.006), device(0.002)).lab.slowdown == pytest.approx(3.0)
    assert with_slowdown(device(0.006), device(0.002, slowdown=2.0)).lab.slowdown == pytest.approx(6.0)
    assert with_slowdown(device(0.001), device(0.002)).lab.slowdown == 1.0  # no lab makes its cores faster
    with pytest.raises(ConfigError, match="was not measured"):
        with_slowdown(device(0.001), Profile(name="unmeasured"))


def test_the_percentile_and_the_jitter_of_known_steps() -> None:
    steps = [float(number) for number in range(1, 101)]
    assert percentile(steps, 0.95) == 95.0
    assert percentile([7.0], 0.95) == 7.0
    assert sigma([2.0] * 50) == 0.0
    drawn = [1e-3 * 2.718281828 ** (0.1 * z) for z in (-1.645, -0.67, 0.0, 0.67, 1.645)]
    assert sigma(drawn) == pytest.approx(0.1, rel=1e-3)


async def test_the_link_is_measured_within_bounds(coordinator_url: str) -> None:
    reads = count()
    found = await measure_link(coordinator_url + "/", lambda: next(reads) * 0.01)
    assert len(found.round_trips_s) == ROUND_TRIPS
    assert found.round_trip_s == median(found.round_trips_s)
    assert found.down_bytes_per_s is not None
    assert 0.0 < found.down_bytes_per_s <= BYTES_MAX / 1e-6


def test_latency_is_half_the_shortest_trip_and_jitter_what_comes_on_top() -> None:
    link = LinkSpeed((0.010, 0.014, 0.030), None)
    assert link.latency_s == pytest.approx(0.005)
    assert link.jitter_s == pytest.approx(0.004)
    assert link.round_trip_s == 0.014


async def test_nobody_at_the_coordinator_s_address() -> None:
    with pytest.raises(LinkFailed, match=r"127\.0\.0\.1:9"):
        await measure_link("http://127.0.0.1:9", lambda: 0.0)


@pytest.mark.parametrize("body", [b"[]", b"no JSON", b'{"coordinator": "\xac"}'])
async def test_what_answers_is_no_coordinator(body: bytes) -> None:
    async def region(_: web.Request) -> web.Response:
        return web.Response(body=body)

    app = web.Application()
    app.router.add_get("/v1/region", region)
    async with TestServer(app) as server, ClientSession() as session:
        with pytest.raises(LinkFailed, match="/v1/region: is no coordinator's status: "):
            await ask_status(session, str(server.make_url("")))


def test_bench_refuses_plain_http_to_another_machine() -> None:
    result = command("bench", "--coordinator", "http://192.0.2.1:8470")
    assert result.exit_code == 2
    assert "loopback only" in result.stderr


def test_bench_of_no_bundle(tmp_path: Path) -> None:
    result = command("bench", "--bundle", tmp_path / "none.skerry")
    assert result.exit_code == 5
    assert "none.skerry" in result.output


def test_the_profiles_are_listed_and_shown(tmp_path: Path) -> None:
    listed = command("profiles").stdout.splitlines()
    assert [line.split()[0] for line in listed] == profile.names()
    rows = json.loads(command("profiles", "--json").stdout)["profiles"]
    assert [row["name"] for row in rows] == profile.names()
    shown = command("profiles", "raspberry-pi-5")
    assert "slowdown = 1.7  # benchmark: " in shown.stdout
    assert json.loads(command("profiles", "raspberry-pi-5", "--json").stdout)["lab"]["slowdown"] == 1.7
    mistyped = command("profiles", "raspbery-pi-5")
    assert mistyped.exit_code == 2
    assert "did you mean 'raspberry-pi-5'?" in mistyped.stderr
