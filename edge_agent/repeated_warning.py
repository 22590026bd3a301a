"""A warning that would fill the log: told at once, then at most once a minute, with a count."""

import logging

INTERVAL_S = 60.0


class RepeatedWarning:
    """One kind of warning."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._due_s: float | None = None
        self._untold = 0

    def warn(self, text: str, now_s: float) -> None:
        """Tell it, or count it until it is due."""
        self._untold += 1
        if self._due_s is not None and now_s < self._due_s:
            return
        times = f" ({self._untold} times since the last such line)" if self._untold > 1 else ""
        self._log.warning("%s%s", text, times)
        self._due_s, self._untold = now_s + INTERVAL_S, 0
