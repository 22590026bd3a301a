"""The process's own memory."""

import ctypes

import psutil

M_ARENA_MAX = -8  # of glibc's mallopt


def resident_bytes() -> int:
    """Return how much memory this process occupies."""
    return int(psutil.Process().memory_info().rss)


def use_one_malloc_arena() -> None:
    """Let all threads allocate from one arena, where the C library is glibc: they need little, and it saves memory."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)
