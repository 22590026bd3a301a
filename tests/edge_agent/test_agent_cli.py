import json
import time
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from edge_agent import config as config_file
from edge_agent import status as status_file
from edge_agent.cli import cli
from edge_agent.vitals import ThisProcess

GOOD = """
device = "pi-1"
coordinators = ["https://example.org:8470"]
profile = "raspberry-pi-4b"
[data]
source = "python:mine:rows"
"""


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(GOOD)
    return path


@pytest.mark.parametrize("arguments", [(), ("run",), ("status",), ("bench",), ("config", "check")])
def test_every_command_explains_itself(arguments: tuple[str, ...]) -> None:
    result = command(*arguments, "--help")
    assert result.exit_code == 0
    assert "skerry-agent" in result.output or "Exit codes" in result.output
    assert "Example" in result.output or "Exit codes" in result.output


def test_a_good_configuration_is_shown_with_its_defaults(config: Path) -> None:
    assert command("config", "check", "--config", config).exit_code == 0
    shown = json.loads(command("config", "check", "--json", "--config", config).output)
    assert shown["device"] == "pi-1"
    assert shown["limits"]["outbox_updates_max"] == 8


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (("[data]", "colour = 1\n[data]"), "colour"),
        (("pi-1", "pi 1"), "device"),
        (("https:", "http:"), "insecure"),
        (("https:", "gopher:"), "coordinators"),
        (("raspberry-pi-4b", "abacus"), "profile"),
        (("[data]", "[training]\nduty_cycle = 0.0\n[data]"), "training.duty_cycle"),
        (("[data]", "[training]\nengine = 'steam'\n[data]"), "training.engine"),
        (("[data]", "[limits]\nheartbeat_s = 30.0\n[data]"), "heartbeat_s"),
        (("[data]", "[limits]\noutbox_updates_max = 17\n[data]"), "limits.outbox_updates_max"),
        (("[data]", "[policy]\ntemperature_slow = 30.0\n[data]"), "did you mean `temperature_slow_c`"),
        (("[data]", "policy = 3\n[data]"), "policy"),
        (("[data]", '[inference]\nlisten = "0.0.0.0:8471"\n[data]'), "no loopback address"),
        (("[data]", '[inference]\nlisten = "192.168.1.7:8471"\n[data]'), "no loopback address"),
        (("[data]", '[inference]\nlisten = "localhost:8471"\n[data]'), "no loopback address"),
        (("[data]", '[inference]\nlisten = "127.0.0.1"\n[data]'), "no loopback address"),
        (("[data]", '[inference]\nlisten = "127.0.0.1:70000"\n[data]'), "no loopback address"),
        (("[data]", "[personal]\nsteps = 0\n[data]"), "personal.steps"),
        (("source = ", "source == "), "not valid TOML"),
    ],
)
def test_a_broken_configuration_is_refused_with_file_and_key(config: Path, change: tuple[str, str], key: str) -> None:
    config.write_text(GOOD.replace(*change))
    result = command("config", "check", "--config", config)
    assert result.exit_code == 2
    assert str(config) in result.output
    assert key in result.output


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    result = command("run", "--config", tmp_path / "none.toml")
    assert result.exit_code == 2
    assert "none.toml" in result.output


