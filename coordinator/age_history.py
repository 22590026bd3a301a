"""The age that each past version of the model had, as far back as the journal reaches. Pure."""

from collections.abc import Iterable


class AgeHistory:
    """Ages of the versions `first` .. `last`, without a gap."""

    def __init__(self, first: int, ages: Iterable[float]) -> None:
        """Start with the ages of `first` and those that follow it, at least one."""
        self.first = first
        self._ages = list(ages)
        assert self._ages

    @property
    def last(self) -> int:
        """The newest version."""
        return self.first + len(self._ages) - 1

    @property
    def age(self) -> float:
        """The newest version's age."""
        return self._ages[-1]

    def at(self, version: int) -> float | None:
        """Return the age of `version`, None if it is yet to come or no longer known."""
        place = version - self.first
        return self._ages[place] if 0 <= place < len(self._ages) else None

    def append(self, age: float) -> int:
        """Add the next version; return its number."""
        self._ages.append(age)
        return self.last

    def forget_before(self, version: int) -> None:
        """Forget the versions before `version`; the newest one stays in any case."""
        drop = min(max(0, version - self.first), len(self._ages) - 1)
        del self._ages[:drop]
        self.first += drop
