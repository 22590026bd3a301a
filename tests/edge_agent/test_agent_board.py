"""The board as `/sys` and `/proc` describe it: trees of real kinds of board, written down in boards/."""

import logging
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
import pytest

from edge_agent.board import Board
from skerry.policy import Decider, Policy, Reading

Plant = Callable[[str], Path]
TREES = sorted(path.stem for path in (Path(__file__).parent / "boards").glob("*.txt"))


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """Make the tree of boards/NAME.txt; returns its root."""

    def make(name: str) -> Path:
        text = (Path(__file__).parent / "boards" / f"{name}.txt").read_text()
        for section in text.split("== ")[1:]:
            path, _, content = section.partition("\n")
            write(tmp_path, path, content)
        return tmp_path

    return make


def write(root: Path, path: str, content: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(content)


def read(root: Path) -> Reading:
    """Return a reading without the one figure that is the test machine's own."""
    found = Board(root).read(root)
    assert found.disk_free_bytes is not None
    return msgspec.structs.replace(found, disk_free_bytes=None)


def test_a_raspberry_pi_that_suffers(plant: Plant) -> None:
    root = plant("raspberry-pi-4b")
    assert read(root) == Reading(
        temperature_c=81.283,
        throttled=("frequency capped", "soft temperature limit"),
        under_voltage=True,
        memory_available=pytest.approx(0.75),  # type: ignore[arg-type]
        memory_pressure=0.025,
        metered=False,
        link_bytes_per_s=125e6,
    )
    assert Board(root).written_bytes() == 4096000


def test_a_raspberry_pi_that_is_well_has_been_worse_before(plant: Plant) -> None:
    root = plant("raspberry-pi-4b")
    write(root, "sys/devices/platform/soc/soc:firmware/get_throttled", "50000\n")
    write(root, "sys/class/hwmon/hwmon1/in0_lcrit_alarm", "0\n")
    assert (read(root).throttled, read(root).under_voltage) == ((), False)


def test_a_kernel_without_the_firmwares_flags(plant: Plant) -> None:
    found = read(plant("raspberry-pi-5-mainline"))
    assert (found.throttled, found.under_voltage, found.temperature_c) == ((), False, 47.4)
    assert found.memory_pressure is None


def test_a_sensor_that_is_not_wired_counts_for_nothing(plant: Plant) -> None:
    found = read(plant("jetson-nano"))
    assert found == Reading(temperature_c=41.5, metered=False)


def test_inputs_that_lead_nowhere_and_broken_sensors_count_for_nothing(plant: Plant) -> None:
    root = plant("laptop-x86")
    write(root, "sys/class/hwmon/hwmon2/name", "nct6775")
    write(root, "sys/class/hwmon/hwmon2/temp3_input", "98000")
    write(root, "sys/class/hwmon/hwmon3/name", "lm75")
    write(root, "sys/class/hwmon/hwmon3/temp1_input", "127000")
    write(root, "sys/class/hwmon/hwmon3/temp2_input", "91000")
    write(root, "sys/class/hwmon/hwmon3/temp2_fault", "1")
    write(root, "sys/class/hwmon/hwmon3/temp3_input", "57000")
    write(root, "sys/class/hwmon/hwmon3/temp3_fault", "0")
    assert read(root).temperature_c == 58.0


def test_an_empty_bay_is_no_empty_battery(tmp_path: Path) -> None:
    for name, content in {"type": "Battery", "present": "0", "capacity": "0", "status": "Discharging"}.items():
        write(tmp_path, f"sys/class/power_supply/BAT1/{name}", content)
    assert (read(tmp_path).on_battery, read(tmp_path).battery_percent) == (None, None)


def test_a_jetson_tells_of_alerts_and_of_events_since_the_reading_before(plant: Plant) -> None:
    root = plant("jetson-orin-nano")
    board = Board(root)
    found = board.read(root)
    assert (found.temperature_c, found.throttled) == (99.5, ("cpu-throttle-alert",))
    write(root, "sys/class/hwmon/hwmon3/oc3_event_cnt", "27391")
    assert board.read(root).throttled == ("cpu-throttle-alert", "oc3")
    assert board.read(root).throttled == ("cpu-throttle-alert",)


def test_a_laptop_on_its_battery(plant: Plant) -> None:
    root = plant("laptop-x86")
    board = Board(root)
    found = board.read(root)
    assert (found.on_battery, found.battery_percent, found.temperature_c, found.throttled) == (True, 63.0, 58.0, ())
    write(root, "sys/class/power_supply/AC/online", "1")
    write(root, "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", "13")
    found = board.read(root)
    assert (found.on_battery, found.throttled) == (False, ("package heat",))


def test_a_battery_without_a_mains_supply_tells_by_its_status(plant: Plant, tmp_path: Path) -> None:
    write(tmp_path, "sys/class/power_supply/ups/type", "UPS")
    write(tmp_path, "sys/class/power_supply/ups/capacity", "80")
    write(tmp_path, "sys/class/power_supply/ups/status", "Discharging")
    assert (read(tmp_path).on_battery, read(tmp_path).battery_percent) == (True, 80.0)
    write(tmp_path, "sys/class/power_supply/ups/status", "Full")
    assert read(tmp_path).on_battery is False


def test_a_phone_that_charges_on_a_mobile_network(plant: Plant) -> None:
    assert read(plant("phone")) == Reading(
        temperature_c=57.1, throttled=("thermal-cpufreq-6",), on_battery=False, battery_percent=34.0, metered=True
    )


def test_a_modem_that_is_called_otherwise_is_known_by_its_type(plant: Plant) -> None:
    root = plant("raspberry-pi-4b")
    write(root, "sys/class/net/eth0/uevent", "DEVTYPE=wwan\nINTERFACE=eth0\n")
    assert read(root).metered is True


def test_what_others_take_is_all_but_the_agents_own_and_its_childrens(plant: Plant) -> None:
    root = plant("raspberry-pi-4b")
    write(root, "proc/self/task/712/children", "900 ")
    write(root, "proc/900/stat", "900 (a) b) S 712 0 0 0 0 0 0 0 0 0 30 10 0 0 20")
    board = Board(root)
    assert board.read(root).cpu_others is None
    write(root, "proc/stat", "cpu  1300 0 600 8500 500 50 50 0 0 0\n")  # 1000 more, 500 of them busy
    write(root, "proc/self/stat", "712 (skerry-agent (1) x) S 1 712 712 0 -1 0 0 0 0 0 200 100 6 4 20 10")  # 150 more
    write(root, "proc/900/stat", "900 (a) b) S 712 0 0 0 0 0 0 0 0 0 80 10 0 0 20")  # 50 more
    assert board.read(root).cpu_others == pytest.approx(0.3)
    assert board.read(root).cpu_others is None  # no time has passed


def test_rubbish_is_unknown_and_told_once(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    root = plant("nonsense")
    board = Board(root)
    with caplog.at_level(logging.WARNING):
        first, second = board.read(root), board.read(root)
        assert board.written_bytes() is None
    assert (
        msgspec.structs.replace(first, disk_free_bytes=None)
        == msgspec.structs.replace(second, disk_free_bytes=None)
        == Reading(on_battery=False)
    )
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == len(set(told)) == 10
    assert any("thermal_zone0/temp: makes no sense" in line and "'warm'" in line for line in told)


def test_a_board_that_tells_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read(tmp_path) == Reading()
    assert Board(tmp_path).read(tmp_path / "missing").disk_free_bytes is None
    assert caplog.records == []


@pytest.mark.parametrize("name", TREES)
def test_every_file_may_hold_anything(name: str, plant: Plant) -> None:
    root = plant(name)
    files = [path for path in root.rglob("*") if path.is_file()]
    for path in files:
        before = path.read_bytes()
        for content in (
            b"",
            b"\xff\xfe\x00",
            b"-1",
            b"9" * 5000,
            b"9" * 400,
            b"1 " * 30,
            b"1e400",
            b"\n\n = : )",
            b"x" * 200_000,
        ):
            path.write_bytes(content)
            board = Board(root)
            Decider(Policy()).decide(board.read(root), 0.0, 0)
            board.written_bytes()
        path.write_bytes(before)


def test_this_machine_can_be_read(tmp_path: Path) -> None:
    board = Board()
    found = board.read(tmp_path)
    memory = psutil.virtual_memory()
    assert found.memory_available == pytest.approx(memory.available / memory.total, abs=0.2)
    assert found.disk_free_bytes == pytest.approx(psutil.disk_usage(str(tmp_path)).free, rel=0.1)
