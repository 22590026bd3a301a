"""The machine that the agent runs on, as `/sys` and `/proc` describe it: one Reading for the policy at a time.

Blocks for some milliseconds: not for the event loop. Never raises for what it finds, see `kernel_files`. What every
board of a kind has in common is here; what is special about one stands at its line.
"""

import os
from pathlib import Path

from edge_agent.kernel_files import KernelFiles, whole
from edge_agent.network_port import NetworkPort
from edge_agent.processor import Processor
from skerry.policy import Reading

PLATFORM = "sys/devices/platform"
THERMAL = "sys/class/thermal"
HWMON = "sys/class/hwmon"
POWER = "sys/class/power_supply"
PLAUSIBLE_C = (-40.0, 125.0)  # beyond, a sensor is broken or not wired: eight bits without one say 127, 128 or 255
NOT_WIRED = {"PMIC-Die"}  # of the Jetson Nano and TX1: says 100 C for ever
MAIN_BOARD = ("nct", "it8", "w83", "f71", "f81", "sch5", "asus")  # chips whose inputs often lead nowhere and read 90 C
UNDER_VOLTAGE = 1 << 0  # bits of the Raspberry Pi's get_throttled; those from 16 on tell of the past
THROTTLED = {1 << 1: "frequency capped", 1 << 2: "throttled", 1 << 3: "soft temperature limit"}
COOLING = ("thermal-cpufreq", "cpufreq", "Processor")  # the kernel lowers the clock: cpufreq_cooling, ACPI
ALERTS = ("-throttle-alert", "hot-surface-alert")  # of the Jetson Orin, NVIDIA Jetson Linux guide, 2023

Rising = dict[str, int]  # path of a counter -> what it said last


