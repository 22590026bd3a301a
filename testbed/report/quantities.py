"""Numbers in words: how quantities read on the page, in the plots and on the terminal. Pure."""

MISSING = "\N{EN DASH}"  # nothing was measured
TIMES = "\N{MULTIPLICATION SIGN}"


def size(count: float) -> str:
    """Return a number of bytes with a decimal prefix: `950 B`, `12.3 kB`, `4.56 MB`."""
    return _prefixed(count, "B")


def rate(bits_per_s: float | None) -> str:
    """Return a bandwidth: `10 Mbit/s`; None is a link without a limit."""
    return "unlimited" if bits_per_s is None else f"{_short(bits_per_s)}bit/s"


def delay(seconds: float) -> str:
    """Return a latency: `40 ms`, `0.5 ms`, `1.2 s`."""
    return f"{seconds:.3g} s" if seconds >= 1.0 else f"{seconds * 1e3:.3g} ms"


def duration(seconds: float) -> str:
    """Return a length of time: `42.0 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 100.0:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share of 1 in percent: `94.1 %`."""
    return MISSING if share is None else f"{share * 100.0:.{digits}f} %"


def reached(accuracy: float | None, loss: float | None) -> str:
    """Return how well a model does: its accuracy, or, where the task has none, its loss: `94.1 %`, `loss 0.0312`."""
    return percent(accuracy) if accuracy is not None or loss is None else f"loss {loss:.3g}"


def times(ratio: float | None) -> str:
    """Return a ratio: 4.00 or 35, with a multiplication sign."""
    return MISSING if ratio is None else f"{ratio:.{2 if ratio < 10.0 else 0}f} {TIMES}"


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with so many significant digits, whole above them: `0.123`, `12.3`, `12,345`."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 10.0**digits else f"{value:.{digits}g}"


def _prefixed(value: float, unit: str) -> str:
    prefixes = ("", "k", "M", "G", "T")
    step = 0
    # 999.5 and more would be shown with four digits
    while abs(value) >= 999.5 and step < len(prefixes) - 1:
        value /= 1000.0
        step += 1
    return f"{value:.0f} {unit}" if step == 0 else f"{value:.3g} {prefixes[step]}{unit}"


def _short(value: float) -> str:
    for limit, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {prefix}"
    return f"{value:.3g} "
