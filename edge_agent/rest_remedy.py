"""What a person can do about each reason for which training rests; `doctor` and `status` say it."""

from collections.abc import Iterable

REMEDY = "see `policy` in docs/agent.md: its thresholds may suit this board better elsewhere"
REMEDIES = {  # by the policy's word for the reason; `task` and `schedule`: the device's own
    "task": "see `last error`: give the coordinator a task of such data, or correct `data.source` (docs/data.md)",
    "schedule": "give the region's recipe another schedule, or stop the agents: the model is as good as it gets",
    "temperature": "give it a heat sink or a fan, or a lower training.duty_cycle",
    "throttled": "give it a heat sink or a fan, or a lower training.duty_cycle",
    "under-voltage": "use the board's own power supply, and a short cable",
    "memory-available": "stop other programs, or add swap in memory (zram)",
    "memory-pressure": "stop other programs, or add swap in memory (zram)",
    "cpu-others": "stop other programs, or train at other hours: policy.quiet_hours",
    "disk-free": "free space",
    "on-battery": "connect it to the mains",
    "battery": "connect it to the mains",
    "metered": "if bytes cost nothing here, say policy.metered = false; else choose its pace: policy.on_metered",
    "link": "give it a faster link, or lower policy.link_slow_bytes_per_s",
    "quiet-hours": "training goes on behind them; to change them: policy.quiet_hours",
    "flash-budget": "let the region's cycles be longer (local_steps.cycle_min_s of its recipe, and steps_max where "
    "`status` says that it is reached); if the disk bears more, "
    "raise limits.flash_bytes_per_hour here or in the profile",
}


def remedies(causes: Iterable[str]) -> list[str]:
    """Return what to do about `causes`, each remedy once."""
    return list(dict.fromkeys(REMEDIES.get(cause, REMEDY) for cause in causes))
