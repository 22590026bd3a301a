"""Which goals of a scenario a run has reached, and by how much. Pure: a function of goals and record.

A goal that there is nothing to measure for does not hold. One in points of accuracy is none where the task has none.
"""

from collections.abc import Iterator
from itertools import combinations
from statistics import fmean

from testbed.run_record import DeviceRecord, RegionRecord, RunRecord, Verdict
from testbed.scenario import Goals


def judge(goals: Goals, record: RunRecord) -> tuple[Verdict, ...]:
    """Return one verdict per goal, or per goal and region, in the order of the goals."""
    return tuple(_verdicts(goals, record))


def _verdicts(goals: Goals, record: RunRecord) -> Iterator[Verdict]:
    if goals.points_below_central_max is not None:
        for region in record.regions:
            if region.accuracy("regional") is not None or region.loss("regional") is None:
                yield _near_central(goals.points_below_central_max, region, record)
    if goals.updates_min is not None:
        yield _everybody_contributed(goals.updates_min, record)
    if goals.idle_share_max is not None:
        yield _nobody_idle(goals.idle_share_max, record)
    if goals.steps_to_speed_error_max is not None:
        for region in record.regions:
            devices = [device for device in record.devices if device.region == region.name]
            if len(devices) > 1:
                yield _steps_follow_speed(goals.steps_to_speed_error_max, region, devices)
    if goals.uplink_saving_min is not None:
        yield _uplink_saved(goals.uplink_saving_min, record)


def _near_central(points_max: float, region: RegionRecord, record: RunRecord) -> Verdict:
    """Compare the region's own model, as evaluated last, with the central one, in percentage points of accuracy."""
    own = region.accuracy("regional")
    best = None if record.central is None else record.central.accuracy
    below = None if best is None or own is None else 100.0 * (best - own)
    reached = "not evaluated" if own is None else f"{own:.1%}"
    central = "not trained" if best is None else f"{best:.1%}"
    return Verdict(
        goal="points_below_central_max",
        subject=region.name,
        statement=f"{region.name}: accuracy {reached}, within {points_max:g} points of central ({central})",
        measured=below,
        bound=points_max,
        unit="points",
        holds=below is not None and below <= points_max,
    )


def _everybody_contributed(updates_min: int, record: RunRecord) -> Verdict:
    def applied(device: DeviceRecord) -> int:
        return sum(update.weight is not None and update.weight > 0.0 for update in device.updates)

    least = min(record.devices, key=applied)
    return Verdict(
        goal="updates_min",
        subject=least.name,
        statement=f"every device contributed: at least {applied(least)} updates applied ({least.name})",
        measured=applied(least),
        bound=updates_min,
        unit="updates",
        holds=applied(least) >= updates_min,
    )


def _nobody_idle(share_max: float, record: RunRecord) -> Verdict:
    most = max(record.devices, key=lambda device: device.idle_share)
    measured_everywhere = all(device.uptime_s > 0.0 for device in record.devices)
    return Verdict(
        goal="idle_share_max",
        subject=most.name,
        statement=f"no device waits: idle share at most {most.idle_share:.1%} ({most.name})",
        measured=most.idle_share if measured_everywhere else None,
        bound=share_max,
        unit="share",
        holds=measured_everywhere and most.idle_share < share_max,
    )


def _steps_follow_speed(error_max: float, region: RegionRecord, devices: list[DeviceRecord]) -> Verdict:
    """Compare, for each pair, the ratio of mean steps per update with the ratio of mean speeds, over the whole run.

    Speed is what the device did, steps per second of training, and not the estimate that it chose its steps by.
    """
    works = {device.name: _work_s(device) for device in devices}
    known = {name: work_s for name, work_s in works.items() if work_s is not None}
    worst, pair = None, (region.name, "")
    if len(known) == len(devices):
        ratios = {(a, b): max(known[a] / known[b], known[b] / known[a]) for a, b in combinations(known, 2)}
        pair = max(ratios, key=lambda names: ratios[names])
        worst = ratios[pair] - 1.0
    measured = "not measured" if worst is None else f"off by at most {worst:.1%} ({pair[0]}, {pair[1]})"
    return Verdict(
        goal="steps_to_speed_error_max",
        subject=region.name,
        statement=f"{region.name}: local steps in the ratio of the speeds, {measured}",
        measured=worst,
        bound=error_max,
        unit="ratio",
        holds=worst is not None and worst <= error_max,
    )


def _work_s(device: DeviceRecord) -> float | None:
    """Return the training time of an average update's steps: the same on all devices if steps follow speed."""
    if not device.updates or not device.steps or device.training_s <= 0.0:
        return None
    return fmean(update.steps for update in device.updates) * device.training_s / device.steps


def _uplink_saved(saving_min: float, record: RunRecord) -> Verdict:
    up = record.traffic.up
    return Verdict(
        goal="uplink_saving_min",
        subject="run",
        statement=f"uplink {up.saving:.1f} times below dense float32: {up.frame_bytes} for {up.dense_bytes} bytes",
        measured=up.saving if up.messages else None,
        bound=saving_min,
        unit="ratio",
        holds=up.messages > 0 and up.saving >= saving_min,
    )
