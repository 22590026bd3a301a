"""When a run reached a target, how well it did at the end and at its best, and when it may end. Pure."""

from collections.abc import Sequence

from testbed.comparison.run_spec import CurvePoint
from testbed.comparison.scenario import Metric, ModelKind

ROUNDING_S = 1e-9  # by which times that are meant to be equal may differ

Sample = tuple[float, float]  # virtual second, value of the metric


def samples(curve: Sequence[CurvePoint], metric: Metric, model: ModelKind) -> list[Sample]:
    """Return a measure of a run over time, without the points at which it was not measured."""
    values = ((point.at_s, point.value(metric, model)) for point in curve)
    return [(at_s, value) for at_s, value in values if value is not None]


def time_to(target: float, values: Sequence[Sample], metric: Metric, hold_s: float) -> float | None:
    """Return the first moment at which the mean over the last `hold_s` seconds holds `target`; None: never.

    The mean is over time, with straight lines between samples. The moment is that of a sample: a target is reached when
    an evaluation shows it, and not before `hold_s` after the first one.
    """
    sign = 1.0 if metric == "accuracy" else -1.0
    for index, (at_s, _) in enumerate(values):
        mean = _trailing_mean(values, index, hold_s)
        if mean is not None and sign * mean >= sign * target:
            return at_s
    return None


def final(values: Sequence[Sample], hold_s: float) -> float | None:
    """Return the mean over the last `hold_s` seconds; of all there is where that is less; None: nothing is there."""
    if not values:
        return None
    mean = _trailing_mean(values, len(values) - 1, hold_s)
    return mean if mean is not None else sum(value for _, value in values) / len(values)


def best(values: Sequence[Sample], metric: Metric, hold_s: float) -> float | None:
    """Return the best mean over `hold_s` seconds at any time, as `final` would have given it then."""
    means = [mean for index in range(len(values)) if (mean := _trailing_mean(values, index, hold_s)) is not None]
    if not means:
        return final(values, hold_s)
    return max(means) if metric == "accuracy" else min(means)


def may_end(
    curve: Sequence[CurvePoint],
    *,
    targets: Sequence[float],
    metric: Metric,
    model: ModelKind,
    hold_s: float,
    patience_s: float | None,
) -> bool:
    """Say whether a run has reached every target, and that `patience_s` before its newest point."""
    if patience_s is None or not targets or not curve:
        return False
    values = samples(curve, metric, model)
    times = [time_to(target, values, metric, hold_s) for target in targets]
    return all(at_s is not None and curve[-1].at_s - at_s >= patience_s for at_s in times)


def _trailing_mean(values: Sequence[Sample], last: int, hold_s: float) -> float | None:
    """Return the mean over the `hold_s` seconds before sample `last`, None where the first sample is younger."""
    start_s = values[last][0] - hold_s
    if values[0][0] > start_s + ROUNDING_S:
        return None
    total = 0.0
    for index in range(last, 0, -1):
        (since_s, before), (until_s, after) = values[index - 1], values[index]
        if since_s < start_s:  # the window begins between the two
            before += (after - before) * (start_s - since_s) / (until_s - since_s)
            since_s = start_s
        total += (before + after) / 2.0 * (until_s - since_s)
        if since_s <= start_s + ROUNDING_S:
            break
    return total / hold_s
