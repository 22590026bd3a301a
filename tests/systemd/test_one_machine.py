"""Both packages on one machine with a real systemd: from installation through all that goes wrong to a purge.

The tests follow one another on the same machine; each leaves it as it found it, but for the last.
"""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.netns.network import run_here, wait_until
from tests.systemd.machine import Machine
from tests.systemd.packages import NEWER, with_version

pytestmark = pytest.mark.timeout(300)

AGENT, COORDINATOR = "skerry-agent", "skerry-coordinator"
COORDINATOR_TOML = 'name = "eu-1"\nregion = "eu"\nbundle = "builtin:activity"\ninsecure = true\n'
AGENT_TOML = """
device = "board"
coordinators = ["http://127.0.0.1:8470"]
insecure = true
profile = "raspberry-pi-4b"
runtime_dir = "/run/skerry/agent"
[data]
source = "builtin:activity?part=0&parts=3"
[limits]
status_s = 0.5
reconnect_max_s = 1.0
[policy]
enabled = false
"""
WITHOUT_CERTIFICATES = "[Unit]\nConditionPathExists=\n"
QUICK_WATCHDOG = "[Service]\nWatchdogSec=3\n"


def show(board: Machine, unit: str, *names: str) -> dict[str, str]:
    """Return properties of a unit."""
    text = board.run("systemctl", "show", unit, f"--property={','.join(names)}")
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def active(board: Machine, unit: str) -> bool:
    return show(board, unit, "ActiveState")["ActiveState"] == "active"


def agent_status(board: Machine) -> dict[str, Any]:
    text = board.run("skerry-agent", "status", "--json", check=False)
    return dict(json.loads(text)) if text.startswith("{") else {"running": False}


def coordinator_status(board: Machine) -> dict[str, Any]:
    return dict(json.loads(board.run("skerry-coordinator", "status", "--json")))


def trains(board: Machine, beyond: int = 0) -> bool:
    """Whether the coordinator has taken more than `beyond` updates of the device, and the agent is connected."""
    if not (active(board, AGENT) and active(board, COORDINATOR)):
        return False
    device = coordinator_status(board)["devices"].get("board")
    return device is not None and device["connected"] and device["updates"] > beyond


def updates(board: Machine) -> int:
    return int(coordinator_status(board)["devices"]["board"]["updates"])


def goes_on(board: Machine) -> None:
    """Both services train on, from where they were."""
    wait_until(lambda: trains(board), "both services are up")
    before = updates(board)
    wait_until(lambda: trains(board, before), "the agent trains")


@pytest.fixture(scope="module")
def installed(board: Machine, debs: dict[str, Path]) -> Machine:
    """Return the machine with both packages and a federation of one device."""
    for package in debs.values():
        board.copy_in(package, "/root/")
    board.run("sh", "-c", "apt-get install --yes --no-install-recommends /root/*.deb")
    return board


def test_nothing_starts_before_the_machine_has_joined(installed: Machine) -> None:
    for unit in (AGENT, COORDINATOR):
        assert installed.run("systemctl", "is-enabled", unit, check=False).strip() == "disabled"
        installed.run("systemctl", "start", unit)
        assert show(installed, unit, "ActiveState", "ConditionResult") == {
            "ActiveState": "inactive",
            "ConditionResult": "no",
        }
    assert installed.run("stat", "-c", "%a %U %G", "/etc/skerry/agent.toml").strip() == "640 root skerry"


