"""Which keys of its configuration a running coordinator takes anew: those that no part was built by."""

from msgspec.structs import replace

from coordinator.config import CoordinatorConfig
from skerry.reload import Differences, compare

RELOADABLE = frozenset({"log_json", "evaluation.every_s", "limits.connections_max"})


def taken(running: CoordinatorConfig, wanted: CoordinatorConfig) -> tuple[CoordinatorConfig, Differences]:
    """Return the configuration that is in force once `wanted` was read, and what differs."""
    evaluation = running.evaluation
    if evaluation is not None and wanted.evaluation is not None:
        evaluation = replace(evaluation, every_s=wanted.evaluation.every_s)
    in_force = replace(
        running,
        log_json=wanted.log_json,
        evaluation=evaluation,
        limits=replace(running.limits, connections_max=wanted.limits.connections_max),
    )
    return in_force, compare(running, wanted, RELOADABLE)
