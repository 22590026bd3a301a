"""How fast this device trains: the estimate that its step count comes from, and the duty cycle. Pure arithmetic."""

from collections import deque
from collections.abc import Sequence
from statistics import median, median_low

CYCLES = 5  # the estimate is the median of so many cycles: two spoilt ones leave it alone, three new ones move it
REST_SECONDS_MIN = 2e-3  # shorter sleeps are inexact: they are saved up


class SpeedEstimate:
    """Seconds per step, from what each cycle's steps took.

    Twice a median: over the steps of a cycle, then over the last CYCLES cycles. A spike of any height, be it one step
    or all of a cycle, cannot move it beyond what the other cycles said; a board that throttles is followed within
    three cycles. (An average, moving or not, does neither.)
    """

    def __init__(self, calibration: Sequence[float]) -> None:
        """Start from the seconds of each calibration step; not empty, each > 0."""
        first = median(calibration)
        self._cycles = deque([first] * CYCLES, maxlen=CYCLES)

    @property
    def seconds_per_step(self) -> float:
        """The estimate, > 0."""
        return median_low(self._cycles)

    def observe(self, seconds: Sequence[float]) -> None:
        """Take the seconds of each step of one more cycle; not empty, each > 0."""
        self._cycles.append(median(seconds))


class DutyCycle:
    """Lets steps compute for a share of the time only, and says what each step took, its rest included.

    After a step that computed for t seconds the device rests for t / share - t. Rests are saved up until they are worth
    a sleep; a sleep that took too long shortens the next one, so that the share stays exact over many steps.
    """

    def __init__(self, share: float, slow_share: float = 1.0) -> None:
        """Both are in (0, 1]; 1 never rests. `slow_share` is of `share`, for as long as `slow` is set."""
        self.set(share, slow_share)
        self.slow = False  # another thread may set it: it counts from the next step on
        self._owed_s = 0.0
        self._block_s = 0.0  # computing since the last rest
        self._block_steps = 0

    def set(self, share: float, slow_share: float) -> None:
        """Take other shares, from the next step on; another thread than that of the steps may ask for it."""
        assert 0.0 < share <= 1.0
        assert 0.0 < slow_share <= 1.0
        self._share, self._slow_share = share, slow_share

    def worked(self, seconds: float, *, computed_s: float | None = None, last: bool = False) -> float | None:
        """Take one step's time; return how long to rest now, then call `rested`. None: go on at once.

        `computed_s`: of `seconds`, how much it really had the processor; None: all. A rest is owed for that alone, or
        a step that others kept waiting would be slowed down once more. `last`: of a cycle, after which nothing is
        saved up.
        """
        share = self._share * self._slow_share if self.slow else self._share
        self._block_s += seconds
        self._block_steps += 1
        self._owed_s += (seconds if computed_s is None else computed_s) * (1.0 / share - 1.0)
        due = last or share == 1.0 or self._owed_s >= REST_SECONDS_MIN
        return max(0.0, self._owed_s) if due else None

    def rested(self, seconds: float) -> list[float]:
        """Take how long the rest really was; return the seconds of each step since the last one.

        Steps that shared one rest share it equally.
        """
        self._owed_s -= seconds
        each = (self._block_s + seconds) / self._block_steps
        steps = [each] * self._block_steps
        self._block_s, self._block_steps = 0.0, 0
        return steps