def test_it_trains_within_its_bounds_as_nobody_in_particular(installed: Machine) -> None:
    installed.write("/etc/skerry/coordinator.toml", COORDINATOR_TOML)
    installed.write("/etc/skerry/agent.toml", AGENT_TOML)
    for unit in (AGENT, COORDINATOR):
        installed.write(f"/etc/systemd/system/{unit}.service.d/lab.conf", WITHOUT_CERTIFICATES)
    installed.run("systemctl", "daemon-reload")
    installed.run("systemctl", "enable", "--now", COORDINATOR, AGENT)
    goes_on(installed)
    bounds = show(installed, AGENT, "MemoryMax", "MemoryHigh", "Slice", "DynamicUser", "StatusText", "NRestarts")
    assert bounds == {
        "MemoryMax": str(1 << 30),
        "MemoryHigh": str((1 << 30) * 9 // 10),
        "Slice": "skerry-agent.slice",
        "DynamicUser": "yes",
        "StatusText": "device board",
        "NRestarts": "0",
    }
    owner = installed.run("stat", "-c", "%U %a", "/var/lib/skerry/agent/state.db").split()
    assert owner == [AGENT, "600"]
    assert "skerry-agent:" not in (installed.root / "etc/passwd").read_text()


def test_reload_takes_what_can_be_taken(installed: Machine) -> None:
    installed.write(
        "/etc/skerry/agent.toml", AGENT_TOML.replace("status_s = 0.5", "status_s = 0.6") + "sample_s = 9.0\n"
    )
    before = show(installed, AGENT, "MainPID")
    installed.run("systemctl", "reload", AGENT)
    wait_until(lambda: "taken: policy.sample_s" in show(installed, AGENT, "StatusText")["StatusText"], "it is taken")
    assert "restart is needed for: limits.status_s" in show(installed, AGENT, "StatusText")["StatusText"]
    assert show(installed, AGENT, "MainPID") == before


@pytest.mark.parametrize("unit", [AGENT, COORDINATOR])
def test_a_killed_service_comes_back_and_goes_on(installed: Machine, unit: str) -> None:
    goes_on(installed)
    before = updates(installed)
    installed.run("systemctl", "kill", "--signal=KILL", unit)
    wait_until(lambda: show(installed, unit, "NRestarts")["NRestarts"] != "0", "systemd starts it again")
    goes_on(installed)
    assert updates(installed) > before


@pytest.mark.parametrize("unit", [AGENT, COORDINATOR])
def test_a_hanging_service_is_ended_with_its_traceback_and_started_again(installed: Machine, unit: str) -> None:
    installed.write(f"/etc/systemd/system/{unit}.service.d/watchdog.conf", QUICK_WATCHDOG)
    installed.run("systemctl", "daemon-reload")
    installed.run("systemctl", "stop", unit)  # by hand: what failed before counts no more
    installed.run("systemctl", "start", unit)
    goes_on(installed)
    pid = show(installed, unit, "MainPID")["MainPID"]
    installed.run("kill", "-STOP", pid)  # every thread stands still; systemd sends SIGCONT behind its SIGABRT
    wait_until(lambda: "Watchdog timeout" in installed.log(unit), "the watchdog bites", 30.0)
    wait_until(lambda: show(installed, unit, "MainPID")["MainPID"] not in {pid, "0"}, "systemd starts it again")
    assert "Fatal Python error: Aborted" in installed.log(unit)
    goes_on(installed)


def tried_again(board: Machine, count: int) -> bool:
    return show(board, AGENT, "NRestarts")["NRestarts"] == str(count)


def test_failures_in_a_row_are_started_ever_more_slowly(installed: Machine) -> None:
    installed.run("systemctl", "restart", AGENT)
    installed.run("systemctl", "stop", AGENT)
    installed.run("systemctl", "start", AGENT)
    waited_s = []
    for failure in range(1, 4):
        wait_until(lambda: active(installed, AGENT), "it is up")
        began_s = time.monotonic()
        installed.run("systemctl", "kill", "--signal=KILL", AGENT)
        wait_until(partial(tried_again, installed, failure), "it is tried again")
        wait_until(lambda: active(installed, AGENT), "it is up")
        waited_s.append(time.monotonic() - began_s)
    assert "failed 3 times in a row: starting in" in installed.log(AGENT)
    assert waited_s[2] > waited_s[0] + 2.0
    installed.run("systemctl", "stop", AGENT)
    installed.run("systemctl", "start", AGENT)
    goes_on(installed)


def test_a_power_cut_loses_nothing_that_was_acknowledged(installed: Machine) -> None:
    goes_on(installed)
    before, version = updates(installed), coordinator_status(installed)["version"]
    installed.power_cut()
    installed.boot()
    goes_on(installed)
    assert updates(installed) > before
    assert coordinator_status(installed)["version"] > version


def test_after_a_reboot_both_are_up_by_themselves(installed: Machine) -> None:
    before = updates(installed)
    installed.shut_down()
    installed.boot()
    goes_on(installed)
    assert updates(installed) > before
    assert "stopped" in installed.run(
        "journalctl", "--no-pager", "--boot=-1", "--unit", AGENT, "--output=cat", check=False
    )


def test_an_upgrade_keeps_state_and_configuration_and_goes_on(installed: Machine, debs: dict[str, Path]) -> None:
    goes_on(installed)
    before, pid = updates(installed), show(installed, AGENT, "MainPID")["MainPID"]
    lineage = coordinator_status(installed)["lineage"]
    for package in debs.values():
        installed.copy_in(with_version(package, NEWER), "/root/")
    installed.run("sh", "-c", f"apt-get install --yes --no-install-recommends /root/*_{NEWER}_*.deb")
    goes_on(installed)
    assert show(installed, AGENT, "MainPID")["MainPID"] != pid
    assert updates(installed) > before
    assert coordinator_status(installed)["lineage"] == lineage
    assert (installed.root / "etc/skerry/coordinator.toml").read_text() == COORDINATOR_TOML
    assert installed.run("dpkg-query", "--show", "--showformat=${Version}", AGENT) == NEWER


def test_removal_keeps_state_and_configuration(installed: Machine) -> None:
    installed.run("apt-get", "remove", "--yes", AGENT)
    assert (installed.root / "var/lib/private/skerry/agent/state.db").exists()
    assert (installed.root / "etc/skerry/agent.toml").exists()
    assert active(installed, COORDINATOR)
    installed.run("sh", "-c", f"apt-get install --yes --no-install-recommends /root/{AGENT}_{NEWER}_*.deb")
    installed.run("systemctl", "enable", "--now", AGENT)
    goes_on(installed)


def test_a_purge_leaves_nothing_behind(installed: Machine) -> None:
    installed.run("apt-get", "purge", "--yes", AGENT, COORDINATOR)
    command = ["find", str(installed.root), "-xdev", "-iname", "*skerry*", "-not", "-path", "*/root/*.deb"]
    left = [line for line in run_here(*command).splitlines() if "/var/log/" not in line and line != str(installed.root)]
    assert [line for line in left if not line.endswith(".deb")] == []
    assert "skerry" not in (installed.root / "etc/group").read_text()
    assert installed.run("systemctl", "list-units", "--all", "--no-legend", "skerry*").strip() == ""
    assert installed.run("systemctl", "is-system-running", check=False).strip() == "running"
