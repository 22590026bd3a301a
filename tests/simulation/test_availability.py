"""Devices that come and go: by the clock of their owner, and by chance."""

import asyncio
import random
from math import inf
from pathlib import Path

import pytest

from skerry.errors import StorageError
from testbed.simulation.availability import DAY_S, HOUR_S, Availability, come_and_go
from testbed.simulation.loop import VirtualLoop, run
from testbed.simulation.machine import Machine, World
from testbed.simulation.network import SimulatedNetwork


@pytest.mark.parametrize(
    ("availability", "changes"),
    [
        (Availability(), []),
        (Availability(arrives_s=50.0), [50.0]),
        (Availability(arrives_s=50.0, leaves_s=70.0), [50.0, 70.0]),
        (Availability(hours=(8.0, 20.0)), [8.0, 20.0, 32.0, 44.0, 56.0]),
        (Availability(hours=(22.0, 6.0)), [6.0, 22.0, 30.0, 46.0, 54.0]),
        (Availability(hours=(8.0, 20.0), arrives_s=36_000.0, leaves_s=122_400.0), [10.0, 20.0, 32.0, 34.0]),
        (Availability(hours=(8.0, 20.0), arrives_s=75_600.0), [32.0, 44.0, 56.0, 68.0]),
    ],
)
def test_it_changes_when_it_says(availability: Availability, changes: list[float]) -> None:
    unit_s = HOUR_S if availability.hours else 1.0
    found: list[float] = []
    now_s, on = 0.0, availability.is_on(0.0)
    while len(found) < len(changes):
        now_s = availability.next_change_s(now_s)
        assert availability.is_on(now_s) is not on
        on = not on
        found.append(now_s / unit_s)
    assert found == changes
    if availability.hours is None or availability.leaves_s < inf:
        assert availability.next_change_s(now_s) == inf


@pytest.mark.parametrize(
    "wrong",
    [
        {"arrives_s": 5.0, "leaves_s": 5.0},
        {"arrives_s": -1.0},
        {"hours": (8.0, 8.0)},
        {"hours": (8.0, 24.0)},
        {"reboots_every_s": 0.0},
        {"reboot_s": -1.0},
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(reversed(wrong))):
        Availability(**wrong)  # type: ignore[arg-type]


class Presence(Machine):
    """Notes when it came and how it went."""

    def __init__(self, world: World) -> None:
        super().__init__(world, "pi-1", lambda: 0.0)
        self.fails = False
        self.seen: list[tuple[float, str]] = []

    async def _serve(self, stop: asyncio.Event, draws: random.Random) -> None:
        loop = asyncio.get_running_loop()
        self.seen.append((loop.time(), "start"))
        if self.fails:
            raise StorageError("worn out")
        try:
            await stop.wait()
            self.seen.append((loop.time(), "stop"))
        except asyncio.CancelledError:
            on = self._world.network.host(self.name).on
            self.seen.append((loop.time(), "killed" if on else "cut"))
            raise


def presence(
    folder: Path, availability: Availability, seconds: float, *, fails: bool = False, seed: int = 1
) -> list[tuple[float, str]]:
    async def main() -> list[tuple[float, str]]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        network = SimulatedNetwork(seed, loop)
        network.add_host("pi-1")
        machine = Presence(World(seed, folder, network, loop))
        machine.fails = fails
        coming = asyncio.create_task(come_and_go(machine, availability, random.Random(seed)))
        await asyncio.sleep(seconds)
        assert coming.done() == (availability.leaves_s <= seconds)
        return list(machine.seen)

    return run(main(), seed=seed)


def test_a_device_has_its_hours(tmp_path: Path) -> None:
    seen = presence(tmp_path, Availability(hours=(8.0, 20.0), leaves_s=2 * DAY_S), 3 * DAY_S)
    hours = [(at_s / HOUR_S, what) for at_s, what in seen]
    assert hours == [(8.0, "start"), (20.0, "stop"), (32.0, "start"), (44.0, "stop")]


def test_a_device_that_stays_is_left_alone(tmp_path: Path) -> None:
    assert presence(tmp_path, Availability(arrives_s=10.0), DAY_S) == [(10.0, "start")]


def test_reboots_cut_power_and_come_by_chance(tmp_path: Path) -> None:
    availability = Availability(leaves_s=400_000.0, reboots_every_s=1000.0, reboot_s=30.0)
    seen = presence(tmp_path, availability, 500_000.0)
    assert [what for _, what in seen[:-1]] == ["start", "cut"] * ((len(seen) - 1) // 2) + ["start"]
    assert seen[-1] == (400_000.0, "stop")
    starts = [at_s for at_s, what in seen if what == "start"]
    cuts = [at_s for at_s, what in seen if what == "cut"]
    assert all(start_s == pytest.approx(cut_s + 30.0) for cut_s, start_s in zip(cuts, starts[1:], strict=True))
    assert len(cuts) == pytest.approx(400_000.0 / 1030.0, rel=0.15)


def test_a_service_that_failed_keeps_nobody_from_switching_it_off_and_on(tmp_path: Path) -> None:
    seen = presence(tmp_path, Availability(hours=(8.0, 8.9), leaves_s=2 * DAY_S), 3 * DAY_S, fails=True)
    assert {int(at_s / HOUR_S) for at_s, _ in seen} == {8, 32}
    assert len(seen) > 100  # its supervisor tries again and again, while it is on
