"""`skerry-agent join` but for the network: names, what is kept for the agent, and the start of the service.

tests/end_to_end/test_mutual_tls.py joins for real.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge_agent import config as config_file
from edge_agent import enrolment_file
from edge_agent.cli import cli
from edge_agent.enrolment_file import Enrolment
from edge_agent.join_command import NotStartedError, coordinators, enrol, from_anywhere, start_service
from skerry.errors import ConfigError
from skerry.identity.errors import IdentityError
from skerry.identity.join_token import JoinToken
from skerry.join_token_option import VARIABLE
from skerry.protocol.messages import Joined

TOKEN = JoinToken(bytes(32), bytes(8), bytes(16))
GIVEN = {VARIABLE: TOKEN.text()}
URL = "https://eu.example.org:8470"


def joined_before(folder: Path, enrolment: Enrolment) -> Path:
    """Write what a join leaves; return the agent's configuration, which says next to nothing."""
    (folder / "state" / "identity").mkdir(parents=True)
    (folder / "state" / "identity" / "enrolment.json").write_bytes(enrolment_file.encode(enrolment))
    path = folder / "agent.toml"
    path.write_text(f'state_dir = "{folder}/state"\n')
    return path


def test_what_the_file_leaves_open_is_as_the_join_has_it(tmp_path: Path) -> None:
    path = joined_before(tmp_path, Enrolment("pi-1", "eu", (URL,), "csv:/srv/x.csv"))
    loaded = config_file.load(path, {})
    assert (loaded.device, loaded.coordinators, loaded.data.source) == ("pi-1", (URL,), "csv:/srv/x.csv")
    path.write_text(path.read_text() + 'coordinators = ["https://us"]\n[data]\nsource = "npz:/y.npz"\n')
    loaded = config_file.load(path, {})
    assert (loaded.device, loaded.coordinators, loaded.data.source) == ("pi-1", ("https://us",), "npz:/y.npz")


def test_a_credential_goes_before_the_folder(tmp_path: Path) -> None:
    path = joined_before(tmp_path, Enrolment("pi-1", "eu", (URL,), "csv:x"))
    (tmp_path / "credentials").mkdir()
    assert config_file.load(path, {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}).device == "pi-1"
    (tmp_path / "credentials" / "enrolment.json").write_bytes(
        enrolment_file.encode(Enrolment("pi-2", "eu", (URL,), "csv:x"))
    )
    assert config_file.load(path, {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}).device == "pi-2"


