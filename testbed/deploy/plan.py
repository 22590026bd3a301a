"""What is to be done on a board, from what it says of itself. Pure; what is done already takes no step."""

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from skerry.errors import ConfigError, SkerryError
from skerry.join_token_option import VARIABLE
from testbed.deploy.inventory import Target

Verb = Literal["install", "join", "start", "collect", "remove"]
VERBS: tuple[Verb, ...] = ("install", "join", "start", "collect", "remove")

CONFIG = "/etc/skerry/agent.toml"
PACKAGE = "/var/cache/skerry-agent.deb"  # while it is being installed
CERTIFICATE = "/var/lib/skerry/agent/identity/certificate.pem"
JOURNAL_LINES = 10_000

# One line for each fact; what a board does not know stays empty.
PROBE = f"""\
echo arch=$(dpkg --print-architecture 2>/dev/null)
echo version=$(dpkg-query --show --showformat='${{db:Status-Status}} ${{Version}}' skerry-agent 2>/dev/null)
echo config=$(sha256sum {CONFIG} 2>/dev/null | cut -d' ' -f1)
test -e {CERTIFICATE} && echo joined=yes
echo active=$(systemctl is-active skerry-agent 2>/dev/null)
echo enabled=$(systemctl is-enabled skerry-agent 2>/dev/null)
"""


class BoardError(SkerryError):
    """A board that cannot be what the inventory wants."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a board says of itself."""

    arch: str  # as dpkg calls it
    version: str | None  # of the package, None: not installed
    config: str  # hash of its agent.toml, "": none
    joined: bool
    active: bool
    enabled: bool
    leftovers: bool = False  # the package is gone, its configuration or state is not


@dataclass(frozen=True, slots=True)
class Step:
    """One command for the board's shell, as root."""

    says: str
    command: str
    sends: bytes | Path | None = None  # to its standard input
    keeps: str | None = None  # its standard output goes to a file of this name


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for beside the inventory."""

    package: Path | None = None  # for `install`
    version: str = ""  # of that package
    package_sha256: str = ""  # of its bytes
    token: bytes | None = None  # for `join`: goes to the board's standard input, never on a command line


def facts_of(answer: str) -> Facts:
    """Read what PROBE printed.

    Raises:
        BoardError: that is no answer of a Debian with systemd.
    """
    found = dict(line.split("=", 1) for line in answer.splitlines() if "=" in line)
    if not found.get("arch"):
        raise BoardError("it says nothing of its architecture: is it a Debian, Raspberry Pi OS or Ubuntu?")
    status, _, version = found.get("version", "").partition(" ")
    return Facts(
        arch=found["arch"],
        version=version if status == "installed" else None,
        config=found.get("config", ""),
        joined=found.get("joined") == "yes",
        active=found.get("active") == "active",
        enabled=found.get("enabled") == "enabled",
        leftovers=status not in {"", "installed", "not-installed"},
    )


def steps(verb: Verb, target: Target, facts: Facts, wish: Wish) -> list[Step]:
    """Return what brings the board to where `verb` wants it; nothing, where it is there.

    Raises:
        ConfigError: the inventory or the command line lacks what that takes.
        BoardError: the board lacks it.
    """
    match verb:
        case "install":
            return _install(target, facts, wish)
        case "join":
            return _join(target, facts, wish)
        case "start":
            return _start(facts)
        case "collect":
            return _collect(facts)
        case "remove":
            gone = facts.version is None and not facts.leftovers
            return (
                [] if gone else [Step("remove the package, state, keys and settings", _quiet_apt("purge skerry-agent"))]
            )


def _install(target: Target, facts: Facts, wish: Wish) -> list[Step]:
    assert wish.package is not None
    done: list[Step] = []
    if facts.version != wish.version:
        install = _quiet_apt(f"install --allow-downgrades --option Dpkg::Options::=--force-confold {PACKAGE}")
        done += [
            Step(f"copy {wish.package.name}", _received(PACKAGE, wish.package_sha256), sends=wish.package),
            Step(f"install version {wish.version}", f"{install}; code=$?; rm -f {PACKAGE}; exit $code"),
        ]
    content = target.config.encode()
    if facts.config != hashlib.sha256(content).hexdigest():
        write = _received(CONFIG, hashlib.sha256(content).hexdigest(), f"chgrp skerry {CONFIG}.new")
        done.append(Step(f"write {CONFIG}", f"umask 027; {write}; systemctl daemon-reload", sends=content))
        if facts.active:
            done.append(Step("restart the agent with it", "systemctl restart skerry-agent"))
    return done


def _join(target: Target, facts: Facts, wish: Wish) -> list[Step]:
    _need_package(facts)
    if facts.joined:
        return []
    if target.coordinator is None:
        raise ConfigError("the inventory names no `coordinator` to join")
    if wish.token is None:
        raise ConfigError(f"a join token is needed: --token-file, or {VARIABLE}")
    url, name = shlex.quote(target.coordinator), shlex.quote(target.name)
    command = f"skerry-agent join {url} --device {name} --token-file -"
    return [Step(f"join {target.coordinator} as {target.name}", command, sends=wish.token)]


def _start(facts: Facts) -> list[Step]:
    _need_package(facts)
    if not facts.joined:
        raise BoardError("it has not joined: skerry-lab deploy join")
    if facts.active and facts.enabled:
        return []
    return [Step("start the agent, now and at every boot", "systemctl enable --quiet --now skerry-agent")]


def _collect(facts: Facts) -> list[Step]:
    _need_package(facts)
    journal = f"journalctl --no-pager --output=short-iso --unit=skerry-agent --lines={JOURNAL_LINES}"
    return [
        # An agent that does not run says so with exit code 1; that is to be collected, too.
        Step("fetch its status", "skerry-agent status --json || test $? -eq 1", keeps="status.json"),
        Step("fetch its log", journal, keeps="journal.log"),
    ]


def _received(path: str, sha256: str, ready: str = "true") -> str:
    """Return what writes the standard input to `path` once all of it has come and `ready` has run.

    A connection that breaks off looks like the end of the file to the board: the hash alone tells that it is whole. The
    bytes are on disk before the name is, so that a power cut leaves the old file or the new one.
    """
    new = f"{path}.new"
    whole = f"cat > {new} && echo '{sha256}  {new}' | sha256sum --check --status"
    broken = f"{{ rm -f {new}; echo 'it did not arrive whole: {path} is as it was' >&2; exit 1; }}"
    return f"{whole} || {broken}; {ready} && sync {new} && mv {new} {path} || {{ rm -f {new}; exit 1; }}"


def _need_package(facts: Facts) -> None:
    if facts.version is None:
        raise BoardError("the package is not installed: skerry-lab deploy install")


def _quiet_apt(what: str) -> str:
    return f"DEBIAN_FRONTEND=noninteractive apt-get --yes --quiet=2 --no-install-recommends {what}"
