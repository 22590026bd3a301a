"""One cycle as the training thread runs it: local steps, newer models let in between, rests kept, each step timed.

Knows no thread: `pauses` is a generator that whoever runs it may leave at any pause.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite

import numpy as np

from edge_agent.calibration import DutyCycle
from skerry.protocol.messages import ModelVersion
from skerry.training.local_run import LocalRun
from skerry.vector import Float32

DIFFERENCE_MAX = 1e30  # beyond, the sum with the residual might leave float32: training has diverged

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, eq=False)
class RegionalModel:
    """A version of the region's model; the array is never changed."""

    version: ModelVersion
    parameters: Float32
    age: float | None = None  # None: not known


class Mailbox:
    """Where the event loop leaves things for the training thread: the newest of each wins.

    `learning_rate` is what the plan says now, None while it says what it said when the cycle began. `ending`: no step
    is to follow the one under way, and those that were taken count. One thread sets them, the other reads them.
    """

    def __init__(self) -> None:
        self._newest: deque[RegionalModel] = deque(maxlen=1)  # whose `append` and `pop` no thread can come between
        self.learning_rate: float | None = None
        self.ending = False

    def put(self, model: RegionalModel) -> None:
        """Leave a model; one that was not fetched is replaced."""
        self._newest.append(model)

    def take(self) -> RegionalModel | None:
        """Fetch what is there."""
        try:
            return self._newest.pop()
        except IndexError:
            return None


class LocalCycle:
    """Takes `steps` local steps in `run`; says afterwards against which base, and what each step took."""

    def __init__(
        self,
        run: LocalRun,
        steps: int,
        base: ModelVersion | None,
        mailbox: Mailbox,
        duty: DutyCycle,
        clock: Clock,
        computed: Clock | None = None,
        base_age: float | None = None,
    ) -> None:
        """`computed` reads how long the calling thread has had the processor; None: whenever it was not at rest."""
        assert steps >= 1
        self._run, self._steps, self._mailbox, self._duty = run, steps, mailbox, duty
        self._clock, self._computed = clock, computed or clock
        self.base, self.base_age = base, base_age  # of the difference; they change with a merge
        self.seconds: list[float] = []  # of each step, rests included

    def pauses(self) -> Iterator[float | None]:
        """Take the steps. Yields None after each, then the seconds to rest before the next one, if any.

        A rest is measured from its yield to the next call.
        """
        resumed_s, computed_s = self._clock(), self._computed()
        for number in range(1, self._steps + 1):
            self._look_into_mailbox()
            self._run.step()
            yield None
            worked_s, computing_s = self._clock(), self._computed() - computed_s
            last = self._mailbox.ending or number == self._steps
            rest_s = self._duty.worked(worked_s - resumed_s, computed_s=computing_s, last=last)
            resumed_s, computed_s = worked_s, computed_s + computing_s
            if rest_s is not None:
                if rest_s > 0.0:
                    yield rest_s
                    resumed_s, computed_s = self._clock(), self._computed()
                self.seconds += self._duty.rested(resumed_s - worked_s)
                if self._mailbox.ending:
                    return

    @property
    def loss(self) -> float:
        """Mean over the steps."""
        return self._run.mean_loss

    @property
    def learning_rate(self) -> float:
        """The highest of all steps, schedule included."""
        return self._run.highest_rate

    def difference(self) -> Float32:
        """Return what was learned since `base`, float32 of shape (size,); the model itself under `whole_model`."""
        return self._run.learned()

    def is_finite(self, difference: Float32) -> bool:
        """Whether the loss and every entry of `difference` are numbers to go on with."""
        return isfinite(self.loss) and bool((np.abs(difference) < DIFFERENCE_MAX).all())

    def _look_into_mailbox(self) -> None:
        learning_rate = self._mailbox.learning_rate
        if learning_rate is not None:
            self._run.learning_rate = learning_rate
        newer = self._mailbox.take()
        if newer is not None and self._run.merge(newer.parameters):
            self.base, self.base_age = newer.version, newer.age
