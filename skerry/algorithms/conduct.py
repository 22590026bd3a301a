"""What a region remembers of how one device's updates look, and how that lies among the others. Scalars only."""

from collections.abc import Iterable
from statistics import median

import msgspec

LENGTHS = 2  # updates that a device's usual length looks back on: lengths grow fast while training is young
COSINES = 10  # updates that its usual direction looks back on
CHANCES = 20  # updates that decide whether it has one at all
SIGMA_PER_DEVIATION = 1.4826  # a normal distribution's standard deviation, as its median absolute deviation says it


class Conduct(msgspec.Struct, frozen=True):
    """One device's line; as it is on disk."""

    device: str
    taken: int = 0  # updates that were let in
    length: float | None = None  # natural logarithm of its updates' usual length; None: it has sent none but zeros
    tail_length: float | None = None  # of their untrainable part
    cosines: int = 0  # updates whose direction was looked at
    cosine: float = 0.0  # with the region's direction, as usual
    chance: float = 1.0  # its square, times the entries named, as usual; 1: what noise comes to
    strikes: int = 0  # too long updates, less those that were not, never below 0
    quarantine: str = ""  # why it is there; "": it is not
    in_order: int = 0  # updates in a row that were inconspicuous, since it is there
    turn: int = 0  # of the region, as the guard counts them, in which it was heard of last

    def after_length(self, length: float | None, tail_length: float | None) -> "Conduct":
        """Return the line after an update of such logarithms; None: of nothing but zeros."""
        return msgspec.structs.replace(
            self, length=_usual(self.length, length), tail_length=_usual(self.tail_length, tail_length)
        )

    def after_direction(self, cosine: float, entries: int) -> "Conduct":
        """Return the line after an update of `entries` entries with this cosine."""
        count = self.cosines + 1
        rate, slow_rate = 1.0 / min(count, COSINES), 1.0 / min(count, CHANCES)
        return msgspec.structs.replace(
            self,
            cosines=count,
            cosine=self.cosine + rate * (cosine - self.cosine),
            chance=self.chance + slow_rate * (entries * cosine * cosine - self.chance),
        )


class Spread:
    """Median and deviation of one figure over devices, one value each, so that nobody counts more by sending more.

    Both are found out anew after so many changes as an eighth of the devices.
    """

    def __init__(self) -> None:
        """Begin without any device."""
        self._values: dict[str, float] = {}
        self._changes = 0
        self._middle: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self._values)

    def put(self, device: str, value: float) -> None:
        """Take the device's value in place of its former one."""
        self._values[device] = value
        self._changed()

    def drop(self, device: str) -> None:
        """Leave the device out from now on."""
        if self._values.pop(device, None) is not None:
            self._changed()

    def of_others(self, device: str) -> list[float]:
        """Return the values of all devices but this one."""
        return [value for name, value in self._values.items() if name != device]

    def middle(self) -> tuple[float, float]:
        """Return the median and the standard deviation that the median absolute deviation stands for, >= 0."""
        if self._middle is None:
            self._middle = _middle(self._values.values())
            self._changes = 0
        return self._middle

    def _changed(self) -> None:
        self._changes += 1
        if self._changes > len(self._values) // 8:
            self._middle = None


def _middle(values: Iterable[float]) -> tuple[float, float]:
    known = list(values)
    centre = median(known)
    return centre, SIGMA_PER_DEVIATION * median(abs(value - centre) for value in known)


def _usual(before: float | None, now: float | None) -> float | None:
    if before is None or now is None:
        return before if now is None else now
    return before + (now - before) / LENGTHS
