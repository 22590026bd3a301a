"""What other threads do for a service, and since when: the part of its health that the event loop cannot feel."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

STUCK_S = (
    600.0  # work that takes longer has hung, where `limits.hang_s` says nothing else: far more than it should take
)


class UnderWay:
    """Work that began and has not ended yet. Threads begin and end it, the event loop asks."""

    def __init__(self, clock: Callable[[], float], stuck_s: float = STUCK_S) -> None:
        """`clock` is the event loop's; any thread may read it."""
        self._clock, self._stuck_s = clock, stuck_s
        self._began_s: dict[object, tuple[float, str]] = {}  # no thread can come between one change of it and another

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Hold while the calling thread does `what`."""
        key = object()
        self._began_s[key] = self._clock(), what
        try:
            yield
        finally:
            del self._began_s[key]

    def noting(self, what: str, work: Callable[[], T]) -> Callable[[], T]:
        """Return `work`, noted as `what` for as long as it runs."""

        def noted() -> T:
            with self.doing(what):
                return work()

        return noted

    def stuck(self, now_s: float) -> str | None:
        """Say what has been under way for too long, None: nothing."""
        began_s, what = min(list(self._began_s.values()), default=(now_s, ""))
        taken_s = now_s - began_s
        return f"{what} has not ended for {taken_s:.0f} s" if taken_s > self._stuck_s else None
