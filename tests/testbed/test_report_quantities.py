"""Numbers read as people write them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.report import quantities


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (950, "950 B"),
        (999.4, "999 B"),
        (1000, "1 kB"),
        (12_345, "12.3 kB"),
        (999_700, "1 MB"),
        (4.56e9, "4.56 GB"),
    ],
)
def test_sizes_have_decimal_prefixes(count: float, words: str) -> None:
    assert quantities.size(count) == words


@given(st.floats(0.0, 1e14))
def test_a_size_never_shows_more_than_three_digits(count: float) -> None:
    shown, _, unit = quantities.size(count).partition(" ")
    assert re.fullmatch(r"[kMGT]?B", unit)
    assert sum(letter.isdigit() for letter in shown) <= 4  # "0.01" never: prefixes start at one
    assert "e" not in shown


@given(st.floats(1.0, 1e14))
def test_a_size_is_true_to_half_a_percent(count: float) -> None:
    shown, _, unit = quantities.size(count).partition(" ")
    factor = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert float(shown) * factor == pytest.approx(count, rel=0.005, abs=0.5)


@pytest.mark.parametrize(
    ("bits_per_s", "words"),
    [
        (None, "unlimited"),
        (1e7, "10 Mbit/s"),
        (4.8e8, "480 Mbit/s"),
        (2.5e5, "250 kbit/s"),
        (1e9, "1 Gbit/s"),
        (300, "300 bit/s"),
    ],
)
def test_bandwidths_are_in_bits(bits_per_s: float | None, words: str) -> None:
    assert quantities.rate(bits_per_s) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.04, "40 ms"), (0.0005, "0.5 ms"), (0.20392, "204 ms"), (1.25, "1.25 s")]
)
def test_latencies_are_in_milliseconds(seconds: float, words: str) -> None:
    assert quantities.delay(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "0.0 s"), (61.96, "62.0 s"), (200.0, "3 min 20 s"), (3599.6, "1 h 00 min"), (7500.0, "2 h 05 min")],
)
def test_long_times_are_in_minutes_and_hours(seconds: float, words: str) -> None:
    assert quantities.duration(seconds) == words


def test_what_was_not_measured_is_a_dash() -> None:
    assert {quantities.percent(None), quantities.times(None), quantities.number(None)} == {quantities.MISSING}


def test_shares_ratios_and_numbers() -> None:
    assert quantities.percent(0.9411) == "94.1 %"
    assert quantities.percent(0.00123, 2) == "0.12 %"
    assert quantities.times(3.996) == f"4.00 {quantities.TIMES}"
    assert quantities.times(44.6) == f"45 {quantities.TIMES}"
    assert quantities.number(12_345.6) == "12,346"
    assert quantities.number(0.12345) == "0.123"