class Board:
    """Reads the board. Counters are told from reading to reading: the first one knows nothing of them."""

    def __init__(self, root: Path = Path("/")) -> None:
        """`root` holds `sys` and `proc`."""
        self._files = KernelFiles(root)
        self._processor = Processor(self._files)
        self._port = NetworkPort(self._files)
        self._counters: Rising = {}

    def read(self, state_dir: Path) -> Reading:
        """Look at everything but the agent's own figures; `state_dir` is where it writes."""
        on_battery, battery_percent = self._power()
        throttled, under_voltage = self._throttling()
        port = self._port.read()
        return Reading(
            temperature_c=self.temperature_c(),
            throttled=throttled,
            under_voltage=under_voltage,
            memory_available=self._files.parse("proc/meminfo", _available_share),
            memory_pressure=self._files.parse("proc/pressure/memory", _pressure_share),
            cpu_others=self._processor.taken_by_others(),
            disk_free_bytes=_free_bytes(state_dir),
            on_battery=on_battery,
            battery_percent=battery_percent,
            metered=port.metered,
            link_bytes_per_s=port.bytes_per_s,
        )

    def temperature_c(self) -> float | None:
        """Return the hottest sensor in degrees Celsius."""
        files = self._files
        sensors = [
            f"{zone}/temp"
            for zone in files.entries(THERMAL, "thermal_zone")
            if files.text(f"{zone}/type") not in NOT_WIRED
        ]
        for monitor in files.entries(HWMON, "hwmon"):
            if not (files.text(f"{monitor}/name") or "").startswith(MAIN_BOARD):
                inputs = [path for path in files.entries(monitor, "temp") if path.endswith("_input")]
                sensors += [path for path in inputs if not files.number(path.removesuffix("_input") + "_fault")]
        found = [files.number(sensor) for sensor in sensors]
        celsius = [millis / 1000.0 for millis in found if millis is not None]
        return max((value for value in celsius if PLAUSIBLE_C[0] < value < PLAUSIBLE_C[1]), default=None)

    def written_bytes(self) -> int | None:
        """Return what this process has sent to disks since it started; the kernel counts whole pages."""
        return self._files.parse("proc/self/io", _written_bytes)

    def _throttling(self) -> tuple[tuple[str, ...] | None, bool | None]:
        """Return what lowers the clock, and whether the supply is too weak; None: the board says nothing of it."""
        files = self._files
        found: list[str] = []
        known, under_voltage = False, None
        for path in self._firmware_flags():
            flags = files.parse(path, lambda text: int(text, 16))
            if flags is not None:
                known, under_voltage = True, bool(flags & UNDER_VOLTAGE)
                found += [name for bit, name in THROTTLED.items() if flags & bit]
        for device in files.entries(THERMAL, "cooling_device"):
            kind = files.text(f"{device}/type") or ""
            if kind.startswith(COOLING) or kind.endswith(ALERTS):
                state = files.number(f"{device}/cur_state")
                known = known or state is not None
                if state is not None and state > 0:
                    found.append(kind)
        counters = {"sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "package heat"}  # Intel
        for monitor in files.entries(HWMON, "hwmon"):
            kind = files.text(f"{monitor}/name") or ""
            if kind == "rpi_volt":  # mainline kernels have no get_throttled
                alarm = files.number(f"{monitor}/in0_lcrit_alarm")
                under_voltage = bool(alarm) if alarm is not None else under_voltage
            elif kind == "soctherm_oc":  # Jetson Orin: over-current and low voltage
                events = [path for path in files.entries(monitor, "oc") if path.endswith("_event_cnt")]
                counters |= {path: path.rpartition("/")[2].removesuffix("_event_cnt") for path in events}
        for path, name in counters.items():
            rose = self._rose(path)
            known = known or rose is not None
            found += [name] if rose else []
        return (tuple(dict.fromkeys(found)) if known else None), under_voltage

    def _firmware_flags(self) -> list[str]:
        """Return where a Raspberry Pi's kernel shows `get_throttled`: soc/soc:firmware, or soc@107c000000/... ."""
        found = []
        for soc in self._files.entries(PLATFORM, "soc"):
            found += [f"{node}/get_throttled" for node in self._files.entries(soc) if node.endswith(":firmware")]
        return found

    def _rose(self, path: str) -> bool | None:
        """Whether a counter has risen since it was read last; None: it says nothing."""
        count = self._files.number(path)
        if count is None:
            return None
        before, self._counters[path] = self._counters.get(path, count), count
        return count > before

    def _power(self) -> tuple[bool | None, float | None]:
        """Return whether a battery feeds the board, and how full the emptiest one is in per cent."""
        files = self._files
        mains: list[bool] = []
        discharging: list[bool] = []
        charged: list[float] = []
        for supply in files.entries(POWER):
            if files.text(f"{supply}/scope") == "Device" or files.text(f"{supply}/present") == "0":
                continue  # a mouse's, or an empty bay
            if files.text(f"{supply}/type") in {"Battery", "UPS"}:
                percent = files.parse(f"{supply}/capacity", _percent)
                charged += [] if percent is None else [percent]
                discharging.append(files.text(f"{supply}/status") == "Discharging")
            else:
                online = files.number(f"{supply}/online")
                mains += [] if online is None else [online > 0]
        if not discharging:
            return None, None  # fed by the mains, always: a supply that is not online feeds nothing
        on_battery = not any(mains) if mains else any(discharging)
        return on_battery, min(charged, default=None)


def _available_share(meminfo: str) -> float:
    values = {
        name: whole(value.split()[0]) for name, _, value in (line.partition(":") for line in meminfo.splitlines())
    }
    return min(values["MemAvailable"] / _positive(values["MemTotal"]), 1.0)


def _pressure_share(pressure: str) -> float:
    """Return from pressure stall information (Linux 4.20) how long some process waited, of the last 10 s."""
    words = dict(word.split("=") for word in pressure.splitlines()[0].split()[1:])
    return _percent(words["avg10"]) / 100.0


def _percent(text: str) -> float:
    percent = float(text)
    if not 0.0 <= percent <= 100.0:
        raise ValueError("not in per cent")
    return percent


def _positive(value: int) -> int:
    if value <= 0:
        raise ValueError("not positive")
    return value


def _written_bytes(io: str) -> int:
    values = dict(line.split(": ") for line in io.splitlines())
    return whole(values["write_bytes"])


def _free_bytes(folder: Path) -> int | None:
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize
