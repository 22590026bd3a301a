"""The machine, looked at through small trees of /proc, /run and /sys, and through real folders and file systems."""

import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_agent.config import AgentConfig, Data, Inference
from edge_agent.host_checks import (
    BUILT_S,
    check_board,
    check_clock,
    check_config_file,
    check_disk,
    check_folder,
    check_limits,
    check_listen,
    check_profile,
    check_software,
    file_system,
    kernel_synchronised,
    memory_limit,
)
from edge_agent.rest_remedy import REMEDY
from skerry import profile
from skerry.policy import Decider, Decision, Policy, Reading
from skerry.profile import Limits, Profile

MIB = 1 << 20
VERSIONS: dict[str, str | None] = {"Python": "3.11.7", "onnxruntime": "1.31.1"}


@pytest.mark.parametrize(
    ("machine", "bits", "libc", "missing", "outcome", "told"),
    [
        ("aarch64", 64, ("glibc", "2.36"), None, "ok", "aarch64, 64-bit, glibc 2.36; Python 3.11.7"),
        ("x86_64", 64, ("", ""), None, "ok", "unknown C library"),
        ("armv7l", 32, ("glibc", "2.36"), None, "failure", "no wheel for 32-bit"),
        ("aarch64", 32, ("glibc", "2.36"), None, "failure", "no wheel for 32-bit"),  # a 32-bit system, 64-bit kernel
        ("aarch64", 64, ("glibc", "2.27"), None, "failure", "needs glibc 2.28"),
        ("aarch64", 64, ("glibc", "2.36"), "onnxruntime", "failure", "not installed: onnxruntime"),
    ],
)
def test_software(machine: str, bits: int, libc: tuple[str, str], missing: str | None, outcome: str, told: str) -> None:
    found = check_software(machine, bits, libc, VERSIONS | ({missing: None} if missing else {}))
    assert found.outcome == outcome
    assert told in found.found
    assert bool(found.remedy) == (outcome != "ok")


@pytest.mark.parametrize(
    ("kernel", "outcome", "told"),
    [
        (True, "ok", "says the kernel"),
        (False, "warning", "not synchronised"),
        (None, "warning", "cannot be found out"),
    ],
)
def test_a_clock_of_which_only_the_kernel_knows(kernel: bool | None, outcome: str, told: str, tmp_path: Path) -> None:
    found = check_clock(tmp_path, lambda: kernel, BUILT_S + 1.0)
    assert (found.outcome, told in found.found) == (outcome, True)


def test_a_clock_that_systemd_keeps(tmp_path: Path) -> None:
    (tmp_path / "run/systemd/timesync").mkdir(parents=True)
    (tmp_path / "run/systemd/timesync/synchronized").touch()
    assert check_clock(tmp_path, lambda: False, BUILT_S + 1.0).outcome == "ok"
    assert check_clock(tmp_path, lambda: True, 1000.0).outcome == "failure"  # a board without a battery-backed clock


def test_the_kernel_s_word_is_the_one_that_adjtimex_gives() -> None:
    said = kernel_synchronised()
    assert said in {True, False, None}
    shown = (
        subprocess.run(["adjtimex", "--print"], capture_output=True, text=True, check=False)
        if _has("adjtimex")
        else None
    )
    if shown is not None and shown.returncode == 0:
        status = int(next(line.split()[1] for line in shown.stdout.splitlines() if "status:" in line))
        assert said is (not status & 0x40)


def _has(command: str) -> bool:
    return any((Path(folder) / command).exists() for folder in os.get_exec_path())


def config(**changes: object) -> AgentConfig:
    plain = {"device": "d", "coordinators": ("https://c.example",), "data": Data("csv:x")}
    return AgentConfig(**(plain | changes))  # type: ignore[arg-type]


def test_a_configuration_with_a_password_is_for_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.touch(0o644)
    secret = config(coordinators=("https://pi:hush@c.example",))
    found = check_config_file(path, secret)
    assert found.outcome == "warning"
    assert found.remedy == f"run `chmod 600 {path}`"
    assert "hush" not in found.found
    path.chmod(0o600)
    assert check_config_file(path, secret).outcome == "ok"
    path.chmod(0o644)
    assert check_config_file(path, config()).outcome == "ok"


