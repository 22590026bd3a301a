"""Progress of a comparison in words: one line redrawn in place on a terminal, plain lines everywhere else."""

import time
from collections.abc import Callable
from typing import TextIO

from testbed.comparison.crew import State
from testbed.comparison.estimate import left_s
from testbed.report.quantities import duration

LINE_EVERY_S = 15.0  # in a log, where nothing was finished
DRAW_EVERY_S = 0.5  # on a terminal
COLUMNS_MAX = 118


class View:
    """Shows a comparison's progress on `stream`."""

    def __init__(
        self, stream: TextIO, jobs: int, *, now_s: Callable[[], float] = time.monotonic, columns: int = COLUMNS_MAX
    ) -> None:
        self._stream = stream
        self._jobs = jobs
        self._now_s = now_s
        self._columns = columns
        self._on_terminal = stream.isatty()
        self._told: set[object] = set()
        self._drawn_s = float("-inf")

    def show(self, state: State) -> None:
        """Tell what was finished since the last time, and every now and then how far the rest is."""
        now_s = self._now_s()
        new = [key for key in (*state.results, *state.failures) if key not in self._told]
        for key in new:
            self._told.add(key)
            if key in state.failures:
                self._write(f"FAILED {key}: {state.failures[key].reason}")
            else:
                self._write(f"done   {key} ({duration(state.results[key].wall_s)})")
        every_s = DRAW_EVERY_S if self._on_terminal else LINE_EVERY_S
        if new or now_s - self._drawn_s >= every_s:
            self._drawn_s = now_s
            self._draw(line(state, now_s, self._jobs))

    def already(self, state: State) -> None:
        """Tell what needs no run, as its result is there from before."""
        self._told.update(state.results)
        if state.results:
            self._write(f"{len(state.results)} of {state.plan.total()} runs are finished from before")

    def end(self) -> None:
        """Leave the terminal's line."""
        if self._on_terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _write(self, text: str) -> None:
        self._stream.write(f"\r\x1b[K{text}\n" if self._on_terminal else f"{text}\n")
        self._stream.flush()

    def _draw(self, text: str) -> None:
        if self._on_terminal:
            self._stream.write(f"\r\x1b[K{text[: self._columns]}")
            self._stream.flush()
        else:
            self._write(text)


def line(state: State, now_s: float, jobs: int) -> str:
    """Return the whole comparison in one line."""
    total = state.plan.total(state.failed)
    left = left_s(state, now_s, jobs)
    rest = f", about {duration(left)} left" if left else ""
    parts = [f"{len(state.results)} of {total} runs{rest}"]
    for key, job in state.running.items():
        done = f" {100.0 * job.progress.at_s / job.progress.duration_s:.0f} %" if job.progress else ""
        parts.append(f"{key}{done}")
    return " | ".join(parts)
