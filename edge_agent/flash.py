"""What the agent may write in an hour, so that flash memory lasts. Pure arithmetic.

Half of an hour's bytes may go as they come. Then what can wait is written less often (the residual, the model), and
cycles become longer, so that updates are; when all are used up, training rests until some have come back. Nothing that
was acknowledged depends on any of it.
"""

from collections import deque

HOUR_S = 3600.0
SPARING = 0.5  # of the hour's bytes: with less left, what can wait waits
STRETCH_MAX = 10.0  # of cycles
SAMPLES = 60  # of the last hour: one a minute


class FlashBudget:
    """A bucket that holds one hour's bytes and fills at their rate; full at start."""

    def __init__(self, bytes_per_hour: float) -> None:
        self.bytes_per_hour = bytes_per_hour
        self._left_bytes = bytes_per_hour
        self._counted_to_s: float | None = None
        self._samples: deque[tuple[float, int]] = deque()  # time and count, the last hour's
        self.written_bytes: int | None = None  # since the process started; None: the kernel does not count

    @property
    def left(self) -> float | None:
        """Share of the hour's bytes that may still be written, at most 1; None: nobody counts. Below 0: overdrawn."""
        return None if self.written_bytes is None else self._left_bytes / self.bytes_per_hour

    @property
    def sparing(self) -> bool:
        """Whether what can wait should."""
        return self._left_bytes < SPARING * self.bytes_per_hour

    @property
    def stretch(self) -> float:
        """How many times as long a cycle should be as the region's, in [1, STRETCH_MAX].

        The less is left the longer: 2 with half of SPARING left. So what is left comes to rest where cycles are just so
        long that no more is written than comes back, as long as STRETCH_MAX times suffice.
        """
        left = max(self._left_bytes / self.bytes_per_hour, SPARING / STRETCH_MAX)
        return max(1.0, SPARING / left)

    @property
    def last_hour_bytes(self) -> int | None:
        """Bytes written in the last hour, or since the start where that is less; to the minute."""
        return None if self.written_bytes is None else self.written_bytes - self._samples[0][1]

    def count(self, written_bytes: int | None, now_s: float) -> None:
        """Take the process's count, as the kernel gives it at `now_s`; the first one is spent at once."""
        if written_bytes is None:
            return
        elapsed_s = 0.0 if self._counted_to_s is None else now_s - self._counted_to_s
        spent = written_bytes - (self.written_bytes or 0)
        come_back = elapsed_s * self.bytes_per_hour / HOUR_S
        self._left_bytes = min(self._left_bytes + come_back, self.bytes_per_hour) - spent
        self._counted_to_s, self.written_bytes = now_s, written_bytes
        if not self._samples:
            self._samples.append((now_s, 0))
        if now_s - self._samples[-1][0] >= HOUR_S / SAMPLES:
            self._samples.append((now_s, written_bytes))
        while len(self._samples) > 1 and now_s - self._samples[1][0] >= HOUR_S:
            self._samples.popleft()
