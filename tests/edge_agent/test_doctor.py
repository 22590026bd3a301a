"""`skerry-agent doctor` as a person calls it: a sound installation, a running agent, and one broken thing at a time."""

import asyncio
import fcntl
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edge_agent import doctor
from edge_agent import status as status_file
from edge_agent.bundle_file import FOLDER
from edge_agent.cli import cli
from edge_agent.config import AgentConfig, Data, with_profile
from edge_agent.doctor import Surroundings
from edge_agent.finding import Finding
from edge_agent.rejections import Rejected
from edge_agent.store import Store
from edge_agent.task_checks import (
    RegionalCycle,
    check_agent,
    check_bundle,
    check_data,
    check_engine,
    check_state,
    judge_speed,
)
from edge_agent.vitals import ThisProcess
from skerry.tasks.bundle import Bundle
from skerry.tasks.data import Dataset
from tests.edge_agent.test_agent_status import status_of
from tests.identity.parties import Federation

REPOSITORY = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def config_path(tmp_path: Path, coordinator_url: str) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(
        f'device = "pi-1"\ncoordinators = ["{coordinator_url}"]\nstate_dir = "{tmp_path / "state"}"\ninsecure = true\n'
        '[data]\nsource = "builtin:activity?part=0&parts=6"\n[limits]\nstatus_s = 0.1\n'
        "[policy]\nenabled = false\n"  # the machine that runs the tests may be as busy as it likes
    )
    return path


