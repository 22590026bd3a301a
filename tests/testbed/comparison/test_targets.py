"""A target is reached when the mean over one virtual second holds it, not when one evaluation touches it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.comparison import targets
from testbed.comparison.run_spec import CurvePoint
from testbed.comparison.targets import Sample

RISING = [(0.5 * step, 0.1 * step) for step in range(10)]  # 0.2 per second


def test_the_mean_lags_half_a_second_behind_a_straight_line() -> None:
    """At second 2.5 the value is 0.5, and the mean over the last second that at second 2.0, 0.4."""
    assert targets.time_to(0.4, RISING, "accuracy", 1.0) == 2.5
    assert targets.time_to(0.41, RISING, "accuracy", 1.0) == 3.0


def test_a_lower_loss_is_better() -> None:
    falling = [(at_s, 1.0 - value) for at_s, value in RISING]
    assert targets.time_to(0.6, falling, "loss", 1.0) == 2.5
    assert targets.best(falling, "loss", 1.0) == pytest.approx(1.0 - 0.8)


def test_one_lucky_evaluation_is_not_enough() -> None:
    values = [(0.0, 0.5), (0.5, 0.5), (1.0, 0.95), (1.5, 0.5), (2.0, 0.5), (3.0, 0.95), (4.0, 0.95)]
    assert targets.time_to(0.9, values, "accuracy", 1.0) == 4.0


def test_nothing_is_reached_before_the_mean_can_be_taken() -> None:
    assert targets.time_to(0.5, [(0.0, 0.9), (0.9, 0.9)], "accuracy", 1.0) is None
    assert targets.time_to(0.5, [(0.0, 0.9), (0.9, 0.9), (1.0, 0.9)], "accuracy", 1.0) == 1.0


def test_a_gap_longer_than_the_hold_is_bridged_by_its_end() -> None:
    """From 0 at second 0 to 1 at second 10: over the last second the line is at 0.95 on average."""
    assert targets.final([(0.0, 0.0), (10.0, 1.0)], 1.0) == pytest.approx(0.95)


def test_the_end_of_a_short_run_is_the_mean_of_what_there_is() -> None:
    assert targets.final([], 1.0) is None
    assert targets.final([(0.0, 0.2), (0.5, 0.4)], 1.0) == pytest.approx(0.3)
    assert targets.best([(0.0, 0.2), (0.5, 0.4)], "accuracy", 1.0) == pytest.approx(0.3)


def test_the_best_is_not_the_last() -> None:
    swinging = [(0.0, 0.0), (1.0, 0.8), (2.0, 0.8), (3.0, 0.1), (4.0, 0.1)]
    assert targets.best(swinging, "accuracy", 1.0) == pytest.approx(0.8)
    assert targets.final(swinging, 1.0) == pytest.approx(0.1)


samples = st.lists(st.tuples(st.floats(0.01, 2.0), st.floats(0.0, 1.0)), min_size=1, max_size=30).map(
    lambda steps: [(sum(gap for gap, _ in steps[: index + 1]), value) for index, (_, value) in enumerate(steps)]
)


@given(samples, st.floats(0.0, 1.0), st.floats(0.1, 3.0))
def test_a_harder_target_is_never_reached_sooner(values: list[Sample], target: float, hold_s: float) -> None:
    easy, hard = (targets.time_to(one, values, "accuracy", hold_s) for one in (0.5 * target, target))
    if hard is not None:
        assert easy is not None
        assert easy <= hard


@given(samples, st.floats(0.1, 3.0))
def test_a_mean_lies_between_the_values(values: list[Sample], hold_s: float) -> None:
    numbers = [value for _, value in values]
    for mean in (targets.final(values, hold_s), targets.best(values, "accuracy", hold_s)):
        assert mean is not None
        assert min(numbers) - 1e-6 <= mean <= max(numbers) + 1e-6


def point(at_s: float, regional: float | None, federated: float | None = None) -> CurvePoint:
    return CurvePoint(
        at_s=at_s, regional_accuracy=regional, regional_loss=None, federated_accuracy=federated,
        federated_loss=None, updates=0, bytes_up=0, bytes_down=0, bytes_peers=0,
    )  # fmt: skip


def ends(curve: list[CurvePoint], patience_s: float | None = 1.0, model: str = "regional") -> bool:
    return targets.may_end(
        curve, targets=(0.5, 0.9), metric="accuracy", model="federated" if model == "federated" else "regional",
        hold_s=1.0, patience_s=patience_s,
    )  # fmt: skip


def test_a_run_ends_once_every_target_is_reached_and_patience_is_over() -> None:
    curve = [point(0.0, 0.95), point(1.0, 0.95), point(1.9, 0.95)]
    assert not ends(curve)
    assert ends([*curve, point(2.0, 0.1)])
    assert not ends([*curve, point(2.0, 0.1)], patience_s=None)
    assert not ends([point(0.0, 0.6), point(1.0, 0.6), point(9.0, 0.6)])
    assert not ends([])


def test_the_judged_model_decides_and_what_was_not_measured_is_left_out() -> None:
    curve = [point(0.0, 0.1, 0.95), point(0.5, 0.1, None), point(1.0, 0.1, 0.95), point(2.0, 0.1, 0.95)]
    assert ends(curve, model="federated")
    assert not ends(curve)
    assert targets.samples(curve, "accuracy", "federated") == [(0.0, 0.95), (1.0, 0.95), (2.0, 0.95)]
