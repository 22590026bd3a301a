"""When a device is there: it arrives, leaves for good, has its hours of the day, and reboots now and then."""

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from math import inf

from skerry.errors import SkerryError
from testbed.simulation.machine import Machine

HOUR_S, DAY_S = 3600.0, 86_400.0


@dataclass(frozen=True, slots=True)
class Availability:
    """What a device's owner makes of it. Times are virtual; virtual time 0 is midnight."""

    arrives_s: float = 0.0
    leaves_s: float = inf  # for good; behind `arrives_s`
    hours: tuple[float, float] | None = None  # it is on from the first to the second, in [0, 24); over midnight, too
    reboots_every_s: float | None = None  # mean of an exponential time, while it is on; None: never
    reboot_s: float = 30.0  # without power

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: naming the field.
        """
        if not 0.0 <= self.arrives_s < self.leaves_s:
            raise ValueError(f"arrives_s must be >= 0 and before leaves_s, not {self.arrives_s} and {self.leaves_s}")
        if self.hours is not None:
            begin, end = self.hours
            if not (0.0 <= begin < 24.0 and 0.0 <= end < 24.0 and begin != end):
                raise ValueError(f"hours must be two different ones in [0, 24), not {self.hours}")
        if self.reboots_every_s is not None and not self.reboots_every_s > 0.0:
            raise ValueError(f"reboots_every_s must be > 0, not {self.reboots_every_s}")
        if not self.reboot_s >= 0.0:
            raise ValueError(f"reboot_s must be >= 0, not {self.reboot_s}")

    def is_on(self, now_s: float) -> bool:
        """Whether its owner has it switched on at `now_s`."""
        if not self.arrives_s <= now_s < self.leaves_s:
            return False
        if self.hours is None:
            return True
        begin, end = self.hours
        hour = now_s % DAY_S / HOUR_S
        return begin <= hour < end if begin < end else hour >= begin or hour < end

    def next_change_s(self, now_s: float) -> float:
        """Return when `is_on` changes next, inf: never."""
        changes = [now_s, self.arrives_s, self.leaves_s]
        if self.hours is not None:
            midnight_s = max(now_s, self.arrives_s) // DAY_S * DAY_S
            changes += [midnight_s + day * DAY_S + hour * HOUR_S for day in (0, 1) for hour in self.hours]
        for before_s, at_s in pairwise(sorted({one for one in changes if now_s <= one < inf})):
            if self.is_on(at_s) != self.is_on(before_s):
                return at_s
        return self.leaves_s if self.is_on(now_s) else inf


async def come_and_go(machine: Machine, availability: Availability, draws: random.Random) -> None:
    """Start and stop `machine` as `availability` says, until it has left for good or this is cancelled.

    Its owner switches it off in good order; a reboot cuts it from power.
    """
    loop = asyncio.get_running_loop()
    while True:
        now_s = loop.time()
        change_s = availability.next_change_s(now_s)
        if availability.is_on(now_s):
            machine.start()
            await _stay(machine, availability, change_s, draws)
            with suppress(SkerryError):  # it is in `machine.failures`
                await machine.stop()
        if change_s == inf:
            return
        await asyncio.sleep(change_s - loop.time())


async def _stay(machine: Machine, availability: Availability, until_s: float, draws: random.Random) -> None:
    """Return at `until_s`, never where that is inf; reboot meanwhile."""
    loop, every_s = asyncio.get_running_loop(), availability.reboots_every_s
    while (now_s := loop.time()) < until_s:
        reboot_s = inf if every_s is None else now_s + draws.expovariate(1.0 / every_s)
        if min(reboot_s, until_s) == inf:
            await loop.create_future()
        await asyncio.sleep(min(reboot_s, until_s) - now_s)
        if reboot_s < until_s:
            machine.cut_power()
            await asyncio.sleep(availability.reboot_s)
            machine.start()
