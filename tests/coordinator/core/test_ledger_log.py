"""Which updates peers are told of: each once, in order, page by page, whatever they say they have come to."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from coordinator.ledger_log import SPARE, LedgerLog
from skerry.protocol.limits import LEDGER_LINES_MAX

KEYS = st.tuples(st.sampled_from("abc"), st.integers(1, 5))


def test_an_empty_log_has_no_place() -> None:
    log = LedgerLog("0a1b2c3d")
    assert log.place == ""
    assert log.behind("") == ([], "", False)


def test_a_line_that_changes_is_told_again_and_one_that_is_dropped_no_more() -> None:
    log = LedgerLog("0a1b2c3d")
    for sequence in (1, 2, 3):
        log.put(("kite", sequence))
    keys, place, _ = log.behind("")
    assert keys == [("kite", 1), ("kite", 2), ("kite", 3)]
    log.put(("kite", 1))
    log.drop(("kite", 2))
    assert log.behind(place) == ([("kite", 1)], log.place, False)
    assert log.behind("")[0] == [("kite", 3), ("kite", 1)]


def test_it_is_told_page_by_page_the_oldest_first() -> None:
    log = LedgerLog("0a1b2c3d")
    sequences = range(1, 2 * LEDGER_LINES_MAX + 8)
    for sequence in sequences:
        log.put(("kite", sequence))
    told: list[int] = []
    place, more = "", True
    while more:
        keys, place, more = log.behind(place)
        assert len(keys) <= LEDGER_LINES_MAX
        told += [sequence for _, sequence in keys]
    assert told == list(sequences)
    assert place == log.place


def test_a_page_costs_no_more_where_there_are_many_lines() -> None:
    looked_at = 0

    class Counted(list[tuple[int, tuple[str, int]]]):
        def __getitem__(self, place: Any) -> Any:
            nonlocal looked_at
            looked_at += 1
            return super().__getitem__(place)

    log = LedgerLog("0a1b2c3d")
    for sequence in range(1, 100_000):
        log.put(("kite", sequence))
    log._order = Counted(log._order)
    for place in ("", "0a1b2c3d:50000", log.place):
        log.behind(place)
    assert looked_at < 3 * (LEDGER_LINES_MAX + 1 + 17)  # 17: 2 ** 17 lines are halved that often


def test_what_changes_for_ever_takes_no_more_room() -> None:
    log = LedgerLog("0a1b2c3d")
    for number in range(20 * SPARE):
        log.put(("kite", 1 + number % 7))
        log.drop(("kite", 1 + number % 3))
    assert len(log._order) <= 2 * 7 + SPARE
    keys, up_to, more = log.behind("")
    assert (sorted(keys), up_to, more) == (sorted(log._places), log.place, False)
    assert keys == sorted(keys, key=log._places.__getitem__)


def test_whoever_has_come_to_a_place_of_another_process_begins_anew() -> None:
    before, log = LedgerLog("00000001"), LedgerLog("00000002")
    for one in (before, log):
        one.put(("kite", 1))
    assert log.behind(before.place) == ([("kite", 1)], log.place, False)


@given(st.lists(KEYS), st.one_of(st.text(max_size=40), st.integers(-5, 10**30).map(lambda n: f"p:{n}")))
def test_any_text_is_a_place_and_no_line_is_told_twice(puts: list[tuple[str, int]], place: str) -> None:
    log = LedgerLog("p")
    for key in puts:
        log.put(key)
    keys, up_to, more = log.behind(place)
    assert len(set(keys)) == len(keys)
    assert set(keys) <= set(puts)
    assert (up_to, more) == (log.place, False)
    assert log.behind(log.place)[0] == []