def test_without_a_join_the_agent_says_to_join(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(f'state_dir = "{tmp_path}/state"\n')
    with pytest.raises(IdentityError, match="skerry-agent join"):
        config_file.load(path, {})
    assert CliRunner().invoke(cli, ["run", "--config", str(path)]).exit_code == 7


def test_a_join_that_named_no_data_leaves_that_to_the_file(tmp_path: Path) -> None:
    path = joined_before(tmp_path, Enrolment("pi-1", "eu", (URL,)))
    result = CliRunner().invoke(cli, ["config", "check", "--config", str(path)])
    assert result.exit_code == 5
    assert "must be npz:FILE" in result.stderr


@pytest.mark.parametrize("content", [b"{", b"\xff", b'{"device": "/"}', b" " * 70_000, b'{"device": 1}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = joined_before(tmp_path, Enrolment("pi-1", "eu", (URL,)))
    (tmp_path / "state" / "identity" / "enrolment.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"enrolment\.json.*join again"):
        config_file.load(path, {})


def test_one_device_has_one_name(tmp_path: Path) -> None:
    """Before anything is sent: the join token is not used up by a mistake."""
    config = config_file.load_before_join(joined_before(tmp_path, Enrolment("pi-1", "eu", (URL,))), {})
    with pytest.raises(ConfigError, match=r"an earlier join says 'pi-1'") as caught:
        enrol(config, URL, TOKEN, "pi-2", None, lambda: 0.0)
    assert "--device says 'pi-2'" in str(caught.value)
    assert not (tmp_path / "state" / "identity" / "key.pem").exists()


@pytest.mark.parametrize("name", ["pi z", "", "-pi", "p" * 65, "pi\n"])
def test_a_name_that_no_device_can_have_is_refused_before_anything_is_asked(tmp_path: Path, name: str) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(f'state_dir = "{tmp_path}/state"\n')
    result = CliRunner(env=GIVEN).invoke(cli, ["join", URL, "--device", name, "--config", str(path)])
    assert result.exit_code == 2
    assert "--device: " in result.stderr
    assert "letters, digits" in result.stderr
    assert not (tmp_path / "state").exists()


def test_a_file_that_was_named_and_is_not_there_is_noted(tmp_path: Path) -> None:
    arguments = ["join", URL, "--device", "pi z", "--config"]
    result = CliRunner(env=GIVEN).invoke(cli, [*arguments, str(tmp_path / "agnet.toml")])
    assert f"note: {tmp_path / 'agnet.toml'} is not there; using defaults\n" in result.stderr
    (tmp_path / "agent.toml").write_text("")
    assert "is not there" not in CliRunner(env=GIVEN).invoke(cli, [*arguments, str(tmp_path / "agent.toml")]).stderr


def test_a_join_token_is_never_an_argument() -> None:
    """Arguments are there for everybody on the machine to read."""
    result = CliRunner().invoke(cli, ["join", URL, "--token", TOKEN.text()])
    assert result.exit_code == 2
    assert "--token-file" in result.stderr
    assert TOKEN.text() not in result.output


def test_a_token_that_is_none_is_not_repeated(tmp_path: Path) -> None:
    secret = "skerry1-thisMayBeSomebodysSecret"
    arguments = ["join", URL, "--config", str(tmp_path / "none.toml")]
    result = CliRunner(env={VARIABLE: secret}).invoke(cli, arguments)
    assert result.exit_code == 2
    assert "join token" in result.stderr
    assert secret not in result.output


def test_data_that_cannot_be_meant_is_refused_before_joining(tmp_path: Path) -> None:
    arguments = ["join", URL, "--data", "tape:/dev/st0", "--config", str(tmp_path / "none.toml")]
    result = CliRunner(env=GIVEN).invoke(cli, arguments)
    assert result.exit_code == 5
    assert "tape" in result.stderr


def test_a_file_is_found_from_the_folder_of_the_service_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert from_anywhere("csv:rows.csv") == f"csv:{tmp_path}/rows.csv"
    assert from_anywhere("npz:/srv/x.npz") == "npz:/srv/x.npz"
    assert from_anywhere("builtin:activity?part=0&parts=6") == "builtin:activity?part=0&parts=6"


def test_the_coordinator_of_the_join_comes_first_and_plain_ones_not_at_all() -> None:
    others = {"us": "https://us:1", "ap": "https://ap:1", "eu": URL, "lab": "http://127.0.0.1:1"}
    joined = Joined("pi-1", "eu", (b"",), coordinators=others)
    assert coordinators(URL + "/", joined) == (URL, "https://ap:1", "https://us:1")
    many = Joined("pi-1", "eu", (b"",), coordinators={f"c{n}": f"https://c{n}" for n in range(30)})
    assert len(coordinators(URL, many)) == 16


def test_the_service_is_started_by_systemd_or_the_reason_told() -> None:
    asked: list[Sequence[str]] = []

    def fine(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    start_service(fine)
    assert asked == [["systemctl", "enable", "--now", "skerry-agent"]]
    with pytest.raises(NotStartedError, match="no such unit"):
        start_service(lambda command: subprocess.CompletedProcess(command, 1, "", "no such unit\n"))

    def missing(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        raise FileNotFoundError(2, "No such file or directory")

    with pytest.raises(NotStartedError, match="skerry-agent run"):
        start_service(missing)
