"""The colours of a report: one hue per group (a region, an arm), one shade of it per member (a device), light and dark.

A plot is drawn in *keys*, colours that stand for a role; `Palette.paint` replaces them in the finished SVG by CSS
variables, so that the page's style sheet, and with it the reader's light or dark setting, decides what they look like.
Pure.
"""

import colorsys
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# hue in degrees and saturation: blue, orange, green, violet, rose, teal, ochre, slate
HUES = ((214, 0.75), (19, 0.90), (152, 0.65), (268, 0.50), (338, 0.65), (188, 0.75), (44, 0.85), (225, 0.18))

CONTRAST_MAX, CONTRAST_MIN = 10.0, 4.6  # of the shades of one hue to the surface under them

# role -> (light, dark)
ROLES = {
    "ink": ("#1b2430", "#e7ebf0"),
    "muted": ("#5d6877", "#9aa5b3"),
    "grid": ("#e3e7ec", "#2c3440"),
    "surface": ("#ffffff", "#171c23"),
    "page": ("#f4f6f8", "#0e1217"),
    "dense": ("#c6cdd6", "#434d5b"),
    "good": ("#187a47", "#4cc684"),
    "bad": ("#c02b2b", "#ff7b72"),
}


@dataclass(frozen=True)
class Colour:
    """A role: what it is called in CSS, and what it looks like."""

    variable: str
    light: str
    dark: str
    key: str  # stands for it while a plot is drawn

    @property
    def css(self) -> str:
        """The value to write into a style."""
        return f"var(--{self.variable})"


class Palette:
    """All colours of one report."""

    def __init__(self, groups: Mapping[str, Sequence[str]]) -> None:
        """`groups` names what gets a hue, and the members of each; both in the order of the hues and shades."""
        self._colours: list[Colour] = []
        self.roles = {name: self._add(name, light, dark) for name, (light, dark) in ROLES.items()}
        self.groups: dict[str, Colour] = {}
        self.members: dict[str, Colour] = {}
        for index, (group, members) in enumerate(groups.items()):
            hue = HUES[index % len(HUES)]
            self.groups[group] = self._add(f"group-{index}", *_shades(hue, 0.6))
            for position, member in enumerate(members):
                shades = _shades(hue, position / max(1, len(members) - 1))
                self.members[member] = self._add(f"member-{len(self.members)}", *shades)

    def _add(self, variable: str, light: str, dark: str) -> Colour:
        # 0xfe.... are colours that nobody would choose: nearly pure red, one step apart
        colour = Colour(variable, light, dark, f"#fe{len(self._colours):04x}")
        self._colours.append(colour)
        return colour

    def key(self, role: str) -> str:
        """Return the key of one of `ROLES`."""
        return self.roles[role].key

    def paint(self, svg: str) -> str:
        """Return `svg` with every key replaced by its CSS variable."""
        variables = {colour.key: colour.css for colour in self._colours}
        return re.sub(r"#fe[0-9a-f]{4}\b", lambda match: variables[match[0]], svg)

    def style_sheet(self) -> str:
        """Return the CSS that defines the variables, light by default and dark where the reader asks for it."""
        light = "".join(f"--{colour.variable}:{colour.light};" for colour in self._colours)
        dark = "".join(f"--{colour.variable}:{colour.dark};" for colour in self._colours)
        return f":root{{{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, in [1, 21], as WCAG 2.2 defines it; text needs 4.5."""
    bright, dim = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[start : start + 2], 16) / 255.0 for start in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _shades(hue: tuple[int, float], position: float) -> tuple[str, str]:
    """Return the light and the dark variant of a shade, from the strongest (0) to the faintest (1)."""
    wanted = CONTRAST_MAX * (CONTRAST_MIN / CONTRAST_MAX) ** position
    light, dark = ROLES["surface"]
    return _shade(hue, wanted, on=light), _shade(hue, wanted, on=dark)


def _shade(hue: tuple[int, float], wanted: float, *, on: str) -> str:
    """Return the colour of this hue that is nearest to `on` and still has the contrast `wanted` to it."""
    degrees, saturation = hue
    steps = range(101) if contrast(on, "#ffffff") > contrast(on, "#000000") else range(100, -1, -1)
    candidates = (_hex(colorsys.hls_to_rgb(degrees / 360.0, step / 100.0, saturation)) for step in steps)
    return next(colour for colour in candidates if contrast(colour, on) >= wanted)


def _hex(rgb: tuple[float, float, float]) -> str:
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in rgb)
