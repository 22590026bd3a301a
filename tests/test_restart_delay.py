"""A service that fails again and again is started ever more slowly; one that was stopped by hand is not."""

import json
from pathlib import Path

import pytest

from skerry import restart_delay
from skerry.restart_delay import DELAY_MAX_S, FILE_NAME, FORGIVEN_S, Failures


def row(count: int, apart_s: float = 1.0) -> Failures:
    failures = Failures()
    for number in range(count):
        failures = failures.one_more(100.0 + number * apart_s)
    return failures


def test_the_wait_grows_with_each_failure_in_a_row_up_to_a_bound() -> None:
    waits = [row(count).wait_s(row(count).last_s) for count in range(12)]
    assert waits == [0.0, 0.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, DELAY_MAX_S, DELAY_MAX_S]


def test_thousands_of_failures_wait_no_longer_than_that() -> None:
    assert row(5000, apart_s=DELAY_MAX_S).wait_s(0.0) == DELAY_MAX_S


def test_the_time_that_has_passed_since_counts() -> None:
    failures = row(5)
    assert failures.wait_s(failures.last_s + 10.0) == 6.0
    assert failures.wait_s(failures.last_s + 60.0) == 0.0


def test_a_failure_long_after_the_last_one_begins_a_new_row() -> None:
    failures = row(9)
    assert failures.one_more(failures.last_s + FORGIVEN_S - 1.0).in_a_row == 10
    assert failures.one_more(failures.last_s + FORGIVEN_S).in_a_row == 1


def test_a_clock_behind_the_noted_failure_waits_no_longer_than_the_bound() -> None:
    assert Failures(3, 1e9).wait_s(0.0) == DELAY_MAX_S


class Unit:
    """A unit's runtime folder, and a clock that sleeping moves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now_s = 50.0
        self.slept_s = 0.0

    def call(self, what: str, result: str = "signal") -> int:
        environment = {"RUNTIME_DIRECTORY": str(self.folder), "SERVICE_RESULT": result}
        return restart_delay.run([what], environment, lambda: self.now_s, self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.slept_s += seconds
        self.now_s += seconds


def test_a_start_waits_for_what_the_ends_before_it_noted(tmp_path: Path) -> None:
    unit = Unit(tmp_path)
    for waited_s in (0.0, 0.0, 2.0, 6.0, 14.0):
        assert unit.call("wait") == 0
        assert unit.slept_s == waited_s
        assert unit.call("note") == 0


def test_an_end_in_good_order_is_no_failure(tmp_path: Path) -> None:
    unit = Unit(tmp_path)
    for _ in range(5):
        unit.call("note", "success")
    unit.call("wait")
    assert unit.slept_s == 0.0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "nonsense", "[1]", '["a", 2]', "{}", "[NaN, 1]", "[null, null]"])
def test_a_damaged_note_keeps_no_service_from_starting(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    unit = Unit(tmp_path)
    assert unit.call("wait") == 0
    assert unit.slept_s == 0.0


def test_it_says_why_it_waits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / FILE_NAME).write_text(json.dumps([4, 50.0]))
    Unit(tmp_path).call("wait")
    assert capsys.readouterr().err == "failed 4 times in a row: starting in 8 s\n"


@pytest.mark.parametrize(("arguments", "environment"), [([], {"RUNTIME_DIRECTORY": "/x"}), (["wait"], {})])
def test_outside_a_unit_it_refuses(arguments: list[str], environment: dict[str, str]) -> None:
    assert restart_delay.run(arguments, environment, lambda: 0.0, lambda _: None) == 2
