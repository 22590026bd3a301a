"""How much longer a comparison takes, from how long its runs took so far. Pure."""

from collections.abc import Mapping
from statistics import fmean

from testbed.comparison.crew import State
from testbed.comparison.plan import RunKey

FRACTION_MIN = 0.05  # of a run, before its own pace says anything


def left_s(state: State, now_s: float, jobs: int) -> float | None:
    """Return the wall seconds that are left, None while nothing is known.

    A run is expected to take as long as others of its world and arm did, else of its world, else any other.

    Args:
        state: what is done and what is under way.
        now_s: on the clock of the jobs' `since_s`.
        jobs: runs at a time.
    """
    walls = {key: result.wall_s for key, result in state.results.items()}
    for key, job in state.running.items():
        done = job.progress.at_s / job.progress.duration_s if job.progress else 0.0
        if key not in walls and done >= FRACTION_MIN:
            walls[key] = (now_s - job.since_s) / done
    if not walls:
        return None
    due = state.plan.due(state.results, state.failed)
    waiting = [key for key in due if key not in state.results and key not in state.failures]
    under_way = sum(
        max(0.0, _expected(key, walls) - (now_s - state.running[key].since_s))
        for key in waiting
        if key in state.running
    )
    to_begin = sum(_expected(key, walls) for key in waiting if key not in state.running)
    unknown = max(0, state.plan.total(state.failed) - len(due)) * fmean(walls.values())
    return (under_way + to_begin + unknown) / jobs


def _expected(key: RunKey, walls: Mapping[RunKey, float]) -> float:
    if key in walls:
        return walls[key]
    same_world = {one: wall for one, wall in walls.items() if one.world == key.world}
    same_arm = [wall for one, wall in same_world.items() if one.arm == key.arm]
    return fmean(same_arm or same_world.values() or walls.values())
