"""The machine's own figures: memory and temperature."""

import ctypes

import psutil

M_ARENA_MAX = -8  # of glibc's mallopt


def resident_bytes() -> int:
    """Return how much memory this process occupies."""
    return int(psutil.Process().memory_info().rss)


def temperature_c() -> float | None:
    """Return the hottest sensor in degrees Celsius, None where there is none."""
    sensors = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
    return max((entry.current for entries in sensors.values() for entry in entries), default=None)


def use_one_malloc_arena() -> None:
    """Let all threads allocate from one arena, where the C library is glibc: they need little, and it saves memory."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)
