"""systemd's own opinion of the units: it knows every word of them, and how much they expose. It need not run."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest

from coordinator import config as coordinator_config
from edge_agent import config as agent_config

UNITS = Path(__file__).resolve().parent.parent / "systemd"
SERVICES = ("skerry-agent", "skerry-coordinator")
EXPOSURE_MAX = 1.5
# What came with version 250 or later, by systemd.service(5), systemd.exec(5) and systemd.resource-control(5): 249 would
# pass over it with a warning.
YOUNGER_THAN_249 = {
    "ExitType",
    "ImportCredential",
    "LoadCredentialEncrypted",
    "LogFilterPatterns",
    "MemoryKSM",
    "MemoryPressureWatch",
    "MemoryZSwapMax",
    "OpenFile",
    "PrivatePIDs",
    "PrivateBPF",
    "RestartMaxDelaySec",
    "RestartMode",
    "RestartSteps",
    "RestrictFileSystems",
    "RestrictNetworkInterfaces",
    "SetCredentialEncrypted",
    "StartupMemoryMax",
    "Type=notify-reload",
}

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="systemd-analyze is missing: apt-get install systemd",
)


def unit(name: str) -> ConfigParser:
    """Read a unit; of keys that are there more than once, the last."""
    parser = ConfigParser(interpolation=None, strict=False, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / name)
    return parser


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty machine with the units, and with something to run where they look for it."""
    folder = tmp_path / "etc" / "systemd" / "system"
    folder.mkdir(parents=True)
    for file in UNITS.glob("skerry-*.s*"):
        shutil.copy(file, folder)
    for target in ("multi-user", "network-online", "sysinit", "basic", "shutdown", "slices"):
        (folder / f"{target}.target").write_text("[Unit]\nDescription=of the test\n")
    for command in commands():
        path = tmp_path / command.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    return tmp_path


def commands() -> Iterator[str]:
    for name in SERVICES:
        for line in (UNITS / f"{name}.service").read_text().splitlines():
            if line.startswith("Exec"):
                yield line.partition("=")[2].lstrip("-+").split()[0]


@needs_systemd
@pytest.mark.parametrize("name", [f"{name}.service" for name in SERVICES] + ["skerry-agent.slice"])
def test_systemd_knows_every_word_of_a_unit(root: Path, name: str) -> None:
    verified = subprocess.run(
        ["systemd-analyze", "verify", f"--root={root}", "--man=no", name], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stderr) == (0, "")


@pytest.mark.parametrize("name", [f"{name}.service" for name in SERVICES] + ["skerry-agent.slice"])
def test_a_unit_needs_no_younger_systemd_than_the_packages_ask_for(name: str) -> None:
    settings = {
        pair for table in unit(name).values() for key, value in table.items() for pair in (key, f"{key}={value}")
    }
    assert {"WatchdogSec", "MemoryHigh"} & settings
    assert settings & YOUNGER_THAN_249 == set()


@needs_systemd
@pytest.mark.parametrize("name", SERVICES)
def test_a_service_exposes_little(name: str) -> None:
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={10 * EXPOSURE_MAX:.0f}"]
    judged = subprocess.run([*command, UNITS / f"{name}.service"], capture_output=True, text=True, check=False)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", judged.stdout)
    assert found, judged.stderr
    assert float(found[1]) <= EXPOSURE_MAX, judged.stdout
    assert judged.returncode == 0


@pytest.mark.parametrize("name", SERVICES)
def test_no_start_mends_what_only_a_person_can(name: str) -> None:
    """Exit codes 2 and 4 to 7; after the others, a failed disk among them, the service is started again."""
    assert unit(f"{name}.service")["Service"]["RestartPreventExitStatus"].split() == ["2", "4", "5", "6", "7"]


@pytest.mark.parametrize(
    ("name", "config", "state"),
    [
        ("skerry-agent", agent_config.DEFAULT_PATH, agent_config.AgentConfig.__struct_defaults__),
        (
            "skerry-coordinator",
            coordinator_config.DEFAULT_PATH,
            coordinator_config.CoordinatorConfig.__struct_defaults__,
        ),
    ],
)
def test_units_and_configuration_agree_where_things_are(name: str, config: Path, state: tuple[object, ...]) -> None:
    service = unit(f"{name}.service")
    folder = Path("/var/lib") / service["Service"]["StateDirectory"]
    assert folder in state
    lines = (UNITS / f"{name}.service").read_text().splitlines()
    conditions = {line.partition("=|")[2] for line in lines if line.startswith("ConditionPathExists=")}
    assert conditions == {f"{folder}/identity/certificate.pem", f"/etc/credstore/{name}.certificate.pem"}
    assert service["Service"]["ExecStart"].endswith(f"--config {config}")
