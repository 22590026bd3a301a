"""`skerry-coordinator` as a process: its commands, its exit codes, and what it prints."""

import asyncio
import io
import json
import logging
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator import config as configuration
from coordinator.cli import main
from coordinator.history import read_history
from coordinator.recovery import rebuild
from skerry.protocol import sparse
from skerry.tasks import data
from skerry.tasks.bundle import Bundle
from skerry.tasks.model_file import from_safetensors, to_safetensors
from skerry.training.trainer import open_trainer
from skerry.vector import SparseVector

ROOT = Path(__file__).resolve().parents[3]
Process = subprocess.Popen[str]
Cli = Callable[..., Any]
Begin = Callable[..., tuple[Process, str]]
Connect = Callable[..., Awaitable[Any]]

CONFIG = """
name = "eu"
region = "eu"
bundle = "builtin:activity"
state_dir = "{folder}/state"
insecure = true

[listen]
port = 0
"""
SIZE = Bundle.builtin("activity").manifest.layout.size
PAYLOAD = sparse.encode(SparseVector.full(np.full(SIZE, 0.001, np.float32)))


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "coordinator.toml"
    path.write_text(CONFIG.format(folder=tmp_path))
    return path


def test_held_out_data_sets_are_where_the_configuration_or_the_environment_says(config_file: Path) -> None:
    text = config_file.read_text()
    assert configuration.load(config_file, {"SKERRY_DATA": "/srv/data"}).evaluation is None
    config_file.write_text(text + '[evaluation]\nsource = "builtin:mnist"\n')
    for environment, wanted in (({}, None), ({"SKERRY_DATA": "/srv/data"}, Path("/srv/data"))):
        evaluation = configuration.load(config_file, environment).evaluation
        assert evaluation is not None
        assert evaluation.dir == wanted
    config_file.write_text(text + '[evaluation]\nsource = "builtin:mnist"\ndir = "/mine"\n')
    evaluation = configuration.load(config_file, {"SKERRY_DATA": "/srv/data"}).evaluation
    assert evaluation is not None
    assert evaluation.dir == Path("/mine")


def run_command(config_file: Path) -> list[str]:
    return [sys.executable, "-m", "coordinator.cli", "run", "--config", str(config_file)]


