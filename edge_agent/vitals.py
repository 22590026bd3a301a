"""The agent's own process."""

import ctypes
import os
from pathlib import Path

import psutil

M_ARENA_MAX = -8  # of glibc's mallopt


class ThisProcess:
    """The one that the agent is; `pid` and `started_at_s` (Unix time) name it for good."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self.pid = os.getpid()
        self.started_at_s = self._process.create_time()

    def resident_bytes(self) -> int:
        """Return how much memory it occupies."""
        return int(self._process.memory_info().rss)

    def peak_bytes(self) -> int:
        """Return how much memory it has occupied at most, where the kernel tells (Linux); else what it does now."""
        try:
            words = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()
        except OSError:
            words = []
        return int(words[0]) << 10 if words else self.resident_bytes()


def use_one_malloc_arena() -> None:
    """Let all threads allocate from one arena, where the C library is glibc: they need little, and it saves memory."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)
