"""The policy decides alone: readings and times go in, a pace and its reasons come out."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.policy import SEVERITY, Decider, Decision, Policy, Reading, minutes
from skerry.protocol.messages import Pace

NOON = 12 * 60
GOOD = Reading(
    temperature_c=40.0,
    throttled=(),
    under_voltage=False,
    memory_available=0.5,
    memory_pressure=0.0,
    cpu_others=0.05,
    disk_free_bytes=10**10,
    on_battery=False,
    battery_percent=100.0,
    metered=False,
    link_bytes_per_s=1e7,
    flash_left=1.0,
)
# reading, its threshold for slow and for pause, from where it is good again after either, and its extremes
BANDS: list[tuple[str, float | None, float, float | None, float, float, float]] = [
    ("temperature_c", 75.0, 85.0, 70.0, 80.0, -20.0, 120.0),
    ("memory_pressure", 0.10, 0.40, 0.05, 0.20, 0.0, 1.0),
    ("cpu_others", 0.5, 0.9, 0.4, 0.72, 0.0, 1.0),
    ("memory_available", 0.08, 0.04, 0.10, 0.05, 1.0, 0.0),
    ("battery_percent", 40.0, 20.0, 45.0, 25.0, 100.0, 0.0),
    ("disk_free_bytes", None, 256 << 20, None, 320 << 20, 1e12, 0.0),
    ("flash_left", None, 0.0, None, 0.1, 1.0, -1.0),
]
READINGS = st.builds(
    Reading,
    temperature_c=st.none() | st.floats(-20.0, 120.0),
    throttled=st.none() | st.sampled_from([(), ("clock",), ("clock", "heat")]),
    under_voltage=st.none() | st.booleans(),
    memory_available=st.none() | st.floats(0.0, 1.0),
    memory_pressure=st.none() | st.floats(0.0, 1.0),
    cpu_others=st.none() | st.floats(0.0, 1.0),
    disk_free_bytes=st.none() | st.integers(0, 10**10),
    on_battery=st.none() | st.booleans(),
    battery_percent=st.none() | st.floats(0.0, 100.0),
    metered=st.none() | st.booleans(),
    link_bytes_per_s=st.none() | st.floats(0.0, 1e6),
    flash_left=st.none() | st.floats(-1.0, 1.0),
)
POLICIES = st.sampled_from(
    [
        Policy(),
        Policy(on_battery="slow", on_metered="slow", throttled="pause", link_pause_bytes_per_s=1e3, dwell_s=0.0),
        Policy(
            on_battery="train", metered=True, on_metered="train", under_voltage="pause", quiet_hours=("22:00-06:30",)
        ),
    ]
)
WORSE_DIRECTION = {
    "temperature_c": 1,
    "memory_pressure": 1,
    "cpu_others": 1,
    "memory_available": -1,
    "disk_free_bytes": -1,
    "battery_percent": -1,
    "link_bytes_per_s": -1,
    "flash_left": -1,
}


def reading(**changes: Any) -> Reading:
    return msgspec.structs.replace(GOOD, **changes)


def decide(decider: Decider, now_s: float, local_minutes: int = NOON, **changes: Any) -> Decision:
    return decider.decide(reading(**changes), now_s, local_minutes)


def test_a_board_that_is_well_trains() -> None:
    assert Decider(Policy()).decide(GOOD, 0.0, NOON) == Decision("train", ())


@given(st.lists(st.integers(0, 24 * 60 - 1), min_size=1))
def test_a_board_without_sensors_trains(local: list[int]) -> None:
    decider = Decider(Policy())
    assert all(decider.decide(Reading(), float(number), clock) == Decision() for number, clock in enumerate(local))


@pytest.mark.parametrize(
    ("changes", "pace", "reason"),
    [
        ({"temperature_c": 81.0}, "slow", "temperature 81.0 C, slows at 75.0 C"),
        ({"temperature_c": 85.1}, "pause", "temperature 85.1 C, pauses at 85.0 C"),
        ({"throttled": ("frequency capped", "throttled")}, "slow", "throttled frequency capped, throttled"),
        ({"under_voltage": True}, "slow", "under-voltage"),
        ({"memory_available": 0.03}, "pause", "memory-available 3.0%, pauses at 4.0%"),
        ({"memory_pressure": 0.2}, "slow", "memory-pressure 20.0%, slows at 10.0%"),
        ({"cpu_others": 0.6}, "slow", "cpu-others 60%, slows at 50%"),
        ({"disk_free_bytes": 1000}, "pause", "disk-free 0 MB, pauses at 268 MB"),
        ({"on_battery": True}, "pause", "on-battery"),
        ({"battery_percent": 19.0}, "pause", "battery 19 %, pauses at 20 %"),
        ({"metered": True}, "pause", "metered"),
        ({"link_bytes_per_s": 2e3}, "slow", "link 2.0 kB/s, slows at 8.0 kB/s"),
        ({"flash_left": -0.02}, "pause", "flash-budget used up, pauses until 10% is back"),
    ],
)
def test_each_reason_by_itself(changes: dict[str, Any], pace: Pace, reason: str) -> None:
    assert decide(Decider(Policy()), 0.0, **changes) == Decision(pace, (reason,))


def test_pause_goes_before_slow_and_the_worst_reason_comes_first() -> None:
    decision = decide(Decider(Policy()), 0.0, temperature_c=80.0, on_battery=True, cpu_others=0.7)
    assert decision.pace == "pause"
    assert decision.causes == ("on-battery", "temperature", "cpu-others")


@pytest.mark.parametrize("band", BANDS, ids=lambda band: str(band[0]))
@given(data=st.data())
def test_readings_between_the_two_thresholds_change_nothing(band: Any, data: st.DataObject) -> None:
    name, slow, pause, slow_left, pause_left, good, bad = band
    thresholds: list[tuple[Pace, Any, Any]] = [("slow", slow, slow_left), ("pause", pause, pause_left)]
    for pace, enter, leave in thresholds:
        if enter is None:
            continue
        shares = data.draw(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=20))
        values = [leave + share * (enter - leave) if share < 1.0 else enter for share in shares]
        fresh = Decider(Policy())
        for at, value in enumerate(values):
            assert SEVERITY[decide(fresh, 10.0 * at, **{name: value}).pace] < SEVERITY[pace]
        held = Decider(Policy())
        decide(held, 0.0, **{name: bad})
        for at, value in enumerate(values):
            seen = decide(held, 1e4 * (at + 1), **{name: value})
            assert SEVERITY[seen.pace] >= SEVERITY[pace]
        assert decide(held, 1e6, **{name: good}).pace != "train"
        assert decide(held, 1e6 + 59.0, **{name: good}).pace != "train"
        assert decide(held, 1e6 + 60.0, **{name: good}).pace == "train"


def test_a_reading_must_be_good_without_a_break() -> None:
    decider = Decider(Policy())
    decide(decider, 0.0, temperature_c=80.0)
    assert decide(decider, 10.0, temperature_c=60.0).pace == "slow"
    assert decide(decider, 60.0, temperature_c=72.0).reasons == ("temperature 72.0 C, slows until 70.0 C",)
    assert decide(decider, 70.0, temperature_c=60.0).pace == "slow"
    assert decide(decider, 129.0, temperature_c=60.0).pace == "slow"
    assert decide(decider, 130.0, temperature_c=60.0).pace == "train"


def test_a_used_up_budget_of_bytes_says_how_much_is_back() -> None:
    decider = Decider(Policy())
    decide(decider, 0.0, flash_left=-0.11)
    assert decide(decider, 10.0, flash_left=0.06).reasons == ("flash-budget 6% back, pauses until 10% is back",)
    assert decide(decider, 20.0, flash_left=None).reasons == ("flash-budget unknown by now",)


def test_a_pause_becomes_slow_before_it_ends() -> None:
    decider = Decider(Policy())
    assert decide(decider, 0.0, temperature_c=90.0).pace == "pause"
    decide(decider, 1.0, temperature_c=78.0)
    assert decide(decider, 61.0, temperature_c=78.0).pace == "slow"
    decide(decider, 62.0, temperature_c=65.0)
    assert decide(decider, 122.0, temperature_c=65.0).pace == "train"


def test_a_sensor_that_goes_away_lets_go_after_the_dwell() -> None:
    decider = Decider(Policy())
    decide(decider, 0.0, temperature_c=90.0)
    assert decide(decider, 1.0, temperature_c=None).pace == "pause"
    assert decide(decider, 61.0, temperature_c=None).pace == "train"


@given(POLICIES, st.lists(READINGS, max_size=8), READINGS, READINGS, st.floats(0.1, 100.0))
def test_a_worse_reading_never_gives_an_easier_pace(
    policy: Policy, before: list[Reading], one: Reading, other: Reading, apart_s: float
) -> None:
    """From the same past, whatever is replaced by something worse in the next reading."""
    first, second = Decider(policy), Decider(policy)
    for number, past in enumerate(before):
        for decider in (first, second):
            decider.decide(past, number * apart_s, NOON)
    worse = one
    for name, direction in WORSE_DIRECTION.items():
        mine, theirs = getattr(one, name), getattr(other, name)
        if mine is not None and theirs is not None:
            worse = msgspec.structs.replace(worse, **{name: direction * max(direction * mine, direction * theirs)})
    for name in ("under_voltage", "on_battery", "metered"):
        worse = msgspec.structs.replace(worse, **{name: getattr(one, name) or getattr(other, name)})
    worse = msgspec.structs.replace(worse, throttled=one.throttled or other.throttled)
    now_s = len(before) * apart_s
    easy, hard = first.decide(one, now_s, NOON), second.decide(worse, now_s, NOON)
    assert SEVERITY[hard.pace] >= SEVERITY[easy.pace]
    assert set(easy.causes) <= set(hard.causes)


@given(POLICIES, st.lists(st.tuples(READINGS, st.floats(0.0, 30.0), st.integers(0, 1439)), max_size=30))
def test_a_cause_holds_for_the_dwell_at_least(policy: Policy, world: list[tuple[Reading, float, int]]) -> None:
    decider, now_s = Decider(policy), 0.0
    began: dict[str, float] = {}
    for look, later_s, clock in world:
        now_s += later_s
        decision = decider.decide(look, now_s, clock)
        for cause in set(began) - set(decision.causes):
            assert now_s - began.pop(cause) >= policy.dwell_s
        for cause in decision.causes:
            began.setdefault(cause, now_s)
        assert (decision.pace == "train") == (not decision.reasons)
        assert len(decision.reasons) == len(set(decision.causes)) <= len(msgspec.structs.fields(Reading)) + 1


@pytest.mark.parametrize(
    ("hours", "clock", "quiet"),
    [
        ("08:00-18:00", "07:59", False),
        ("08:00-18:00", "08:00", True),
        ("08:00-18:00", "17:59", True),
        ("08:00-18:00", "18:00", False),
        ("22:00-06:30", "23:30", True),
        ("22:00-06:30", "00:00", True),
        ("22:00-06:30", "06:29", True),
        ("22:00-06:30", "06:30", False),
        ("22:00-06:30", "21:59", False),
        ("12:00-00:00", "23:59", True),
        ("12:00-00:00", "00:00", False),
    ],
)
def test_quiet_hours_may_cross_midnight(hours: str, clock: str, quiet: bool) -> None:
    at = minutes(f"{clock}-00:00")[0]
    decision = Decider(Policy(quiet_hours=(hours,))).decide(GOOD, 0.0, at)
    assert decision == (Decision("pause", (f"quiet-hours {hours}",)) if quiet else Decision())


def test_what_the_owner_says_of_the_network_goes_before_what_the_board_says() -> None:
    assert decide(Decider(Policy(metered=True)), 0.0, metered=None).causes == ("metered",)
    assert decide(Decider(Policy(metered=False)), 0.0, metered=True).pace == "train"


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature_slow_c": 90.0},
        {"battery_slow_percent": 10.0},
        {"memory_available_pause": 0.5},
        {"quiet_hours": ["08:00-08:00"]},
        {"quiet_hours": ["8:00-9:00"]},
        {"quiet_hours": ["08:00-24:00"]},
        {"on_battery": "sleep"},
        {"slow_duty_cycle": 0.0},
        {"temperatur_slow_c": 60.0},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, Policy)
