from hypothesis import given
from hypothesis import strategies as st

from edge_agent.upload_window import PARTS_MAX, QUICK_S, UploadWindow


@given(st.lists(st.floats(0.0, 3.0), max_size=60))
def test_never_more_under_way_than_allowed_and_never_stuck(round_trips: list[float]) -> None:
    window, now_s, under_way = UploadWindow(), 0.0, 0
    for round_trip_s in round_trips:
        while window.is_open:
            window.sent(now_s, 65536)
            under_way += 1
            assert under_way <= PARTS_MAX
        last_s = now_s
        now_s += round_trip_s + 1e-6
        window.echoed(last_s, now_s)
        under_way = 0
        assert window.is_open


def test_quick_echoes_open_it_and_a_slow_one_narrows_it() -> None:
    window = UploadWindow()
    for allowed in (1, 2, 4, 8, 16, 16):
        for number in range(allowed):
            assert window.is_open
            window.sent(float(number), 65536)
        assert not window.is_open
        window.echoed(float(allowed), float(allowed) + QUICK_S)
    window.sent(100.0, 65536)
    window.echoed(100.0, 100.0 + 2 * QUICK_S)
    window.sent(200.0, 65536)
    assert not window.is_open


def test_an_echo_of_something_else_changes_nothing() -> None:
    window = UploadWindow()
    window.sent(5.0, 65536)
    window.echoed(4.0, 4.1)
    assert not window.is_open
    window.echoed(5.0, 5.1)
    window.echoed(6.0, 6.1)
    window.sent(7.0, 65536)
    window.sent(7.0, 65536)
    assert not window.is_open


def test_the_rate_is_that_of_the_newest_parts_and_their_echo() -> None:
    window = UploadWindow()
    window.sent(1.0, 50_000)
    assert window.echoed(1.0, 1.5) == 100_000.0
    window.sent(2.0, 50_000)
    window.sent(2.1, 30_000)
    assert window.echoed(2.1, 4.0) == 40_000.0
    assert window.echoed(3.0, 9.0) is None  # behind no part
