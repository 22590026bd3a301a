"""The server rate under control: bounded gain, whatever the devices' number and speeds."""

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.algorithms.arrival import Arrival, GainControlled, Spyker, Weigher
from skerry.algorithms.gain import GainControl, GainState


def arrival(behind: int, staleness: float | None = None) -> Arrival:
    return Arrival("pi", 1, float(behind) if staleness is None else staleness, 100, 0.5, 20, behind)


def weight(control: Weigher, one: Arrival, devices: int = 1) -> float:
    if isinstance(control, GainControl):
        control.devices = devices
    weights = control.decide([one])
    assert weights is not None
    return weights[0]


@dataclass(frozen=True)
class Merge:
    """One update of a simulated region, as it is applied."""

    device: int
    at_s: float
    base_s: float
    weight: float
    model: float


def region(
    rule: Weigher, durations_s: list[Callable[[], float]], *, updates: int, answer: float = 1.0, work_s: float = 0.0
) -> Iterator[Merge]:
    """Train on x^2 / 2: a device that starts from x answers -answer * x, some time later; x begins at 1.

    The server takes `work_s` for each update, one after the other.
    """
    model, free_s = 1.0, 0.0
    queue = [(draw(), device, 1.0, 0, 0.0) for device, draw in enumerate(durations_s)]
    heapq.heapify(queue)
    for version in range(updates):
        arrived_s, device, base, base_version, base_s = heapq.heappop(queue)
        free_s = max(arrived_s, free_s) + work_s
        behind = version - base_version
        applied = weight(rule, arrival(behind), len(durations_s))
        model -= applied * answer * base
        yield Merge(device, free_s, base_s, applied, model)
        heapq.heappush(queue, (free_s + durations_s[device](), device, model, version + 1, free_s))


def equal(devices: int, seed: int = 1, spread: float = 0.05) -> list[Callable[[], float]]:
    rng = random.Random(seed)
    return [lambda: rng.gauss(1.0, spread)] * devices


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 300)), min_size=1, max_size=60), st.floats(0.05, 1.5))
def test_the_gain_is_bounded_after_every_update(seen: list[tuple[int, int]], gain_max: float) -> None:
    control = GainControl(GainControlled(gain_max=gain_max), None)
    for behind, devices in seen:
        one = weight(control, arrival(behind), devices)
        assert 0.0 < one <= 0.6
        assert control.rate * control.snapshot().load <= gain_max * (1 + 1e-9)


@given(st.lists(st.just(0) | st.just(1), min_size=1, max_size=50), st.floats(0.1, 1.0))
def test_with_one_device_it_is_spykers_constant_rate(behind: list[int], server_rate: float) -> None:
    """Also where the device trains on while its update is under way: there its update is one behind."""
    constant, control = Spyker(server_rate), GainControl(GainControlled(server_rate, gain_max=1.5), None)
    for one in behind:
        assert weight(control, arrival(one)) == weight(constant, arrival(one))


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(1, 99)), max_size=40), st.integers(0, 40))
def test_it_goes_on_from_its_state_as_if_nothing_had_happened(seen: list[tuple[int, int]], restart: int) -> None:
    straight = GainControl(GainControlled(), None)
    restarted = GainControl(GainControlled(), None)
    for number, (behind, devices) in enumerate(seen):
        if number == restart:
            restarted = GainControl(GainControlled(), restarted.snapshot())
        assert weight(straight, arrival(behind), devices) == weight(restarted, arrival(behind), devices)


def test_staleness_discounts_as_in_spyker() -> None:
    control = GainControl(GainControlled(), GainState(4.0, 20.0))
    control.devices = 20
    fresh, stale = control.decide([arrival(5, staleness=0.0), arrival(5, staleness=3.0)]) or (0.0, 0.0)
    assert stale == pytest.approx(fresh / 2.0, rel=0.05)


def test_devices_that_join_lower_the_rate_before_they_deliver() -> None:
    control = control_of()
    for _ in range(50):
        weight(control, arrival(0))
    assert control.rate == 0.6
    weight(control, arrival(0), 100)
    assert control.rate < 0.06


def test_devices_that_all_come_back_do_not_count_twice() -> None:
    """After a restart of the coordinator they connect one by one, and deliver in between."""
    control = GainControl(GainControlled(), None)
    for _ in range(400):
        weight(control, arrival(24), 25)
    rate = control.rate
    for devices in range(1, 26):
        weight(control, arrival(24), devices)
    assert control.rate == pytest.approx(rate, rel=0.3)


@pytest.mark.parametrize("devices", [25, 100])
def test_a_constant_rate_swings_or_diverges_where_the_controlled_one_converges(devices: int) -> None:
    """Devices of equal speed, each of which answers with all of its distance to the optimum."""
    updates = 20 * devices
    constant = [abs(merge.model) for merge in region(Spyker(), equal(devices), updates=updates)]
    controlled = [abs(merge.model) for merge in region(control_of(), equal(devices), updates=updates)]
    assert max(constant[-devices:]) > (1.0 if devices == 25 else 1e3), "0.6 does not converge"
    assert max(controlled[-devices:]) < 0.05
    assert max(controlled) < 1.5


@pytest.mark.parametrize("devices", [1, 5, 25, 100])
@pytest.mark.parametrize("work_s", [0.002, 0.02])
def test_a_saturated_server_is_calm_too(devices: int, work_s: float) -> None:
    controlled = [abs(one.model) for one in region(control_of(), equal(devices), updates=30 * devices, work_s=work_s)]
    assert max(controlled[-devices:]) < 0.05


@given(st.integers(0, 1000), st.integers(2, 40), st.sampled_from([0.0, 0.01]))
def test_the_gain_of_uneven_devices_is_what_was_asked_for(seed: int, devices: int, work_s: float) -> None:
    """The sum over devices of weight * rate * delay, measured from outside, whose devices are up to 16 times apart."""
    rng = random.Random(seed)
    speeds = [2.0 ** rng.uniform(-2.0, 2.0) for _ in range(devices)]
    durations: list[Callable[[], float]] = [partial(rng.gauss, mean, 0.03 * mean) for mean in speeds]
    merges = list(region(control_of(server_rate=100.0), durations, updates=80 * devices, answer=0.0, work_s=work_s))
    half = merges[len(merges) // 2 :]
    elapsed_s = half[-1].at_s - half[0].at_s
    gain = sum(one.weight * (one.at_s - one.base_s) for one in half) / elapsed_s
    assert gain == pytest.approx(1.0, rel=0.25)
    assert fmean(one.weight for one in half) > 0.0


def control_of(server_rate: float = 0.6) -> GainControl:
    return GainControl(GainControlled(server_rate, gain_max=1.0), None)
