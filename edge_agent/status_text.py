"""What the agent says of itself, for people: the words of `skerry-agent status`. No I/O."""

from collections.abc import Mapping

from edge_agent.flash import HOUR_S, SPARING
from edge_agent.privacy_text import privacy_text
from edge_agent.recipe_text import most_steps, most_steps_text, rate_text, rows_of
from edge_agent.rest_remedy import remedies
from edge_agent.status import Status
from skerry.policy import FLASH_LEFT, Decision

POLICY_OFF = "policy.enabled is false"


def text(found: Status, now_s: float, silent_s: float | None = None) -> str:
    """Return what `found` says, read at Unix time `now_s`, a line for each of its matters.

    `silent_s`: see `status.silent_s`.
    """
    ago = _span(max(0.0, now_s - found.written_at_s))
    speed = "not calibrated" if found.seconds_per_step is None else f"{found.seconds_per_step:.4g} s per step"
    base = "none" if found.base is None else f"{found.base.lineage} version {found.base.number}"
    decision = Decision(found.pace, found.reasons)
    limit = None if found.recipe is None else most_steps(found.recipe, found.steps_per_cycle)
    rows = [
        ("device", found.device),
        ("region", f"{found.region or 'unknown'}, {'connected' if found.connected else 'not connected'}"),
        *([("quarantine", _quarantine_text(found))] if found.rejected.quarantine else []),
        ("model", base),
        ("training", f"{found.cycles} cycles, {found.steps} steps, {found.steps_per_cycle} a cycle, {speed}"),
        *(
            []
            if limit is None or found.seconds_per_step is None
            else [("", most_steps_text(limit, found.seconds_per_step))]
        ),
        *([] if found.recipe is None else rows_of(found.recipe)),
        *([] if found.learning_rate is None else [("rate", rate_text(found.learning_rate))]),
        ("pace", f"{found.pace}{': ' if found.reasons else ''}{'; '.join(found.reasons)}"),
        *(("", f"-> {remedy}") for remedy in remedies(decision.causes)),
        ("paused", f"{found.paused_s:.0f} s"),
        ("idle", f"{found.idle_share:.1%} of {found.uptime_s:.0f} s"),
        ("outbox", _outbox_text(found)),
        *([("rejected", _rejected_text(found.rejected.updates))] if found.rejected.updates else []),
        ("traffic", f"{found.sent_bytes} bytes sent, {found.received_bytes} received"),
        ("memory", f"{found.resident_bytes / 2**20:.1f} MiB resident"),
        ("temperature", "unknown" if found.temperature_c is None else f"{found.temperature_c:.1f} C"),
        ("held out", _held_out_text(found)),
        ("written", _written_text(found)),
        ("flash budget", _flash_budget_text(found, decision)),
        ("privacy loss", privacy_text(found.privacy_spent)),
        ("last loss", "none" if found.last_loss is None else f"{found.last_loss:.4g}"),
        ("last error", found.last_error or "none"),
    ]
    lines = [f"{name:<13} {value}" for name, value in rows]
    if silent_s is not None:
        head = f"process {found.pid} lives, but DOES NOT ANSWER since {_span(silent_s)}: does it hang? Look at its log"
        return "\n".join([f"{'agent':<13} {head}. Before that:", *(f"  {line}" for line in lines)])
    if found.running:
        return "\n".join([f"{'agent':<13} running, as of {ago} ago", *lines])
    head = f"{'agent':<13} NOT RUNNING. When it last ran, {ago} ago:"
    return "\n".join([head, *(f"  {line}" for line in lines)])


def _quarantine_text(found: Status) -> str:
    release = f"skerry-coordinator devices release {found.device}"
    return f"its updates do not count: {found.rejected.quarantine}; an operator may let it in again: {release}"


def _outbox_text(found: Status) -> str:
    """Say how many updates wait, and whether they hold training back."""
    text = f"{found.outbox_updates} updates wait for an answer"
    full = found.outbox_updates_max is not None and found.outbox_updates >= found.outbox_updates_max
    return f"{text}: it is full, and training waits until one is answered" if full else text


def _rejected_text(updates: Mapping[str, int]) -> str:
    counted = sorted(updates.items(), key=lambda reason: (-reason[1], reason[0]))
    return f"{sum(updates.values())} updates: {', '.join(f'{count} {reason}' for reason, count in counted)}"


def _written_text(found: Status) -> str:
    if found.written_bytes is None or found.written_bytes_last_hour is None:
        return "not counted" if found.policy_enabled else f"not counted: {POLICY_OFF}"
    return f"{found.written_bytes / 1e6:.1f} MB to disk, {found.written_bytes_last_hour / 1e6:.1f} MB in the last hour"


def _flash_budget_text(found: Status, decision: Decision) -> str:
    """Say how the hour's bytes stand, and what the agent does about it: see `FlashBudget`."""
    left = found.flash_left
    if left is None or found.flash_bytes_per_hour is None:
        return "nothing is counted, nothing is bounded" if found.policy_enabled else f"nothing is bounded: {POLICY_OFF}"
    limit = f"{found.flash_bytes_per_hour / 1e6:.0f} MB an hour"
    if "flash-budget" in decision.causes:
        back = _span(max(0.0, FLASH_LEFT - left) * HOUR_S)
        return f"{limit}, used up: training pauses until {FLASH_LEFT:.0%} is back, in about {back}"
    if left < SPARING:
        return f"{limit}, {left:.0%} left: cycles are longer, and less is saved, until {SPARING:.0%} is back"
    return f"{limit}, {left:.0%} left"


def _held_out_text(found: Status) -> str:
    if not found.held_out_examples:
        return "not evaluated"
    regional = _score_text(found.held_out_examples, found.held_out_loss_sum, found.held_out_correct)
    version = "" if found.held_out_version is None else f"version {found.held_out_version.number}: "
    text = f"{version}{found.held_out_examples} rows, {regional}"
    if found.personal_loss_sum is None:
        return text
    own = _score_text(found.held_out_examples, found.personal_loss_sum, found.personal_correct)
    return f"{text}; with the own head {own}"


def _score_text(examples: int, loss_sum: float, correct: int | None) -> str:
    loss = f"mean loss {loss_sum / examples:.4g}"
    return loss if correct is None else f"{loss}, {correct} right ({correct / examples:.1%})"


def _span(seconds: float) -> str:
    """Return a span of time as people say it."""
    for unit, unit_s in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2.0 * unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds:.0f} s"
