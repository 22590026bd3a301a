"""How long local steps take here, as the agent takes them: the one measurement behind `bench` and `doctor`."""

from collections.abc import Callable

import numpy as np

from edge_agent.calibration import DutyCycle
from edge_agent.local_cycle import Clock, LocalCycle, Mailbox
from skerry.agent_stages import AgentStages
from skerry.tasks.bundle import Bundle
from skerry.training.batches import Batches
from skerry.training.local_run import LocalRun
from skerry.training.trainer import Trainer

STEPS_MIN = 5  # in all, however long they take

Progress = Callable[[int, int], None]  # steps taken, steps at most


def step_times(
    trainer: Trainer,
    bundle: Bundle,
    batches: Batches,
    *,
    steps: int,
    warm_up: int,
    seconds_max: float,
    clock: Clock,
    progress: Progress = lambda done, steps: None,
) -> list[float]:
    """Return the seconds of each of at most `steps` local steps, of a model that is thrown away; not empty.

    They come after `warm_up` others. Once `seconds_max` have gone by, the step under way is the last one; then no more
    than the first quarter of all counts as warm-up.
    """
    stages, initial = AgentStages(), bundle.initial_parameters()
    run = LocalRun(
        trainer,
        batches,
        optimizer=stages.optimizer,
        uplink=stages.uplink,
        merge=stages.merge,
        start=initial,
        residual=np.zeros_like(initial),
        learning_rate=bundle.manifest.defaults.learning_rate,
    )
    total = warm_up + steps
    cycle = LocalCycle(run, total, None, Mailbox(), DutyCycle(1.0), clock)
    started_s = clock()
    for _ in cycle.pauses():
        done = len(cycle.seconds)
        progress(done, total)
        if done >= min(STEPS_MIN, total) and clock() - started_s >= seconds_max:
            break
    taken = len(cycle.seconds)
    return cycle.seconds[warm_up if taken == total else min(warm_up, taken // 4) :]