def test_folders_that_can_and_cannot_be_written(tmp_path: Path) -> None:
    assert check_folder("state_dir", tmp_path).outcome == "ok"
    later = check_folder("state_dir", tmp_path / "a" / "b")
    assert later.outcome == "ok"
    assert f"will be made in {tmp_path}" in later.found
    (tmp_path / "file").touch()
    for inside in (tmp_path / "file", tmp_path / "file" / "state"):
        found = check_folder("state_dir", inside)
        assert found.outcome == "failure"
        assert "is no folder" in found.found
    tmp_path.chmod(0o777)
    assert check_folder("state_dir", tmp_path).outcome == "warning"


def in_own_mounts(script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script where its mounts are nobody else's; skip where that is not allowed."""
    result = subprocess.run(["unshare", "--mount", "sh", "-ec", script], capture_output=True, text=True, check=False)
    if result.returncode and ("Operation not permitted" in result.stderr or "permission denied" in result.stderr):
        pytest.skip(f"needs the right to mount: {result.stderr.strip()}")
    return result


@pytest.mark.skipif(not _has("unshare"), reason="needs unshare")
@pytest.mark.parametrize(
    ("options", "check", "outcome", "told"),
    [
        ("-o ro", "check_folder('state_dir', F)", "failure", "read-only file system"),
        ("-o ro", "check_disk(R, F, 1 << 40, c)", "failure", "Read-only file system"),
        ("", "check_disk(R, F, 1 << 40, c)", "warning", "it is memory"),
    ],
)
def test_real_file_systems(options: str, check: str, outcome: str, told: str, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from time import monotonic as c; from edge_agent.host_checks import *; "
        f"R, F = Path('/'), Path({str(tmp_path)!r}); found = {check}; print(found.outcome, found.found)"
    )
    result = in_own_mounts(f'mount -t tmpfs {options} none {tmp_path}\n{sys.executable} -c "{code}"')
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(outcome), result.stdout
    assert told in result.stdout


@pytest.mark.parametrize(
    ("kind", "free_bytes", "outcome", "told"),
    [
        ("ext4", 1 << 40, "ok", "ext4"),
        ("ext4", 100 * MIB, "warning", "100 MiB free"),
        ("ext4", 10 * MIB, "failure", "10 MiB free"),
        ("tmpfs", 1 << 40, "warning", "it is memory"),
        ("nfs4", 1 << 40, "warning", "it is a network's"),
    ],
)
def test_disks(kind: str, free_bytes: int, outcome: str, told: str, tmp_path: Path) -> None:
    root, folder = tmp_path / "root", tmp_path / "state dir"
    (root / "proc").mkdir(parents=True)
    folder.mkdir()
    place = str(folder.resolve()).replace(" ", "\\040")
    (root / "proc/mounts").write_text(f"none / overlay rw 0 0\nnone {place} {kind} rw 0 0\nnone /proc proc rw 0 0\n")
    found = check_disk(root, folder / "not made yet", free_bytes, time.monotonic)
    assert (found.outcome, told in found.found) == (outcome, True), found
    assert list(folder.iterdir()) == []  # what was written for a moment is gone


def test_a_worn_card_is_slow(tmp_path: Path) -> None:
    ticks = iter(range(100))
    found = check_disk(tmp_path, tmp_path, 1 << 40, lambda: float(next(ticks)))
    assert found.outcome == "warning"
    assert "a durable write takes 1000.0 ms" in found.found
    assert file_system(tmp_path, tmp_path) is None


def test_limits_of_files_and_memory() -> None:
    def outcome(
        files: int, memory: int | None, available: int, budget: int | None = None, model: int = 0, taken: int = 0
    ) -> str:
        board = Profile(name="b", limits=Limits(memory_bytes_max=budget))
        return check_limits(files, memory, available, board, model, taken).outcome

    plenty = 1 << 34
    assert outcome(resource.RLIM_INFINITY, None, plenty) == "ok"
    assert outcome(64, None, plenty) == "warning"
    assert outcome(1024, 64 * MIB, plenty) == "failure"
    assert outcome(1024, None, plenty, budget=64 * MIB) == "failure"
    assert outcome(1024, None, 64 * MIB) == "warning"
    assert outcome(1024, 256 * MIB, plenty, model=4 * MIB) == "ok"
    assert outcome(1024, 256 * MIB, plenty, model=44 * MIB) == "failure"  # a residual network on a small board
    assert outcome(1024, 512 * MIB, plenty, model=18 * MIB) == "ok"
    assert outcome(1024, 512 * MIB, plenty, model=18 * MIB, taken=900 * MIB) == "failure"  # of 10,000 words


def test_the_memory_that_a_control_group_allows(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    group = tmp_path / "sys/fs/cgroup/system.slice/skerry-agent.service"
    group.mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/system.slice/skerry-agent.service\n")
    without = memory_limit(tmp_path, 0)
    (group / "memory.max").write_text("max\n")
    assert memory_limit(tmp_path, 0) == without
    (group / "memory.max").write_text(f"{200 * MIB}\n")
    assert memory_limit(tmp_path, 0) == 200 * MIB


def test_the_port_for_predictions() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = Inference(listen=f"127.0.0.1:{server.getsockname()[1]}")
        foreign = check_listen(taken, agent_runs=False)
        assert foreign.outcome == "failure"
        assert "inference.listen" in foreign.remedy
        assert check_listen(taken, agent_runs=True).outcome == "ok"
    assert check_listen(taken, agent_runs=False).outcome == "ok"
    changed = check_listen(taken, agent_runs=True)
    assert changed.outcome == "warning"
    assert "restart" in changed.remedy


def test_an_address_that_is_loopback_but_not_here() -> None:
    """127.0.0.0/8 is all this machine's on Linux; of IPv6 only ::1 is loopback, and not every machine has it."""
    found = check_listen(Inference(listen="[::1]:8471"), agent_runs=False)
    if found.outcome == "failure":
        assert found.remedy
    else:
        assert found.found == "[::1]:8471 is free"


def test_a_profile_for_a_larger_board() -> None:
    board = profile.load("raspberry-pi-4b")
    assert check_profile(board, 3800 * MIB).outcome == "ok"  # the graphics have taken their part
    assert check_profile(board, 8000 * MIB).outcome == "ok"
    smaller = check_profile(board, 1900 * MIB)
    assert smaller.outcome == "warning"
    assert "4096 MiB, here are 1900" in smaller.found


def test_a_board_that_trains_and_one_that_is_held_back() -> None:
    cool = check_board(Reading(temperature_c=51.3, throttled=()), Decision())
    assert (cool.outcome, cool.found) == ("ok", "51.3 C, not throttled; nothing holds training back")
    silent = check_board(Reading(), Decision())
    assert silent.found.startswith("no temperature sensor, it does not say whether it is throttled")
    hot = Reading(temperature_c=86.0, throttled=("throttled", "frequency capped"))
    decision = Decider(Policy()).decide(hot, 0.0, 720)
    held = check_board(hot, decision)
    assert held.outcome == "warning"
    assert "86.0 C, throttled: throttled, frequency capped; pauses training: temperature 86.0 C" in held.found
    assert held.remedy == "give it a heat sink or a fan, or a lower training.duty_cycle"  # one for both reasons
    quiet = check_board(Reading(), Decision("pause", ("quiet-hours 22:00-06:00",)))
    assert "policy.quiet_hours" in quiet.remedy
    worn = check_board(
        Reading(), Decision("pause", ("flash-budget used up, pauses until 10% is back", "of-tomorrow 1"))
    )
    assert "limits.flash_bytes_per_hour" in worn.remedy
    assert "local_steps.cycle_min_s" in worn.remedy
    assert worn.remedy.endswith(REMEDY)  # for a reason that this version does not know
