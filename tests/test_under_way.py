"""Work that hangs in a thread is noticed, and work that goes on is not."""

import threading

import pytest

from skerry.under_way import UnderWay


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_nothing_under_way_is_never_stuck(clock: Clock) -> None:
    assert UnderWay(clock, stuck_s=10.0).stuck(1e9) is None


def test_what_takes_too_long_is_named_with_its_time(clock: Clock) -> None:
    under_way = UnderWay(clock, stuck_s=10.0)
    with under_way.doing("a local step"):
        assert under_way.stuck(10.0) is None
        assert under_way.stuck(11.0) == "a local step has not ended for 11 s"
    assert under_way.stuck(11.0) is None


def test_the_oldest_work_counts_also_behind_younger_of_the_same_name(clock: Clock) -> None:
    under_way = UnderWay(clock, stuck_s=10.0)
    with under_way.doing("a"):
        clock.now_s = 5.0
        with under_way.doing("a"), under_way.doing("b"):
            assert under_way.stuck(12.0) == "a has not ended for 12 s"
        assert under_way.stuck(12.0) == "a has not ended for 12 s"


def test_many_short_pieces_of_work_are_no_hang(clock: Clock) -> None:
    under_way = UnderWay(clock, stuck_s=10.0)
    for second in range(100):
        clock.now_s = float(second)
        with under_way.doing("a local step"):
            assert under_way.stuck(second + 9.0) is None


def test_work_that_fails_has_ended(clock: Clock) -> None:
    under_way = UnderWay(clock, stuck_s=10.0)

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        under_way.noting("a write", fail)()
    assert under_way.stuck(100.0) is None


def test_noted_work_gives_its_result_and_is_seen_from_another_thread(clock: Clock) -> None:
    under_way = UnderWay(clock, stuck_s=10.0)
    begun, go_on = threading.Event(), threading.Event()
    results: list[int] = []

    def work() -> int:
        begun.set()
        assert go_on.wait(10)
        return 7

    thread = threading.Thread(target=lambda: results.append(under_way.noting("a write", work)()))
    thread.start()
    assert begun.wait(10)
    assert under_way.stuck(11.0) == "a write has not ended for 11 s"
    go_on.set()
    thread.join(10)
    assert results == [7]
    assert under_way.stuck(11.0) is None