def test_what_is_looked_for_in_the_working_directory_is_told_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths mean another file elsewhere, and an agent seems never to have run."""
    monkeypatch.chdir(tmp_path)
    missing = command("status", "-c", "agent.toml").output
    assert missing.startswith(f"skerry-agent: {tmp_path}/agent.toml: cannot be read: No such file")
    Path("agent.toml").write_text(GOOD.replace("[data]", 'state_dir = "state"\n[data]'))
    assert command("status", "-c", "agent.toml").output == (
        f"not running: no agent has ever run with {tmp_path}/agent.toml, in {tmp_path}/state\n"
    )


def test_the_status_of_an_agent_that_never_ran(config: Path, tmp_path: Path) -> None:
    config.write_text(GOOD.replace("[data]", f'state_dir = "{tmp_path}/state"\n[data]'))
    result = command("status", "--config", config)
    assert result.exit_code == 1
    assert "not running" in result.output
    assert json.loads(command("status", "--json", "--config", config).output) == {"running": False}


def test_the_status_of_an_agent_that_hangs_is_an_error(config: Path, tmp_path: Path) -> None:
    config.write_text(GOOD.replace("[data]", f'state_dir = "{tmp_path}"\n[data]'))
    here = ThisProcess()
    for ago_s, code, told in ((0.0, 0, "running, as of"), (25.0, 1, "DOES NOT ANSWER since 25 s")):
        status_file.write_end(tmp_path, "pi-1", "", here, time.time() - ago_s)
        found = status_file.read(tmp_path)
        assert found is not None
        status_file.write(tmp_path, msgspec.structs.replace(found, running=True))
        result = command("status", "--config", config)
        assert (result.exit_code, told in result.output) == (code, True)
        assert command("status", "--json", "--config", config).exit_code == code


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("csv:missing.csv", "missing.csv: no such file"),
        ("npz:missing.npz", "missing.npz: no such file"),
        ("builtin:mnist?dir=/nowhere", "no folder /nowhere: get the files from https"),
        ("builtin:fashion", "there is no such data set"),
        ("file:good.csv", "must be npz:FILE"),
        ("", "must be npz:FILE"),
    ],
)
@pytest.mark.parametrize("command", [["config", "check"], ["run"]])
def test_a_data_source_that_cannot_be_is_told_before_any_connection(
    command: list[str], source: str, told: str, tmp_path: Path
) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(
        f'device = "pi"\ncoordinators = ["https://c.example:1"]\nstate_dir = "{tmp_path}/state"\n'
        f'data = {{ source = "{source}" }}\n'
    )
    result = CliRunner().invoke(cli, [*command, "--config", str(file)])
    assert result.exit_code == 5
    assert told in result.stderr


def test_the_folder_of_the_data_sets_is_the_configurations_or_the_environments(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    head = 'device = "pi"\ncoordinators = ["https://c.example:1"]\n'
    file.write_text(head + 'data = { source = "builtin:mnist" }\n')
    assert config_file.load(file, {}).data.dir is None
    assert config_file.load(file, {"SKERRY_DATA": ""}).data.dir is None
    assert config_file.load(file, {"SKERRY_DATA": "/srv/data"}).data.dir == Path("/srv/data")
    file.write_text(head + 'data = { source = "builtin:mnist", dir = "/mine" }\n')
    assert config_file.load(file, {"SKERRY_DATA": "/srv/data"}).data.dir == Path("/mine")


def test_plain_http_to_another_machine_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(
        'device = "pi"\ncoordinators = ["http://192.0.2.7:8470"]\ninsecure = true\ndata = { source = "csv:x" }\n'
    )
    result = CliRunner().invoke(cli, ["config", "check", "--config", str(file)])
    assert result.exit_code == 2
    assert "loopback only" in result.stderr


def test_the_policy_is_the_files_over_the_profiles_over_the_defaults(config: Path, tmp_path: Path) -> None:
    cool = tmp_path / "cool.toml"
    cool.write_text('name = "cool"\n[policy]\ntemperature_slow_c = 50.0\non_battery = "slow"\n')
    mine = "[policy]\ntemperature_slow_c = 60.0\n[data]"
    config.write_text(GOOD.replace("raspberry-pi-4b", str(cool)).replace("[data]", mine))
    shown = json.loads(command("config", "check", "--json", "--config", config).output)["policy"]
    assert (shown["temperature_slow_c"], shown["on_battery"], shown["temperature_pause_c"]) == (60.0, "slow", 85.0)


def test_a_policy_that_does_not_go_together_with_the_profiles_is_refused(config: Path, tmp_path: Path) -> None:
    cool = tmp_path / "cool.toml"
    cool.write_text('name = "cool"\n[policy]\ntemperature_slow_c = 50.0\ntemperature_pause_c = 60.0\n')
    mine = "[policy]\ntemperature_slow_c = 65.0\n[data]"
    config.write_text(GOOD.replace("raspberry-pi-4b", str(cool)).replace("[data]", mine))
    result = command("config", "check", "--config", config)
    assert result.exit_code == 2
    assert "policy: temperature_slow_c must not be above temperature_pause_c" in result.output


def test_a_state_folder_that_is_a_file_is_told_with_its_own_remedy(config: Path, tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    config.write_text(GOOD.replace("[data]", f'state_dir = "{tmp_path}/state"\n[data]'))
    result = command("run", "--config", config)
    assert result.exit_code == 3
    assert f"{tmp_path}/state: cannot be made: File exists: a file stands where a folder must: move it" in result.output