def examined(path: Path, *arguments: str) -> tuple[int, dict[str, list[dict[str, str]]]]:
    result = CliRunner().invoke(cli, ["doctor", "-c", str(path), "--json", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    report = json.loads(result.stdout)
    by_check: dict[str, list[dict[str, str]]] = {}
    for finding in report["findings"]:
        by_check.setdefault(finding["check"].partition(":")[0], []).append(finding)
    assert report["ok"] is (result.exit_code == 0)
    return result.exit_code, by_check


def test_a_sound_installation(config_path: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    code, found = examined(config_path)
    assert code == 0, found
    assert {check for check, findings in found.items() if findings[0]["outcome"] == "failure"} == set()
    assert {"software", "clock", "configuration", "state_dir", "disk", "agent", "state", "name", "connection"} < set(
        found
    )
    assert {"coordinator", "time", "bundle", "limits", "data", "engine", "speed", "board"} < set(found)
    assert "14278 parameters, the agent has none yet" in found["bundle"][0]["found"]
    assert "808 examples: Walking 308, Jogging 268" in found["data"][0]["found"]
    assert found["engine"][0]["found"] == "onnx: CPUExecutionProvider"
    assert "steps fit a cycle of" in found["speed"][0]["found"]
    assert sorted(tmp_path.rglob("*")) == before  # it left nothing behind


@pytest.mark.parametrize("order", [1, -1])
def test_a_dead_coordinator_beside_one_that_works_is_a_warning(
    order: int, config_path: Path, coordinator_url: str
) -> None:
    urls = json.dumps(["http://127.0.0.1:9", coordinator_url][::order])
    config_path.write_text(config_path.read_text().replace(f'["{coordinator_url}"]', urls))
    code, found = examined(config_path)
    assert code == 0
    dead, good = found["connection"][::order]
    assert (dead["outcome"], good["outcome"]) == ("warning", "ok")
    assert dead["found"].endswith("; another one works")
    assert "start the coordinator" in dead["remedy"]
    config_path.write_text(config_path.read_text().replace(urls, '["http://127.0.0.1:9", "http://127.0.0.1:7"]'))
    code, found = examined(config_path, "--bundle", "builtin:activity")
    assert code == 1
    assert [one["outcome"] for one in found["connection"]] == ["failure", "failure"]


def test_every_trouble_has_its_remedy_and_people_read_it(config_path: Path) -> None:
    config_path.write_text(config_path.read_text().replace("builtin:activity?part", "csv:missing.csv?part"))
    result = CliRunner().invoke(cli, ["doctor", "-c", str(config_path)])
    assert result.exit_code == 1
    assert f"FAILURE  data: {Path.cwd()}/missing.csv: no such file" in result.stdout
    assert "         -> correct the file or `data.source`" in result.stdout
    assert result.stdout.splitlines()[-1].endswith("1 failures")
    _, found = examined(config_path)
    for findings in found.values():
        for finding in findings:
            assert bool(finding["remedy"]) == (finding["outcome"] != "ok"), finding


def test_a_configuration_that_cannot_be_read_is_a_finding(tmp_path: Path) -> None:
    code, found = examined(tmp_path / "none.toml")
    assert code == 1
    assert "none.toml: cannot be read" in found["configuration"][0]["found"]
    (tmp_path / "bad.toml").write_text('devise = "a"\n')
    _, found = examined(tmp_path / "bad.toml")
    assert "did you mean `device`?" in found["configuration"][0]["found"]


def test_without_a_coordinator_a_bundle_can_be_named(config_path: Path) -> None:
    lines = config_path.read_text().splitlines()
    config_path.write_text(
        "\n".join('coordinators = ["https://c.invalid"]' if one.startswith("coord") else one for one in lines)
    )
    code, found = examined(config_path)
    assert code == 1
    assert found["bundle"][0]["outcome"] == found["data"][0]["outcome"] == "warning"
    code, found = examined(config_path, "--bundle", "builtin:activity")
    assert code == 1
    assert found["name"][0]["outcome"] == "failure"
    assert found["data"][0]["outcome"] == found["speed"][0]["outcome"] == "ok"


def test_a_key_that_others_may_read_is_told_once_with_its_own_remedy(config_path: Path, tmp_path: Path) -> None:
    Federation(time.time()).party(tmp_path / "state" / "identity", "agent", "pi-1")
    key = tmp_path / "state" / "identity" / "key.pem"
    key.chmod(0o644)
    lines = config_path.read_text().splitlines()
    config_path.write_text(
        "\n".join('coordinators = ["https://127.0.0.1:9"]' if one.startswith("coord") else one for one in lines)
    )
    code, found = examined(config_path)
    assert code == 1
    assert (found["identity"][0]["outcome"], found["identity"][0]["remedy"]) == ("failure", f"chmod 600 {key}")
    assert found["name"][0]["outcome"] == "ok"
    assert [(one["outcome"], one["remedy"]) for one in found["connection"]] == [("warning", "mend `identity` first")]
    key.chmod(0o600)
    code, found = examined(config_path)
    assert found["identity"][0]["outcome"] == "ok"
    assert found["connection"][0]["outcome"] == "failure"


def test_an_own_head_and_a_port_are_checked_where_they_are_wanted(config_path: Path, free_port: int) -> None:
    plain = config_path.read_text()
    _, found = examined(config_path, "--bundle", "builtin:activity")
    assert not {"personal", "inference"} & set(found)
    wanted = f'[personal]\nlayers = ["4.*"]\n[inference]\nenabled = true\nlisten = "127.0.0.1:{free_port}"\n'
    config_path.write_text(plain + wanted)
    code, found = examined(config_path, "--bundle", "builtin:activity")
    assert code == 0, found
    assert found["personal"][0]["found"] == "own head of 390 values: 4.weight, 4.bias"
    assert found["inference"][0]["found"] == f"127.0.0.1:{free_port} is free"
    config_path.write_text(plain + wanted.replace("4.*", "head.*"))
    with socket.create_server(("127.0.0.1", free_port)):
        code, found = examined(config_path, "--bundle", "builtin:activity")
    assert code == 1
    assert "'head.*' names no tensor of task 'activity'; there are: 0.weight" in found["personal"][0]["found"]
    assert "personal.layers" in found["personal"][0]["remedy"]
    assert found["personal"][0]["outcome"] == "warning"
    assert found["inference"][0]["outcome"] == "failure"


@pytest.fixture
def running_agent(config_path: Path, patience: float) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A real agent, a process of its own, that has made updates."""
    code = "from edge_agent.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "run", "-c", str(config_path)], stderr=subprocess.DEVNULL, cwd=REPOSITORY
    )
    status = config_path.parent / "state" / "status.json"
    try:
        deadline_s = time.monotonic() + 90.0 * patience
        while not status.exists() or json.loads(status.read_bytes())["cycles"] < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        yield process, status
    finally:
        process.terminate()
        process.wait(20)


def names(folder: Path) -> set[str]:
    """Return what lies in the agent's folder, but the status that it is about to put in the place of the last one."""
    return {path.name for path in folder.iterdir()} - {"status.json.new"}


def test_a_running_agent_is_left_alone(
    config_path: Path, running_agent: tuple[subprocess.Popen[bytes], Path], patience: float
) -> None:
    process, status = running_agent
    before = json.loads(status.read_bytes())
    files = names(status.parent)
    code, found = examined(config_path)
    assert code == 0, found
    assert f"runs as process {process.pid}, connected to region real" in found["agent"][0]["found"]
    assert "intact" in found["state"][0]["found"]
    assert "the agent's own, intact" in found["bundle"][0]["found"]
    assert "as the agent says" in found["speed"][0]["found"]
    assert "no temperature sensor" in found["board"][0]["found"] or " C, " in found["board"][0]["found"]
    assert "engine" not in found  # no second one beside the agent's
    assert names(status.parent) == files
    deadline_s = time.monotonic() + 60.0 * patience
    while json.loads(status.read_bytes())["cycles"] <= before["cycles"] + 2:
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    after = json.loads(status.read_bytes())
    assert after["connected"]
    assert after["pid"] == process.pid


def test_a_second_agent_on_the_same_folder(
    config_path: Path, running_agent: tuple[subprocess.Popen[bytes], Path]
) -> None:
    config_path.write_text(config_path.read_text().replace("pi-1", "pi-2"))
    code, found = examined(config_path)
    assert code == 1
    assert "'pi-1' runs on" in found["agent"][0]["found"]


def test_an_agent_that_hangs(config_path: Path, running_agent: tuple[subprocess.Popen[bytes], Path]) -> None:
    process, _ = running_agent
    process.send_signal(signal.SIGSTOP)
    try:
        time.sleep(1.0)
        _, found = examined(config_path)
    finally:
        process.send_signal(signal.SIGCONT)
    assert found["agent"][0]["outcome"] == "warning"
    assert "has not said anything for" in found["agent"][0]["found"]


def agent_config(folder: Path, **changes: Any) -> AgentConfig:
    plain: dict[str, Any] = {
        "device": "d",
        "coordinators": ("https://c.example",),
        "data": Data("builtin:activity"),
        "state_dir": folder,
    }
    return AgentConfig(**(plain | changes))


def test_somebody_else_holds_the_state(tmp_path: Path) -> None:
    root = Path("/")
    assert check_agent(agent_config(tmp_path), root, 0.0)[0].outcome == "ok"
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found, running = check_agent(agent_config(tmp_path), root, 0.0)
    assert running is None
    assert found.outcome == "failure"
    assert f"process {os.getpid()} holds {tmp_path}" in found.found


def test_a_device_in_quarantine_is_warned_of(tmp_path: Path) -> None:
    here = ThisProcess()
    for quarantine, outcome in (("", "ok"), ("points away", "warning")):
        told = status_of(here.pid, here.started_at_s, device="d", rejected=Rejected({}, quarantine))
        status_file.write(tmp_path, told)
        found, running = check_agent(agent_config(tmp_path), Path("/"), 1.0)
        assert running == told
        assert (found.outcome, "in quarantine: points away" in found.found) == (outcome, outcome == "warning")
    assert "skerry-coordinator devices release d" in found.remedy


def test_the_state_is_looked_at_without_a_trace(tmp_path: Path) -> None:
    assert "none yet" in check_state(agent_config(tmp_path))[0].found
    Store(tmp_path / "state.db").close()
    found, welcome = check_state(agent_config(tmp_path))
    assert found.outcome == "ok"
    assert "intact, 0 updates made" in found.found
    assert welcome is None
    assert [path.name for path in tmp_path.iterdir()] == ["state.db"]


def test_a_damaged_and_a_newer_database(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    Store(path).close()
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * 4096 + whole[8192:])
    found, _ = check_state(agent_config(tmp_path))
    assert found.outcome == "failure"
    assert "move" in found.remedy
    path.write_bytes(whole)
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 999")
    database.close()
    found, _ = check_state(agent_config(tmp_path))
    assert found.outcome == "failure"
    assert "newer Skerry" in found.found


def bundle_check(config: AgentConfig, wanted: str | None, urls: tuple[str, ...], folder: Path) -> Finding:
    return asyncio.run(check_bundle(config, with_profile(config), wanted, urls, lambda: folder))[0]


def test_bundles_that_are_not_there_or_not_intact(tmp_path: Path, coordinator_url: str, activity: Bundle) -> None:
    config = agent_config(tmp_path)
    assert bundle_check(config, None, (), tmp_path).outcome == "warning"
    assert bundle_check(config, activity.sha256, (), tmp_path).outcome == "warning"
    foreign = bundle_check(config, "0" * 64, (coordinator_url,), tmp_path)
    assert foreign.outcome == "failure"
    assert "answers 404" in foreign.found
    (tmp_path / FOLDER).mkdir()
    own = tmp_path / FOLDER / f"{activity.sha256}.skerry"
    own.write_bytes(activity.path.read_bytes()[:-1])
    damaged = bundle_check(config, activity.sha256, (coordinator_url,), tmp_path)
    assert damaged.outcome == "warning"
    assert "damaged" in damaged.found
    own.write_bytes(activity.path.read_bytes())
    assert "the agent's own, intact" in bundle_check(config, activity.sha256, (), tmp_path).found


def test_a_bundle_that_is_too_large_is_not_fetched(tmp_path: Path, coordinator_url: str, activity: Bundle) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(
        f'device = "d"\ncoordinators = ["{coordinator_url}"]\nstate_dir = "{tmp_path / "state"}"\ninsecure = true\n'
        '[data]\nsource = "builtin:activity"\n[limits]\nbundle_bytes_max = 1000\n'
    )
    _, found = examined(path)
    assert found["bundle"][0]["outcome"] == "failure"
    assert "larger than limits.bundle_bytes_max, 1000 bytes" in found["bundle"][0]["found"]


@pytest.mark.parametrize(
    ("classes", "outcome", "told"),
    [
        ([0, 1] * 20, "ok", "40 examples: Walking 20, Jogging 20"),
        ([2] * 40, "warning", "Upstairs 40"),
        ([0, 1], "warning", "fewer than the 32"),
    ],
)
def test_what_data_are_good_for(classes: list[int], outcome: str, told: str, tmp_path: Path, activity: Bundle) -> None:
    file = tmp_path / "data.npz"
    np.savez(file, x=np.zeros((len(classes), 43), np.float32), y=np.array(classes))
    found, dataset = check_data(agent_config(tmp_path, data=Data(f"npz:{file}")), activity, 32)
    assert (found.outcome, told in found.found) == (outcome, True), found
    assert isinstance(dataset, Dataset)


def test_the_column_of_the_label_is_told(tmp_path: Path, activity: Bundle) -> None:
    names = activity.manifest.input.names
    file = tmp_path / "rows.csv"
    rows = [f"{','.join('1' for _ in names)},{state}" for state in ("Jogging", "Walking") * 20]
    file.write_text("\n".join([f"{','.join(names)},state", *rows]))
    found, _ = check_data(agent_config(tmp_path, data=Data(f"csv:{file}")), activity, 32)
    assert "40 examples, label: column state: Walking 20, Jogging 20" in found.found


def test_a_provider_that_is_not_there_is_told(tmp_path: Path, activity: Bundle) -> None:
    in_force = with_profile(agent_config(tmp_path, profile="jetson-orin-nano"))
    found, trainer = check_engine(in_force, activity)
    assert trainer is not None
    if "CUDAExecutionProvider" not in trainer.runs_on.partition(" (")[0]:
        assert found.outcome == "warning"
        assert "CPUExecutionProvider" in found.found
        assert "CUDAExecutionProvider" in found.remedy


def test_data_sets_are_looked_for_where_the_agent_looks(tmp_path: Path, activity: Bundle) -> None:
    sought = agent_config(tmp_path, data=Data("builtin:mnist", dir=tmp_path / "sets"))
    found, dataset = check_data(sought, activity, 32)
    assert dataset is None
    assert found.outcome == "failure"
    assert str(tmp_path / "sets") in found.found


@pytest.mark.parametrize(
    ("seconds_per_step", "cycle_s", "outcome"), [(0.1, 1.0, "ok"), (2.0, 1.0, "warning"), (2.0, None, "ok")]
)
def test_steps_that_do_not_fit_the_cycle(seconds_per_step: float, cycle_s: float | None, outcome: str) -> None:
    assert judge_speed(seconds_per_step, RegionalCycle(cycle_s), "2000 ms per step").outcome == outcome


def test_what_steps_have_taken_counts_as_memory_that_is_needed(config_path: Path) -> None:
    order: list[str] = []

    def peak() -> int:
        order.append("peak")
        return 3 << 40

    for found in doctor.examine(config_path, "builtin:activity", Surroundings(peak_bytes=peak)):
        order.append(found.check)
        if found.check == "limits":
            assert "at least 3145728 MiB needed" in found.found
    assert order.index("speed") < order.index("peak") < order.index("limits")


def test_a_defect_in_a_check_is_a_finding_and_keeps_no_other_from_running(config_path: Path) -> None:
    def broken(seconds: float) -> None:
        raise RuntimeError(f"no sleep of {seconds} s")

    def gone() -> bool | None:
        raise PermissionError(13, "Permission denied", "/proc/secret")

    around = Surroundings(sleep=broken, kernel_synchronised=gone, root=config_path.parent)
    found = {one.check: one for one in doctor.examine(config_path, "builtin:activity", around)}
    assert "the check itself failed: RuntimeError: no sleep of 0.5 s" in found["board"].found
    assert found["clock"].outcome == "failure"
    assert "/proc/secret: Permission denied" in found["clock"].found
    assert found["speed"].outcome == "ok"
