"""The world of a run as a drawing: coordinators with arcs between them, and each with its devices. Pure.

One column, so that it reads the same on a phone: arcs to the left, devices to the right.
"""

from dataclasses import dataclass

from testbed.report.markup import escape
from testbed.report.palette import Palette
from testbed.report.quantities import delay, rate
from testbed.run_record import DeviceWorld, LinkRecord, RegionWorld, WorldRecord

WIDTH = 400
ROW = 46  # height of a device
GAP = 22  # between regions
TEXT_LETTERS_MAX = 30
ARC_LABELS_REGIONS_MAX = 4  # with more regions the labels of arcs would cover one another; a table has them all


@dataclass(frozen=True)
class _Place:
    region: RegionWorld
    top: float
    middle: float


def draw(world: WorldRecord, palette: Palette) -> str:
    """Return the drawing as an `<svg>` element."""
    places: list[_Place] = []
    top = float(GAP)
    for region in world.regions:
        height = ROW * max(1, len(region.devices))
        places.append(_Place(region, top, top + height / 2))
        top += height + GAP
    x = 104.0 if len(places) <= 2 else 150.0
    parts = _arcs(world, places, x)
    for place in places:
        parts += _devices(world, place, x, palette)
        parts += _coordinator(place, x, palette)
    title = f"{len(world.regions)} regions with {len(world.devices)} devices and the links between them"
    return (
        f'<svg class="plot world" role="img" aria-label="{title}" viewBox="0 0 {WIDTH} {top - GAP + 12:g}">'
        + "\n".join(parts)
        + "</svg>"
    )


def describe(link: LinkRecord | None, end: str) -> str:
    """Return latency and bandwidth of a link as seen from `end`."""
    if link is None:
        return "no link"
    up, down = link.a_to_b_bits_per_s, link.b_to_a_bits_per_s
    if end != link.a:
        up, down = down, up
    width = rate(up) if up == down else f"↑ {rate(up)} ↓ {rate(down)}"
    return f"{delay(link.latency_s)} · {width}"


def link_between(world: WorldRecord, a: str, b: str) -> LinkRecord | None:
    """Return the link between two ends, whichever is named first in it."""
    return next((link for link in world.links if {link.a, link.b} == {a, b}), None)


def _arcs(world: WorldRecord, places: list[_Place], x: float) -> list[str]:
    parts: list[str] = []
    for first, upper in enumerate(places):
        for second in range(first + 1, len(places)):
            lower = places[second]
            link = link_between(world, upper.region.coordinator, lower.region.coordinator)
            if link is None:
                continue
            # a cubic reaches 3/4 of the way to its control points
            apex = x - 28.0 - 38.0 * (second - first) / max(1, len(places) - 1) * (x - 40.0) / 64.0
            control = x - (x - apex) / 0.75
            parts.append(
                f'<path class="peer" d="M{x:g} {upper.middle:g}'
                f'C{control:g} {upper.middle:g} {control:g} {lower.middle:g} {x:g} {lower.middle:g}"/>'
            )
            if len(places) <= ARC_LABELS_REGIONS_MAX:
                middle = (upper.middle + lower.middle) / 2
                latency, _, width = describe(link, upper.region.coordinator).partition(" · ")
                parts.append(_text(apex, middle - 2, latency, "label", "middle"))
                parts.append(_text(apex, middle + 11, width, "label", "middle"))
    return parts


def _coordinator(place: _Place, x: float, palette: Palette) -> list[str]:
    colour = palette.groups[place.region.name].css
    return [
        f'<rect x="{x - 9:g}" y="{place.middle - 9:g}" width="18" height="18" rx="4" style="fill:{colour}"/>',
        _text(x, place.middle - 16, place.region.name, "name label", "middle", f"fill:{colour}"),
        _text(x, place.middle + 23, place.region.coordinator, "small label", "middle"),
    ]


def _devices(world: WorldRecord, place: _Place, x: float, palette: Palette) -> list[str]:
    parts: list[str] = []
    by_name = {device.name: device for device in world.devices}
    dot = x + 92.0
    for index, name in enumerate(place.region.devices):
        y = place.top + ROW * (index + 0.5)
        colour = palette.members[name].css
        bend = (x + dot) / 2
        parts += [
            f'<path class="link" d="M{x:g} {place.middle:g}C{bend:g} {place.middle:g} {bend:g} {y:g} {dot:g} {y:g}"'
            f' style="stroke:{colour}"/>',
            f'<circle cx="{dot:g}" cy="{y:g}" r="5.5" style="fill:{colour}"/>',
            *_device_text(by_name[name], link_between(world, name, place.region.coordinator), dot + 12.0, y),
        ]
    return parts


def _device_text(device: DeviceWorld, link: LinkRecord | None, x: float, y: float) -> list[str]:
    return [
        _text(x, y - 8, device.name, "name"),
        _text(x, y + 5, device.profile, "small"),
        _text(x, y + 18, describe(link, device.name), "small"),
    ]


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start", style: str = "") -> str:
    shown = text if len(text) <= TEXT_LETTERS_MAX else text[: TEXT_LETTERS_MAX - 1] + "…"
    extra = f' style="{style}"' if style else ""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}"{extra}>{escape(shown)}</text>'