@dataclass
class Result:
    """What a command came to."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    """Return a function that runs a command to its end, in this process."""

    def run(*arguments: object) -> Result:
        with pytest.raises(SystemExit) as stopped:
            main([*map(str, arguments)])
        output = capsys.readouterr()
        return Result(int(stopped.value.code or 0), output.out, output.err)

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield run
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def begin(config_file: Path) -> Iterator[Begin]:
    """Return a function that starts `run` and returns the process and its base URL once it listens or says so."""
    started: list[Process] = []

    def start(until: str = "listening on", **options: Any) -> tuple[Process, str]:
        process = subprocess.Popen(run_command(config_file), cwd=ROOT, stderr=subprocess.PIPE, text=True, **options)
        started.append(process)
        assert process.stderr is not None
        for line in process.stderr:
            if until in line:
                return process, f"http://{line.split()[-1]}"
        raise AssertionError("it did not start")

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


async def ended(process: Process) -> tuple[int, str]:
    """Return the exit code and what was logged."""
    _, text = await asyncio.to_thread(process.communicate, timeout=20)
    return process.returncode, text


async def test_it_stops_on_a_signal_with_a_last_checkpoint(begin: Begin, connect: Connect, config_file: Path) -> None:
    process, url = begin()
    device = await connect(url, "pi-1")
    version, _ = await device.model()
    await device.offer(1, version, PAYLOAD)
    await device.accepted()
    process.send_signal(signal.SIGTERM)
    code, text = await ended(process)
    assert (code, text.count("stopped")) == (0, 1)
    state_dir = config_file.parent / "state"
    assert (state_dir / "checkpoints" / f"{1:012d}.safetensors").exists()
    assert np.isfinite(rebuild(state_dir, 1)).all()


def test_it_stops_on_a_signal_while_it_waits_for_peers(begin: Begin, config_file: Path) -> None:
    config_file.write_text('peers_wait_s = 3600\npeers = { us = "http://127.0.0.1:9" }\n' + config_file.read_text())
    process, _ = begin(until="no peer answers")
    process.send_signal(signal.SIGTERM)
    _, text = process.communicate(timeout=20)
    assert (process.returncode, text) == (0, "")
    assert not (config_file.parent / "state" / "coordinator.db").exists()


async def test_a_full_disk_ends_it_and_loses_nothing_acknowledged(
    begin: Begin, connect: Connect, config_file: Path
) -> None:
    """A file may grow no further than 512 KiB: the write-ahead log soon reaches that."""

    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (512 << 10, 512 << 10))

    process, url = begin(preexec_fn=limit_files)
    device = await connect(url, "pi-1")
    version, _ = await device.model()
    accepted = 0

    async def go_on() -> None:
        nonlocal accepted
        while True:
            await device.offer(accepted + 1, version, PAYLOAD)
            accepted = (await device.accepted()).sequence

    with pytest.raises((ConnectionError, TypeError)):
        await go_on()
    code, text = await ended(process)
    assert code == 3
    assert "coordinator.db" in text
    assert "Traceback" not in text
    assert accepted > 0

    begin()
    sequences = [row.sequence for row in read_history(config_file.parent / "state").updates]
    assert sequences == list(range(1, len(sequences) + 1))
    assert len(sequences) in {accepted, accepted + 1}


async def test_a_database_of_a_newer_schema_is_left_alone(begin: Begin, config_file: Path) -> None:
    process, _ = begin()
    process.send_signal(signal.SIGINT)
    assert (await ended(process))[0] == 0
    path = config_file.parent / "state" / "coordinator.db"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    before = path.read_bytes()
    result = await asyncio.to_thread(
        subprocess.run, run_command(config_file), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 4
    assert "newer" in result.stderr
    assert path.read_bytes() == before


async def test_status_tells_what_is_running(begin: Begin, cli: Cli, connect: Connect, config_file: Path) -> None:
    _, url = begin()
    device = await connect(url, "pi-1")
    await device.model()
    text = await asyncio.to_thread(cli, "status", "--config", config_file)
    assert text.returncode == 0
    assert "coordinator eu, region eu" in text.stdout
    assert "1 of 1 connected" in text.stdout
    assert "server rate 0.6\n" in text.stdout
    report = await asyncio.to_thread(cli, "status", "--insecure", "--url", url, "--json")
    assert json.loads(report.stdout)["devices"]["pi-1"]["connected"]


@pytest.fixture
def with_rounds(config_file: Path) -> Path:
    config_file.write_text(config_file.read_text() + '\n[recipe.arrival]\nrule = "fedavg"\n')
    return config_file


async def test_status_tells_of_rounds(begin: Begin, cli: Cli, connect: Connect, with_rounds: Path) -> None:
    _, url = begin()
    device = await connect(url, "pi-1")
    await device.model()
    text = await asyncio.to_thread(cli, "status", "--config", with_rounds)
    assert "s, round 1\n" in text.stdout
    report = await asyncio.to_thread(cli, "status", "--insecure", "--url", url, "--json")
    assert json.loads(report.stdout)["round"] == 1


def test_status_says_when_nothing_is_running(cli: Cli, config_file: Path) -> None:
    result = cli("status", "--config", config_file)
    assert result.returncode == 1
    assert result.stderr.startswith("skerry-coordinator: coordinator 'eu' is not running")
    result = cli("status", "--insecure", "--url", "http://127.0.0.1:9")
    assert result.returncode == 1
    assert "no coordinator is running at http://127.0.0.1:9" in result.stderr
    result = cli("status", "--insecure", "--url", "127.0.0.1:9")
    assert result.returncode == 2
    assert "'127.0.0.1:9' is no http" in result.stderr


@pytest.mark.parametrize("online", [True, False])
async def test_an_exported_model_predicts_as_it_stands(
    begin: Begin, cli: Cli, connect: Connect, config_file: Path, tmp_path: Path, online: bool
) -> None:
    import onnxruntime

    process, url = begin()
    device = await connect(url, "pi-1")
    version, _ = await device.model()
    await device.offer(1, version, PAYLOAD)
    weight = (await device.accepted()).weight
    bundle = Bundle.builtin("activity")
    expected = bundle.initial_parameters().copy()
    SparseVector.full(np.full(SIZE, 0.001, np.float32)).add_to(expected, weight)
    where: tuple[object, ...] = ("--insecure", "--url", url)
    if not online:
        process.send_signal(signal.SIGTERM)
        await ended(process)
        where = ("--config", config_file)

    tensors, graph = tmp_path / "model.safetensors", tmp_path / "model.onnx"
    one = await asyncio.to_thread(cli, "model", "export", *where, "-o", tensors)
    two = await asyncio.to_thread(cli, "model", "export", *where, "-o", graph, "--format", "onnx", "--json")
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    assert json.loads(two.stdout)["version"].endswith("@1")
    assert json.loads(two.stdout)["trained"] is True
    assert one.stderr == ""
    assert np.array_equal(from_safetensors(bundle.manifest.layout, tensors.read_bytes()), expected)

    held_out = data.load("builtin:activity", bundle.manifest, held_out=True)
    raw = np.zeros((3, *bundle.manifest.input.shape), np.float32)
    logits = onnxruntime.InferenceSession(graph.read_bytes()).run(None, {"x": raw})[0]
    prepared = bundle.manifest.input.prepare(raw)
    assert held_out.x[:3].shape == prepared.shape
    assert np.allclose(logits, open_trainer(bundle).predict(expected, prepared), atol=1e-5)


def test_a_region_goes_back_to_an_exported_model(
    cli: Cli, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    bundle, path = Bundle.builtin("activity"), tmp_path / "good.safetensors"
    metadata = {"lineage": "eu/1", "version": "3", "age": "2.5", "bundle": bundle.sha256}
    path.write_bytes(to_safetensors(bundle.manifest.layout, np.ones(SIZE, np.float32), metadata))
    where = ("model", "restore", path, "--config", config_file)
    asked = cli(*where)
    assert (asked.returncode, "Give up the model in" in asked.stderr) == (1, True)
    assert not (tmp_path / "state").exists()
    first = cli(*where, "--yes")
    assert first.returncode == 0, first.stderr
    assert "restored: model eu/1@3 of age 2.5, as eu/" in first.stdout
    assert "there was none\nnext: start the coordinator" in first.stdout
    again = json.loads(cli(*where, "--yes", "--json").stdout)["restored"]
    assert (again["model"], again["age"]) == ("eu/1@3", 2.5)
    assert again["before"].endswith("@0")
    assert again["version"].endswith("@1")
    copy = tmp_path / "copy.safetensors"
    assert cli("model", "export", "--config", config_file, "-o", copy).returncode == 0
    assert from_safetensors(bundle.manifest.layout, copy.read_bytes()).tolist() == [1.0] * SIZE
    path.write_bytes(b"no model")
    refused = cli(*where, "--yes")
    assert (refused.returncode, str(path) in refused.stderr) == (5, True)


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("name = 'eu'", 2, "region"),
        ("name = [", 2, "not valid TOML"),
        (CONFIG + "\n[limits]\nframe_bytes_max = 1\n", 2, "limits.frame_bytes_max"),
        (CONFIG + "\n[limits]\npart_bytes_max = 1048576\n", 2, "does not fit frame_bytes_max"),
        (CONFIG + "\n[limits]\npart_bytes_max = 1024\n", 2, "update_bytes_max"),
        (CONFIG + "\n[limit]\n", 2, "limit"),
        (CONFIG.replace("insecure = true", ""), 7, "join"),
        (CONFIG.replace("[listen]", "[listen]\nhost = '0.0.0.0'"), 2, "loopback"),
        (CONFIG.replace("[listen]", "[peers]\nus = 'http://us.example.org:8470'\n\n[listen]"), 2, "peers.us"),
        (
            "url = 'http://Localhost:80'" + CONFIG + "\n[peers]\nus = 'http://localhost/'\n",
            2,
            "this coordinator itself",
        ),
        (CONFIG.replace("builtin:activity", "missing.skerry"), 5, "missing.skerry"),
        (CONFIG + "\n[evaluation]\nsource = 'csv:missing.csv'\n", 5, "missing.csv"),
    ],
    ids=[
        "missing key",
        "no TOML",
        "out of range",
        "large parts",
        "small parts",
        "unknown key",
        "not insecure",
        "exposed",
        "a peer elsewhere",
        "a peer that is itself",
        "no bundle",
        "no data",
    ],
)
@pytest.mark.parametrize("verb", [("config", "check"), ("run",)], ids=["check", "run"])
def test_a_configuration_that_cannot_be_used_is_refused_with_the_reason(
    cli: Cli, tmp_path: Path, verb: tuple[str, ...], text: str, code: int, words: str
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text.format(folder=tmp_path))
    result = cli(*verb, "--config", path)
    assert (result.returncode, result.stdout) == (code, "")
    last = result.stderr.splitlines()[-1]
    assert last.startswith("skerry-coordinator: " + (f"{path}: " if code == 2 else ""))
    assert words in last


def test_key_figures_of_a_good_configuration_are_shown(cli: Cli, config_file: Path) -> None:
    config_file.write_text(config_file.read_text() + "\n[peers]\nus = 'http://127.0.0.1:9'\n")
    result = cli("config", "check", "--config", config_file)
    assert result.returncode == 0, result.stderr
    for words in (
        "fine",
        "region eu",
        "http://127.0.0.1:0",
        f"{SIZE} parameters",
        "recipe      default\n",
        "\n  optimizer     sgd, momentum 0.1, weight_decay 0.0001, nesterov false\n",
        "\n  schedule      constant, warmup_steps 0\n",
        "\n  privacy       none\n",
        "\n  uplink        top_k, density 0.02",
        "\n  by default    participation always, local_steps cycle, merge carry_over, guard well_formed, "
        "arrival gain_controlled, decay relative, downlink top_k, federation spyker_token\n",
        "us at http",
        "no held-out",
    ):
        assert words in result.stdout
    assert len(result.stdout.splitlines()) < 15


def test_every_stage_that_a_recipe_changes_is_shown_with_its_settings(
    cli: Cli, config_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file without a name is called as the file is."""
    (config_file.parent / "careful.toml").write_text(
        '[guard]\nrule = "outliers"\n[privacy]\nrule = "gaussian"\nclip_norm = 2.0\nnoise_multiplier = 0.5\n'
    )
    config_file.write_text('recipe = "careful.toml"\n' + config_file.read_text())
    result = cli("config", "check", "--config", config_file)
    assert result.returncode == 0, result.stderr
    for words in (
        "recipe      careful\n",
        "\n  guard         outliers, ",
        "\n  privacy       gaussian, clip_norm 2.0, noise_multiplier 0.5",
    ):
        assert words in result.stdout
    (usual,) = [line for line in result.stdout.splitlines() if "by default" in line]
    assert "guard" not in usual
    assert "fewer than 8567 devices at once ruin the model. Leave clip_norm out: 0.00028 is chosen" in caplog.text
    caplog.clear()
    (config_file.parent / "careful.toml").write_text('[privacy]\nrule = "gaussian"\n')
    assert cli("config", "check", "--config", config_file).returncode == 0
    assert caplog.text == "", "the norm that is chosen wants no more than one"
    assert "arrival gain_controlled" in usual


