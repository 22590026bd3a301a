"""Several runs of one arm as one line with a band: the median over seeds, and the lowest and highest of them. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from testbed.comparison.run_spec import CurvePoint
from testbed.comparison.scenario import Metric, ModelKind

POINTS = 160  # of a line: more than a plot has room for would only make the page larger

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """A line over `x`, which rises."""

    x: Array  # float64 of shape (points,): virtual seconds, or bytes
    median: Array  # of the same shape
    low: Array
    high: Array


def over_time(curves: Sequence[Sequence[CurvePoint]], metric: Metric, model: ModelKind) -> Band | None:
    """Return the metric over virtual time; a run that ended early goes on with its last value. None: there is none."""
    lines = [line for curve in curves if (line := _line(curve, metric, model, lambda point: point.at_s))]
    if not lines:
        return None
    end = max(x[-1] for x, _ in lines)
    start = max(x[0] for x, _ in lines)
    return _band(np.linspace(start, max(end, start), POINTS), lines)


def over_bytes(curves: Sequence[Sequence[CurvePoint]], metric: Metric, model: ModelKind) -> Band | None:
    """Return the metric over all bytes sent so far, on points of equal ratio, as far as every run got."""
    lines = [
        line
        for curve in curves
        if (line := _line([point for point in curve if _bytes(point) > 0], metric, model, _bytes))
    ]
    if not lines:
        return None
    start, end = max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines)
    return _band(np.geomspace(start, max(end, start), POINTS), lines)


def _bytes(point: CurvePoint) -> float:
    return float(point.bytes_up + point.bytes_down + point.bytes_peers)


def _line(
    curve: Sequence[CurvePoint], metric: Metric, model: ModelKind, x_of: Callable[[CurvePoint], float]
) -> tuple[Array, Array] | None:
    values = [(x_of(point), value) for point in curve if (value := point.value(metric, model)) is not None]
    if not values:
        return None
    x, y = np.array(values, np.float64).T
    return x, y


def _band(x: Array, lines: Sequence[tuple[Array, Array]]) -> Band:
    values = np.stack([np.interp(x, *line) for line in lines])
    return Band(x, np.median(values, axis=0), values.min(axis=0), values.max(axis=0))
