"""Colours: one hue per group, one shade per member, readable in the light and in the dark."""

import re

import pytest

from testbed.report.palette import HUES, ROLES, Palette, contrast

TEXT_CONTRAST = 4.5  # WCAG 2.2, level AA


def groups_of(groups: int, members: int) -> dict[str, list[str]]:
    return {f"r{group}": [f"r{group}-d{one}" for one in range(members)] for group in range(groups)}


def test_contrast_is_that_of_the_accessibility_guidelines() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)  # the guidelines' well-known near miss
    assert contrast("#123456", "#123456") == 1.0


def test_every_colour_that_text_is_written_in_can_be_read() -> None:
    palette = Palette(groups_of(len(HUES), 5))
    light, dark = ROLES["surface"]
    text = [palette.roles[role] for role in ("ink", "muted", "good", "bad")]
    for colour in (*text, *palette.groups.values(), *palette.members.values()):
        assert contrast(colour.light, light) >= TEXT_CONTRAST, colour
        assert contrast(colour.dark, dark) >= TEXT_CONTRAST, colour


def test_every_device_has_a_colour_of_its_own() -> None:
    devices = Palette(groups_of(len(HUES), 4)).members.values()
    assert len({colour.light for colour in devices}) == len(devices)
    assert len({colour.dark for colour in devices}) == len(devices)


def test_there_may_be_more_regions_than_hues() -> None:
    palette = Palette(groups_of(len(HUES) + 1, 1))
    assert len({colour.key for colour in palette.groups.values()}) == len(HUES) + 1


def test_keys_become_variables_that_the_style_sheet_defines() -> None:
    palette = Palette(groups_of(2, 3))
    keys = [colour.key for colour in (*palette.roles.values(), *palette.groups.values(), *palette.members.values())]
    painted = palette.paint(" ".join(f"stroke: {key};" for key in keys) + " fill: #123456")
    used = re.findall(r"var\((--[\w-]+)\)", painted)
    assert len(set(used)) == len(keys)
    assert painted.endswith("#123456")
    light, dark = palette.style_sheet().split("@media (prefers-color-scheme:dark)")
    for variable in used:
        assert f"{variable}:#" in light
        assert f"{variable}:#" in dark