def test_a_good_configuration_is_shown_as_it_is_in_force(cli: Cli, config_file: Path) -> None:
    result = cli("config", "check", "--config", config_file, "--json")
    assert result.returncode == 0, result.stderr
    shown = json.loads(result.stdout)["config"]
    assert shown["recipe"]["arrival"]["rule"] == "gain_controlled"
    assert shown["limits"]["connections_max"] == 20_000


@pytest.mark.parametrize("online", [True, False])
async def test_an_export_of_an_untrained_model_says_so(
    cli: Cli, begin: Begin, config_file: Path, tmp_path: Path, *, online: bool
) -> None:
    process, url = begin()
    where: tuple[object, ...] = ("--insecure", "--url", url)
    if not online:
        process.send_signal(signal.SIGTERM)
        await ended(process)
        where = ("--config", config_file)
    result = await asyncio.to_thread(cli, "model", "export", *where, "-o", tmp_path / "model.safetensors", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["trained"] is False
    assert "initial parameters" in result.stderr


def test_help_has_examples_and_exit_codes(cli: Cli) -> None:
    for arguments in ((), ("run",), ("status",), ("model", "export"), ("config", "check")):
        text = cli(*arguments, "--help").stdout
        assert "Examples:" in text
        assert "Exit codes:" in text
