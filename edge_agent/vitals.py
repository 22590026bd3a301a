"""The machine's own figures: memory and temperature."""

import psutil


def resident_bytes() -> int:
    """Return how much memory this process occupies."""
    return int(psutil.Process().memory_info().rss)


def temperature_c() -> float | None:
    """Return the hottest sensor in degrees Celsius, None where there is none."""
    sensors = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
    return max((entry.current for entries in sensors.values() for entry in entries), default=None)
