"""Updates that a coordinator would not have: what is said of them, and whether the device is in quarantine. No I/O."""

import logging

import msgspec

from edge_agent.repeated_warning import RepeatedWarning
from skerry.protocol.messages import UpdateRejected

# Whose values would be sent again with the next update, and reject that, too: they do not return to the residual.
DROPPED = frozenset({"not_finite", "outlier", "quarantined"})

log = logging.getLogger(__name__)


class Rejected(msgspec.Struct, frozen=True):
    """What became of a device's updates that were not taken; counts since the agent's process started."""

    updates: dict[str, int] = {}  # by reason
    quarantine: str = (
        ""  # why the coordinator keeps this device apart, as it said last; "": it does not, as far as is known
    )


class Rejections:
    """The rejections of one device. Each reason is told once, and then at most once a minute, with a count."""

    def __init__(self) -> None:
        self._updates: dict[str, int] = {}
        self._warnings: dict[str, RepeatedWarning] = {}
        self._quarantine = ""

    @property
    def so_far(self) -> Rejected:
        """What there is to tell."""
        return Rejected(dict(self._updates), self._quarantine)

    def note(self, rejected: UpdateRejected, now_s: float) -> tuple[str, bool]:
        """Take note of an answer; return what to say of it, and whether what the update held is dropped."""
        reason, dropped = rejected.reason, rejected.reason in DROPPED
        end = "; what it held is dropped" if dropped else ""
        text = f"update {rejected.sequence} was rejected: {reason}: {rejected.detail}{end}"
        self._updates[reason] = self._updates.get(reason, 0) + 1
        if reason == "quarantined":
            self._quarantine = rejected.detail or reason
        self._warnings.setdefault(reason, RepeatedWarning(log)).warn(text, now_s)
        return text, dropped

    def forget_quarantine(self) -> None:
        """The coordinator took an update, or it is another one, which may think otherwise."""
        if self._quarantine:
            log.info("no longer known to be in quarantine")
        self._quarantine = ""
