"""What is done on a board: only what is not done yet, with nothing secret on a command line."""

import hashlib
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from skerry.errors import ConfigError
from testbed.deploy import plan
from testbed.deploy.inventory import Target
from testbed.deploy.plan import BoardError, Facts, Wish, facts_of, steps

TARGET = Target(
    name="pi-1", address="10.0.0.1", user="root", port=22, coordinator="https://eu.example:8470", config="profile = 1\n"
)
CONFIG_HASH = hashlib.sha256(TARGET.config.encode()).hexdigest()
FRESH = Facts(arch="arm64", version=None, config="", joined=False, active=False, enabled=False)
DONE = Facts(arch="arm64", version="2.0", config=CONFIG_HASH, joined=True, active=True, enabled=True)
WISH = Wish(package=Path("a.deb"), version="2.0", token=b"skerry1-secret")


def says(verb: plan.Verb, facts: Facts, wish: Wish = WISH) -> list[str]:
    return [step.says for step in steps(verb, TARGET, facts, wish)]


def test_a_fresh_board_gets_package_and_configuration() -> None:
    assert says("install", FRESH) == ["copy a.deb", "install version 2.0", "write /etc/skerry/agent.toml"]


@pytest.mark.parametrize("verb", ["install", "join", "start"])
def test_what_is_done_is_left_alone(verb: plan.Verb) -> None:
    assert says(verb, DONE) == []


def test_another_version_is_installed_and_the_configuration_left_alone() -> None:
    assert says("install", replace(DONE, version="1.0")) == ["copy a.deb", "install version 2.0"]


def test_another_configuration_is_written_and_a_running_agent_restarted() -> None:
    write, restart = steps("install", TARGET, replace(DONE, config="0"), WISH)
    assert write.sends == TARGET.config.encode()
    assert "restart" in restart.command
    assert says("install", replace(DONE, config="0", active=False)) == ["write /etc/skerry/agent.toml"]


@pytest.mark.parametrize("broken", ["", "cut", "nobody's"], ids=["whole", "cut short", "cannot be made ready"])
@pytest.mark.parametrize("number", [0, 2], ids=["package", "configuration"])
def test_what_does_not_arrive_whole_replaces_nothing(tmp_path: Path, number: int, broken: str) -> None:
    content = b"profile = 1\n"
    wish = replace(WISH, package_sha256=hashlib.sha256(content).hexdigest())
    step = steps("install", TARGET, FRESH, wish)[number]
    place = tmp_path / ("skerry-agent.deb" if number == 0 else "agent.toml")
    place.write_text("as it was")
    made_ready = "false" if broken == "nobody's" else "true"
    command = step.command.replace(str(Path(plan.PACKAGE).parent), str(tmp_path)).replace("/etc/skerry", str(tmp_path))
    command = command.replace("chgrp skerry", f"{made_ready} chgrp skerry").replace("systemctl", "true systemctl")
    sent = content[:-1] if broken == "cut" else content
    done = subprocess.run(["sh", "-c", command], input=sent, capture_output=True, check=False)
    fails = broken == "cut" or (broken == "nobody's" and number == 2)
    assert (done.returncode, b"did not arrive whole" in done.stderr) == (1 if fails else 0, broken == "cut")
    assert place.read_bytes() == (b"as it was" if fails else content)
    assert [path.name for path in tmp_path.iterdir()] == [place.name]


def test_a_join_hides_its_token_and_quotes_what_it_names() -> None:
    target = Target(name="pi-1", address="a", user="root", port=22, coordinator="https://x/'; reboot", config="")
    (step,) = steps("join", target, replace(DONE, joined=False), WISH)
    assert step.sends == b"skerry1-secret"
    assert "secret" not in step.command
    assert "secret" not in step.says
    assert shlex.split(step.command)[2] == "https://x/'; reboot"


def test_a_join_needs_a_coordinator_and_a_token() -> None:
    unjoined = replace(DONE, joined=False)
    with pytest.raises(ConfigError, match="--token-file"):
        steps("join", TARGET, unjoined, Wish())
    nowhere = Target(name="pi-1", address="a", user="root", port=22, coordinator=None, config="")
    with pytest.raises(ConfigError, match="coordinator"):
        steps("join", nowhere, unjoined, WISH)


@pytest.mark.parametrize("verb", ["join", "start", "collect"])
def test_without_the_package_nothing_else_comes_about(verb: plan.Verb) -> None:
    with pytest.raises(BoardError, match="deploy install"):
        steps(verb, TARGET, FRESH, WISH)


def test_nothing_starts_before_it_has_joined() -> None:
    with pytest.raises(BoardError, match="deploy join"):
        steps("start", TARGET, replace(DONE, joined=False), WISH)


@pytest.mark.parametrize("facts", [replace(DONE, active=False), replace(DONE, enabled=False)])
def test_a_start_is_for_now_and_for_every_boot(facts: Facts) -> None:
    (step,) = steps("start", TARGET, facts, WISH)
    assert step.command == "systemctl enable --quiet --now skerry-agent"


def test_collecting_happens_each_time_and_keeps_what_a_stopped_agent_says() -> None:
    status, journal = steps("collect", TARGET, replace(DONE, active=False), WISH)
    assert (status.keeps, journal.keeps) == ("status.json", "journal.log")
    assert "test $? -eq 1" in status.command


def test_removal_purges_what_is_there_and_what_a_removal_left() -> None:
    assert says("remove", FRESH) == []
    assert says("remove", DONE) == ["remove the package, state, keys and settings"]
    assert says("remove", replace(FRESH, leftovers=True)) == ["remove the package, state, keys and settings"]


def test_facts_are_read_from_what_the_board_prints() -> None:
    answer = f"arch=arm64\nversion=installed 2.0\nconfig={CONFIG_HASH}\njoined=yes\nactive=active\nenabled=enabled\n"
    assert facts_of(answer) == DONE
    assert facts_of("arch=arm64\nversion=\nconfig=\nactive=inactive\nenabled=\n") == FRESH
    assert facts_of("arch=arm64\nversion=config-files 2.0\nactive=inactive\n") == replace(FRESH, leftovers=True)


@pytest.mark.parametrize("answer", ["", "arch=\n", "Welcome!\n"])
def test_another_system_is_said_to_be_one(answer: str) -> None:
    with pytest.raises(BoardError, match="Debian"):
        facts_of(answer)
