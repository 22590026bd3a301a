"""When a device trains, slows down or rests: the thresholds, and the machine that decides. No clock, no sensor.

Each reason stands for itself. It takes hold as soon as its reading is beyond a threshold, and lets go when the reading
has been on the good side of another, easier one for a while without a break: so nothing flaps. The worst reason that
holds is the device's pace. A sensor that is not there never holds anything.
"""

from collections.abc import Callable, Iterator
from typing import Annotated

import msgspec
from msgspec import Meta

from skerry.protocol.messages import Pace

RESTING: tuple[Pace, Pace] = ("slow", "pause")
SEVERITY: dict[Pace, int] = {"train": 0, "slow": 1, "pause": 2}
VERB: dict[Pace, str] = {"train": "", "slow": "slows", "pause": "pauses"}
TEMPERATURE_BAND_C = 5.0  # a board is cool again so far below the threshold
BATTERY_BAND_PERCENT = 5.0  # charged so far above it
FLASH_LEFT = 0.1  # of the hour's bytes must have come back before training goes on
MINUTES_A_DAY = 24 * 60

Celsius = Annotated[float, Meta(ge=0.0, le=150.0)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Percent = Annotated[float, Meta(ge=0.0, le=100.0)]
Rate = Annotated[float, Meta(ge=0.0, le=1e12)]  # bytes per second
Hours = Annotated[
    str,
    Meta(
        pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9]\Z",
        description="two times of day as HH:MM-HH:MM",
        examples=["22:00-06:30"],
    ),
]


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[policy]` of an agent's configuration or of a profile. A threshold at the end of its range is switched off."""

    enabled: bool = True  # False: no sensor is read, nothing holds training back (laboratories)
    sample_s: Annotated[float, Meta(ge=0.1, le=3600.0)] = 5.0  # between two readings
    dwell_s: Annotated[float, Meta(ge=0.0, le=86400.0)] = 60.0  # a reading must be good for so long to be believed
    slow_duty_cycle: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.25  # of training.duty_cycle, while the pace is slow

    temperature_slow_c: Celsius = 75.0  # the hottest sensor; a Raspberry Pi throttles itself from 80
    temperature_pause_c: Celsius = 85.0  # a Raspberry Pi's own limit
    throttled: Pace = "slow"  # while the board says that it lowers its clock
    under_voltage: Pace = "slow"  # while the board says that its supply is too weak

    memory_available_slow: Share = 0.08  # MemAvailable / MemTotal
    memory_available_pause: Share = 0.04
    memory_pressure_slow: Share = 0.10  # of the last 10 s, some process waited for memory (PSI)
    memory_pressure_pause: Share = 0.40
    cpu_others_slow: Share = 0.5  # of all cores together, taken by others than the agent and its children
    cpu_others_pause: Share = 0.9
    disk_free_pause_bytes: Annotated[int, Meta(ge=0)] = 256 << 20  # where state_dir is

    on_battery: Pace = "pause"  # while there is a mains supply and it gives nothing, or a battery discharges
    battery_slow_percent: Percent = 40.0  # of charge, also while it charges
    battery_pause_percent: Percent = 20.0

    metered: bool | None = None  # whether bytes cost money here; None: as the board says, mobile networks do
    on_metered: Pace = "pause"
    link_slow_bytes_per_s: Rate = 8e3  # of uploads, as the stream measured it, else the network port's own rate
    link_pause_bytes_per_s: Rate = 0.0

    quiet_hours: Annotated[tuple[Hours, ...], Meta(max_length=16)] = ()  # local time, "22:00-06:30"; no training then

    def __post_init__(self) -> None:
        """Check what one key alone cannot say."""
        for rising in ("temperature_{}_c", "memory_pressure_{}", "cpu_others_{}"):
            self._check_order(rising.format("slow"), rising.format("pause"))
        for falling in ("memory_available_{}", "battery_{}_percent", "link_{}_bytes_per_s"):
            self._check_order(falling.format("pause"), falling.format("slow"))
        for hours in self.quiet_hours:
            start, end = minutes(hours)
            if start == end:
                raise ValueError(f"quiet_hours: {hours!r} is empty; for a whole day write 00:00-12:00 and 12:00-00:00")

    def _check_order(self, low: str, high: str) -> None:
        if getattr(self, low) > getattr(self, high):
            raise ValueError(f"{low} must not be above {high}")


class Reading(msgspec.Struct, frozen=True):
    """One look at the board; None: it has no such sensor, or what it says makes no sense."""

    temperature_c: float | None = None  # the hottest sensor
    throttled: tuple[str, ...] | None = None  # what lowers the clock right now; empty: nothing
    under_voltage: bool | None = None
    memory_available: float | None = None  # share
    memory_pressure: float | None = None  # share of the last 10 s
    cpu_others: float | None = None  # share of all cores
    disk_free_bytes: int | None = None
    on_battery: bool | None = None
    battery_percent: float | None = None
    metered: bool | None = None
    link_bytes_per_s: float | None = None
    flash_left: float | None = None  # share of the hour's bytes that may still be written; below 0: overdrawn


class Decision(msgspec.Struct, frozen=True):
    """The pace, and why. A reason is one word without spaces, then figures: "temperature 81.0 C, slows at 75"."""

    pace: Pace = "train"
    reasons: tuple[str, ...] = ()  # the worst first

    @property
    def causes(self) -> tuple[str, ...]:
        """The reasons' words without the figures, which move with every reading."""
        return tuple(reason.partition(" ")[0] for reason in self.reasons)


class _Finding(msgspec.Struct, frozen=True):
    """What one threshold makes of a reading. In between `bad` and `good` whatever holds goes on."""

    cause: str
    pace: Pace
    bad: bool
    good: bool
    text: str


class Decider:
    """Decides from reading to reading; see the module's docstring."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._holding: dict[tuple[str, Pace], float | None] = {}  # -> since when it is good; None: it is not

    def decide(self, reading: Reading, now_s: float, local_minutes: int) -> Decision:
        """Take a reading made at `now_s`, which never falls, and at `local_minutes` after local midnight."""
        worst: dict[str, _Finding] = {}
        for found in _findings(self._policy, reading, local_minutes):
            if self._holds(found, now_s):
                known = worst.get(found.cause)
                if known is None or SEVERITY[found.pace] > SEVERITY[known.pace]:
                    worst[found.cause] = found
        ordered = sorted(worst.values(), key=lambda found: -SEVERITY[found.pace])
        reasons = tuple(f"{found.cause} {found.text}".rstrip() for found in ordered)
        return Decision(ordered[0].pace, reasons) if ordered else Decision()

    def _holds(self, found: _Finding, now_s: float) -> bool:
        key = found.cause, found.pace
        if found.bad or (key in self._holding and not found.good):
            self._holding[key] = None
        elif key in self._holding:
            since_s = self._holding[key]
            if since_s is None:
                since_s = self._holding[key] = now_s
            if now_s - since_s >= self._policy.dwell_s:
                del self._holding[key]
        return key in self._holding


def _findings(policy: Policy, reading: Reading, local_minutes: int) -> Iterator[_Finding]:
    yield from _high(
        "temperature",
        reading.temperature_c,
        (policy.temperature_slow_c, policy.temperature_pause_c),
        lambda limit: limit - TEMPERATURE_BAND_C,
        "{:.1f} C",
    )
    throttled = reading.throttled
    yield _flag("throttled", policy.throttled, None if throttled is None else bool(throttled), throttled or ())
    yield _flag("under-voltage", policy.under_voltage, reading.under_voltage)
    yield from _low(
        "memory-available",
        reading.memory_available,
        (policy.memory_available_slow, policy.memory_available_pause),
        lambda limit: min(1.25 * limit, 1.0),
        "{:.1%}",
    )
    yield from _high(
        "memory-pressure",
        reading.memory_pressure,
        (policy.memory_pressure_slow, policy.memory_pressure_pause),
        lambda limit: 0.5 * limit,
        "{:.1%}",
    )
    yield from _high(
        "cpu-others",
        reading.cpu_others,
        (policy.cpu_others_slow, policy.cpu_others_pause),
        lambda limit: 0.8 * limit,
        "{:.0%}",
    )
    yield from _low(
        "disk-free",
        None if reading.disk_free_bytes is None else reading.disk_free_bytes / 1e6,
        (0.0, policy.disk_free_pause_bytes / 1e6),
        lambda limit: 1.25 * limit,
        "{:.0f} MB",
    )
    yield _flag("on-battery", policy.on_battery, reading.on_battery)
    yield from _low(
        "battery",
        reading.battery_percent,
        (policy.battery_slow_percent, policy.battery_pause_percent),
        lambda limit: min(limit + BATTERY_BAND_PERCENT, 100.0),
        "{:.0f} %",
    )
    yield _flag("metered", policy.on_metered, reading.metered if policy.metered is None else policy.metered)
    yield from _low(
        "link",
        None if reading.link_bytes_per_s is None else reading.link_bytes_per_s / 1e3,
        (policy.link_slow_bytes_per_s / 1e3, policy.link_pause_bytes_per_s / 1e3),
        lambda limit: 1.5 * limit,
        "{:.1f} kB/s",
    )
    quiet = tuple(hours for hours in policy.quiet_hours if _within(hours, local_minutes))
    yield _flag("quiet-hours", "pause", bool(quiet), quiet)
    yield _flash_budget(reading.flash_left)


def _high(
    cause: str, value: float | None, slow_pause: tuple[float, float], leave: Callable[[float], float], shown: str
) -> Iterator[_Finding]:
    """Yield what the thresholds for slow and pause make of a reading that ought to be low."""
    for pace, limit in zip(RESTING, slow_pause, strict=True):
        yield _limit(cause, pace, value, (limit, leave(limit)), shown, high_is_bad=True)


def _low(
    cause: str, value: float | None, slow_pause: tuple[float, float], leave: Callable[[float], float], shown: str
) -> Iterator[_Finding]:
    """Yield what the thresholds for slow and pause make of a reading that ought to be high."""
    for pace, limit in zip(RESTING, slow_pause, strict=True):
        yield _limit(cause, pace, value, (limit, leave(limit)), shown, high_is_bad=False)


def _limit(
    cause: str, pace: Pace, value: float | None, enter_leave: tuple[float, float], shown: str, *, high_is_bad: bool
) -> _Finding:
    enter, leave = enter_leave
    if value is None:
        return _Finding(cause, pace, bad=False, good=True, text="unknown by now")
    sign = 1.0 if high_is_bad else -1.0
    bad = sign * value > sign * enter
    until = f"at {shown.format(enter)}" if bad else f"until {shown.format(leave)}"
    return _Finding(cause, pace, bad, sign * value <= sign * leave, f"{shown.format(value)}, {VERB[pace]} {until}")


def _flash_budget(left: float | None) -> _Finding:
    if left is None:
        return _Finding("flash-budget", "pause", bad=False, good=True, text="unknown by now")
    text = f"{'used up' if left < 0.0 else f'{left:.0%} back'}, pauses until {FLASH_LEFT:.0%} is back"
    return _Finding("flash-budget", "pause", bad=left < 0.0, good=left >= FLASH_LEFT, text=text)


def _flag(cause: str, pace: Pace, raised: bool | None, details: tuple[str, ...] = ()) -> _Finding:
    bad = bool(raised) and pace != "train"
    return _Finding(cause, pace, bad, not bad, ", ".join(details) if bad else "until lately")


def minutes(hours: str) -> tuple[int, int]:
    """Return start and end of "HH:MM-HH:MM" in minutes after midnight."""
    start, end = (60 * int(clock[:2]) + int(clock[3:]) for clock in hours.split("-"))
    return start, end


def _within(hours: str, local_minutes: int) -> bool:
    """Whether a time of day is in hours that may cross midnight; the end is not."""
    start, end = minutes(hours)
    return (local_minutes - start) % MINUTES_A_DAY < (end - start) % MINUTES_A_DAY
