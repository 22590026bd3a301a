"""A world of a comparison as a drawing: regions in a ring, the links between them, and each region's devices. Pure."""

from math import ceil, cos, pi, sin

from testbed.comparison.scenario import RoundTime, World
from testbed.report.markup import escape
from testbed.report.quantities import delay, rate

WIDTH, HEIGHT = 400.0, 330.0
RADIUS_X, RADIUS_Y = 122.0, 96.0
DOTS_MAX = 32  # drawn for a region; the words say how many there are
LABELLED_REGIONS_MAX = 6  # with more regions the labels of links would cover one another; a table has them all
DOT_GAP = 8.0


def draw(world: World) -> str:
    """Return the drawing as an `<svg>` element."""
    count = len(world.regions)
    places = [_place(index, count) for index in range(count)]
    parts = []
    for one in range(count):
        for other in range(one):
            parts += _link(world, places, other, one)
    for index, place in enumerate(places):
        parts += _region(world, index, place)
    title = f"{count} regions with {world.devices} devices and the links between them"
    return (
        f'<svg class="plot world" role="img" aria-label="{title}" viewBox="0 0 {WIDTH:g} {HEIGHT:g}">'
        + "\n".join(parts)
        + "</svg>"
    )


def describe(world: World) -> str:
    """Return in words what a drawing cannot show."""
    each = world.devices // len(world.regions)
    link = f"{delay(world.device_latency_ms / 1e3)} one way" + (
        f", {rate(world.device_mbit_per_s * 1e6)}" if world.device_mbit_per_s else ""
    )
    server = f", which has {rate(world.server_mbit_per_s * 1e6)}" if world.server_mbit_per_s else ""
    return (
        f"{each} devices a region, {link} from their coordinator{server}. A coordinator works"
        f" {delay(world.merge_ms / 1e3)} on an update or a peer's model and {delay(world.aggregate_ms / 1e3)} on a"
        f" mean, one after the other. {speed(world)}"
    )


def speed(world: World) -> str:
    """Return in words how fast the devices are."""
    if isinstance(world.speed, RoundTime):
        times = " / ".join(f"{one:g}" for one in world.speed.multipliers)
        mixed = f", times {times} in turn" if len(world.speed.multipliers) > 1 else ""
        steps = "one local step takes" if world.speed.steps == 1 else f"{world.speed.steps} local steps take"
        return f"On a device {steps} {world.speed.ms:g} ms, deviation {world.speed.sd_ms:g} ms{mixed}."
    kinds = ", ".join(world.speed.profiles)
    return f"Devices in turn {kinds}; a local step takes {world.speed.step_ms:g} ms on the reference core."


def _place(index: int, count: int) -> tuple[float, float]:
    if count == 1:
        return WIDTH / 2, HEIGHT / 2
    angle = -pi / 2 + 2 * pi * (index + (0.5 if count == 4 else 0.0)) / count
    return WIDTH / 2 + RADIUS_X * cos(angle), HEIGHT / 2 + RADIUS_Y * sin(angle)


def _link(world: World, places: list[tuple[float, float]], one: int, other: int) -> list[str]:
    (x1, y1), (x2, y2) = places[one], places[other]
    parts = [f'<path class="peer" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>']
    if len(places) <= LABELLED_REGIONS_MAX:
        # a third of the way: links that cross in the middle keep their labels apart
        x, y = x1 + (x2 - x1) * 0.36, y1 + (y2 - y1) * 0.36
        text = delay(world.latency_s(world.regions[one], world.regions[other]))
        parts.append(f'<text x="{x:.1f}" y="{y + 4:.1f}" class="label" text-anchor="middle">{escape(text)}</text>')
    return parts


def _region(world: World, index: int, place: tuple[float, float]) -> list[str]:
    x, y = place
    devices = world.devices // len(world.regions)
    dots = min(devices, DOTS_MAX)
    columns = ceil(dots / 2)
    above = y < HEIGHT / 2 or len(world.regions) == 1
    first = y - 44.0 if above else y + 36.0
    parts = [f'<rect x="{x - 9:.1f}" y="{y - 9:.1f}" width="18" height="18" rx="4" style="fill:var(--ink)"/>']
    for number in range(dots):
        column, row = divmod(number, 2)
        dot_x = x + (column - (columns - 1) / 2) * DOT_GAP
        dot_y = first + row * DOT_GAP
        parts.append(f'<circle cx="{dot_x:.1f}" cy="{dot_y:.1f}" r="2.8" style="fill:var(--{_shade(world, number)})"/>')
    name_y = first - 9.0 if above else first + DOT_GAP + 17.0
    text = f"{world.regions[index]}: {devices} devices"
    parts.append(f'<text x="{x:.1f}" y="{name_y:.1f}" class="name label" text-anchor="middle">{escape(text)}</text>')
    return parts


def _shade(world: World, number: int) -> str:
    """Return the role of a device's colour: slow ones are fainter."""
    kinds = world.speed.multipliers if isinstance(world.speed, RoundTime) else world.speed.profiles
    if not isinstance(world.speed, RoundTime):
        return "muted"
    own = world.speed.multipliers[number % len(kinds)]
    return "ink" if own <= min(world.speed.multipliers) else "dense" if own >= max(world.speed.multipliers) else "muted"
