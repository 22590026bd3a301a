"""Which keys of its configuration a running agent takes anew: those that no part was built by."""

from msgspec.structs import replace

from edge_agent.config import AgentConfig
from skerry.policy import Policy
from skerry.reload import Differences, compare

# The whole policy, but not whether there is one.
RELOADABLE = frozenset({"log_json", "training.duty_cycle"}) | {
    f"policy.{name}" for name in Policy.__struct_fields__ if name != "enabled"
}


def taken(running: AgentConfig, wanted: AgentConfig) -> tuple[AgentConfig, Differences]:
    """Return the configuration that is in force once `wanted` was read, and what differs.

    A seed that was drawn at the start counts as unchanged where `wanted` names none.
    """
    if wanted.training.seed is None:
        wanted = replace(wanted, training=replace(wanted.training, seed=running.training.seed))
    in_force = replace(
        running,
        log_json=wanted.log_json,
        training=replace(running.training, duty_cycle=wanted.training.duty_cycle),
        policy=replace(wanted.policy, enabled=running.policy.enabled),
    )
    return in_force, compare(running, wanted, RELOADABLE)
