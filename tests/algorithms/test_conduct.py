"""One device's line, and where its figures lie among the others'."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.algorithms.conduct import COSINES, Conduct, Spread

VALUES = st.floats(-100.0, 100.0)


def test_a_usual_length_follows_the_last_few() -> None:
    line = Conduct("pi").after_length(4.0, None)
    assert (line.length, line.tail_length) == (4.0, None)
    line = line.after_length(None, 1.0)
    assert (line.length, line.tail_length) == (4.0, 1.0), "an update of zeros says nothing"
    assert line.after_length(2.0, 2.0).length == pytest.approx(3.0)


def test_a_usual_direction_is_a_mean_first_and_fades_then() -> None:
    line = Conduct("pi")
    for cosine in (0.2, -0.4, 0.5):
        line = line.after_direction(cosine, 100)
    assert line.cosines == 3
    assert line.cosine == pytest.approx(0.1)
    assert line.chance == pytest.approx(100 * (0.04 + 0.16 + 0.25) / 3)
    for _ in range(10 * COSINES):
        line = line.after_direction(-1.0, 100)
    assert line.cosine == pytest.approx(-1.0, abs=1e-4)


@given(st.lists(VALUES, min_size=1, max_size=30))
def test_median_and_deviation(values: list[float]) -> None:
    spread = Spread()
    for number, value in enumerate(values):
        spread.put(f"d{number}", value)
    spread.drop("somebody else")
    spread._middle = None
    centre, sigma = spread.middle()
    assert centre == statistics.median(values)
    assert sigma == pytest.approx(1.4826 * statistics.median(abs(value - centre) for value in values))
    assert spread.of_others("d0") == values[1:]


def test_figures_follow_as_soon_as_an_eighth_of_the_devices_have_changed() -> None:
    spread = Spread()
    for number in range(16):
        spread.put(f"d{number}", 0.0)
    assert spread.middle() == (0.0, 0.0)
    for number in range(16):
        spread.put(f"d{number}", 5.0)
        if number < 2:
            assert spread.middle() == (0.0, 0.0)
    assert spread.middle()[0] == 5.0


def test_a_device_has_one_value_and_may_lose_it() -> None:
    spread = Spread()
    for value in (1.0, 2.0, 3.0):
        spread.put("pi", value)
    assert (len(spread), spread.middle()[0]) == (1, 3.0)
    spread.drop("pi")
    assert len(spread) == 0
