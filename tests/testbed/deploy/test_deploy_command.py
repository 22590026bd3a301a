"""`skerry-lab deploy` with a client in ssh's place, which plays the boards."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

CLIENT = """#!{python}
# Plays ssh: notes what it was asked, answers as the board of that address would.
import json, os, sys
address, command = sys.argv[-2:]
sent = "" if "echo arch=" in command else sys.stdin.read()
with open({log!r}, "a") as log:
    log.write(json.dumps({{"arguments": sys.argv[1:], "sent": sent}}) + "\\n")
if address == "gone.local":
    print("No route to host", file=sys.stderr)
    os._exit(255)
if "echo arch=" in command:
    print("arch=amd64", "version=installed 1.0", "active=inactive", sep="\\n")
elif "skerry-agent status" in command:
    print('{{"running": true}}')
elif "journalctl" in command:
    print("a line")
"""
INVENTORY = """
coordinator = "https://eu.example:8470"
ssh_options = ["-i", "key"]
[[boards]]
name = "here"
address = "here.local"
[[boards]]
name = "gone"
address = "gone.local"
[[boards]]
name = "too"
address = "too.local"
user = "pi"
"""
TOKEN = "skerry1-planted-secret"


@pytest.fixture
def world(tmp_path: Path) -> Path:
    client = tmp_path / "bin" / "ssh"
    client.parent.mkdir()
    client.write_text(CLIENT.format(python=sys.executable, log=str(tmp_path / "log")))
    client.chmod(client.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "boards.toml").write_text(INVENTORY)
    (tmp_path / "token").write_text(TOKEN)
    return tmp_path


def deploy(world: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{world / 'bin'}:{os.environ['PATH']}"}
    code = "from testbed.cli import main; main()"
    command = [sys.executable, "-c", code, "deploy", *arguments]
    return subprocess.run(command, env=environment, cwd=world, capture_output=True, text=True, timeout=60, check=False)


def asked(world: Path) -> list[dict[str, list[str] | str]]:
    return [json.loads(line) for line in (world / "log").read_text().splitlines()]


def test_one_board_that_is_not_reached_holds_up_no_other(world: Path) -> None:
    done = deploy(world, "join", "boards.toml", "--token-file", "token", "--json")
    assert done.returncode == 1
    boards = {one["board"]: one for one in json.loads(done.stdout)["boards"]}
    assert boards["gone"]["error"] == "not reached: No route to host"
    for name in ("here", "too"):
        assert (boards[name]["error"], len(boards[name]["done"])) == ("", 1)


def test_the_token_goes_by_standard_input_alone(world: Path) -> None:
    done = deploy(world, "join", "boards.toml", "--token-file", "token", "--boards", "here,too")
    assert done.returncode == 0
    joins = [one for one in asked(world) if one["sent"]]
    assert [one["sent"] for one in joins] == [TOKEN, TOKEN]
    assert TOKEN not in done.stdout + done.stderr
    assert not any(TOKEN in argument for one in asked(world) for argument in one["arguments"])


def test_the_token_may_come_from_the_environment_and_not_from_the_command_line(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = deploy(world, "join", "boards.toml", "--token", TOKEN, "--boards", "here")
    assert (refused.returncode, "--token-file" in refused.stderr) == (2, True)
    assert TOKEN not in refused.stdout + refused.stderr
    monkeypatch.setenv("SKERRY_JOIN_TOKEN", TOKEN)
    assert deploy(world, "join", "boards.toml", "--boards", "here").returncode == 0
    assert [one["sent"] for one in asked(world) if one["sent"]] == [TOKEN]


def test_a_dry_run_only_asks(world: Path) -> None:
    done = deploy(world, "join", "boards.toml", "--token-file", "token", "--dry-run", "--boards", "here")
    assert done.stdout.splitlines()[0] == "here: would join https://eu.example:8470 as here"
    assert len(asked(world)) == 1


def test_another_user_than_root_takes_sudo_and_options_are_passed_on(world: Path) -> None:
    deploy(world, "join", "boards.toml", "--token-file", "token", "--boards", "too")
    arguments = asked(world)[-1]["arguments"]
    assert isinstance(arguments, list)
    assert arguments[-1].startswith("sudo -n sh -c ")
    assert arguments[arguments.index("-l") + 1] == "pi"
    assert arguments[arguments.index("-i") + 1] == "key"
    assert arguments[-3] == "--"


def test_what_is_collected_lies_in_a_folder_of_each_board(world: Path) -> None:
    done = deploy(world, "collect", "boards.toml", "--boards", "here,too", "--output", "today")
    assert done.returncode == 0
    for name in ("here", "too"):
        assert json.loads((world / "today" / name / "status.json").read_text()) == {"running": True}
        assert (world / "today" / name / "journal.log").read_text() == "a line\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["start", "missing.toml"], "missing.toml"),
        (["start", "boards.toml", "--boards", "nobody"], "no board nobody"),
        (["install", "boards.toml", "--boards", "here"], "`make deb` builds it"),
        (["join", "boards.toml", "--boards", "here"], "a join token is needed"),
    ],
)
def test_what_is_missing_is_named(world: Path, arguments: list[str], words: str) -> None:
    done = deploy(world, *arguments)
    assert done.returncode in {1, 2}
    assert words in done.stdout + done.stderr
