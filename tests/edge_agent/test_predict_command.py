"""`skerry-agent predict`: from the agent that runs, else from what it left on disk; in every format."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result

from edge_agent import examples_file
from edge_agent.cli import cli
from edge_agent.config import AgentConfig
from skerry.tasks.bundle import Bundle

Serve = Callable[..., Awaitable[Any]]
MakeConfig = Callable[..., AgentConfig]
Running = Callable[[AgentConfig], AbstractAsyncContextManager[asyncio.Task[None]]]
ROWS = 50


def command(*arguments: str | Path, standard_input: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["predict", *map(str, arguments)], input=standard_input)


def write_config(folder: Path, config: AgentConfig, *, more: str = "") -> Path:
    path = folder / "agent.toml"
    path.write_text(
        f'device = "pi-1"\ncoordinators = ["http://127.0.0.1:9"]\ninsecure = true\nstate_dir = "{config.state_dir}"\n'
        f'data = {{ source = "{config.data.source}" }}\n[inference]\nenabled = true\n'
        f'listen = "{config.inference.listen}"\nexamples_max = {config.inference.examples_max}\n{more}'
    )
    return path


@pytest.fixture
def raw() -> Any:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(ROWS, 43)).astype(np.float32)
    rows[4, 7] = np.nan
    return rows


@pytest.fixture
def files(raw: Any, tmp_path: Path, activity: Bundle) -> dict[str, Path]:
    names = activity.manifest.input.names
    paths = {kind: tmp_path / f"rows.{kind}" for kind in ("csv", "npz", "json")}
    shuffled = [*reversed(names), "label"]
    lines = [",".join(shuffled)]
    for row in raw:
        cells = dict(zip(names, map(str, row), strict=True))
        lines.append(",".join([*(cells[name].replace("nan", "?") for name in reversed(names)), "Walking"]))
    paths["csv"].write_text("\n".join(lines) + "\n")
    np.savez(paths["npz"], x=raw)
    paths["json"].write_bytes(msgspec.json.encode({"x": raw.tolist()}))
    return paths


async def test_a_file_in_any_format_is_answered_by_the_agent_or_from_disk(
    serve: Serve,
    agent_config: MakeConfig,
    running: Running,
    files: dict[str, Path],
    tmp_path: Path,
    free_port: int,
) -> None:
    coordinator = await serve(offer_every_updates=10**9)  # one model for all that is asked
    config = agent_config(
        coordinator.url, inference={"enabled": True, "listen": f"127.0.0.1:{free_port}", "examples_max": 8}
    )
    options: list[str | Path] = ["--config", write_config(tmp_path, config)]
    async with running(config):
        await coordinator.until(lambda: bool(coordinator.journal))
        online = [await asyncio.to_thread(command, file, *options, "--json") for file in files.values()]
        piped = await asyncio.to_thread(command, "-", *options, standard_input=files["json"].read_text())
        state = {path: path.read_bytes() for path in config.state_dir.rglob("*") if path.name == "state.db"}
    for result in online:
        assert result.exit_code == 0, result.output
    answers = [json.loads(result.output) for result in online]
    assert answers[0] == answers[1] == answers[2]
    assert len(answers[0]["classes"]) == ROWS
    assert "probabilities" not in answers[0]
    assert piped.output.splitlines() == answers[0]["names"]
    assert state
    offline = command(files["csv"], *options, "--json", "--scores", "logits")
    assert offline.exit_code == 0, offline.output
    found = json.loads(offline.output)
    assert found["model"] == answers[0]["model"]
    assert found["classes"] == answers[0]["classes"]
    assert np.shape(found["logits"]) == (ROWS, 6)


async def test_an_own_head_answers_offline_too(
    serve: Serve, agent_config: MakeConfig, running: Running, files: dict[str, Path], tmp_path: Path, free_port: int
) -> None:
    coordinator = await serve()
    config = agent_config(coordinator.url, personal={"layers": ["4.*"]}, inference={"listen": f"127.0.0.1:{free_port}"})
    async with running(config):
        await coordinator.until(lambda: any(one.personal_correct for one in coordinator.telemetry))
    before = {path: path.read_bytes() for path in config.state_dir.rglob("*") if path.is_file()}
    own = command(
        files["npz"], "--json", "--config", write_config(tmp_path, config, more='[personal]\nlayers=["4.*"]\n')
    )
    assert json.loads(own.output)["model"]["personal"]
    regional = command(files["npz"], "--json", "--config", write_config(tmp_path, config))
    assert not json.loads(regional.output)["model"]["personal"]
    assert {path: path.read_bytes() for path in config.state_dir.rglob("*") if path.is_file()} == before


def test_before_an_agent_has_ever_run(agent_config: MakeConfig, files: dict[str, Path], tmp_path: Path) -> None:
    result = command(files["npz"], "--config", write_config(tmp_path, agent_config("http://127.0.0.1:9")))
    assert result.exit_code == 1
    assert "state.db" in result.stderr


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", "X0,X1\n1,2\n", "no column"),
        ("a.txt", "1", "--format"),
        ("a.json", "{}", "has no x"),
        ("a.json", "[]", "holds no examples"),
        ("a.json", "[[1,2],[3]]", "a.json: its lists are of unequal lengths; each example must have shape (43,)"),
        ("a.json", '[["a"]]', "holds no examples"),
        (
            "a.json",
            "[[1,2]]",
            "a.json: x has shape (1, 2), the task takes (examples, 43): its examples have 2 values, the task's 43",
        ),
        ("a.json", "[" * 10_000, "holds no examples"),
        ("a.npz", "x", "no intact npz"),
    ],
)
async def test_a_file_that_does_not_fit_is_told(
    name: str,
    content: str,
    told: str,
    serve: Serve,
    agent_config: MakeConfig,
    running: Running,
    tmp_path: Path,
    free_port: int,
) -> None:
    coordinator = await serve()
    config = agent_config(coordinator.url, inference={"listen": f"127.0.0.1:{free_port}"})
    async with running(config):
        await coordinator.until(lambda: bool(coordinator.journal))
    file = tmp_path / name
    file.write_text(content)
    result = command(file, "--config", write_config(tmp_path, config))
    assert result.exit_code == 5
    assert told in result.stderr


def test_standard_input_is_named_and_bounded(
    agent_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config: list[str | Path] = ["--config", write_config(tmp_path, agent_config("http://127.0.0.1:9"))]
    monkeypatch.setattr(examples_file, "FILE_BYTES_MAX", 1 << 20)
    too_large = command("-", *config, standard_input="[" + " " * (1 << 20))
    assert too_large.exit_code == 5
    assert too_large.stderr == "skerry-agent: standard input: larger than 1 MiB: give fewer examples at once\n"
    assert command("-", *config, standard_input=" " * (1 << 20)).exit_code == 1  # there is no model yet


def test_help_shows_how() -> None:
    shown = command("--help").output
    assert "skerry-agent predict readings.csv" in shown
    assert "Exit codes" in shown
