"""Scenarios read from TOML: what is packaged is valid, and what is wrong is named by its key."""

from pathlib import Path

import pytest

from skerry import profile as profiles
from skerry.errors import ConfigError
from skerry.recipe import Recipe
from testbed import scenario as scenarios
from testbed.scenario import Scenario

SMALL = """
name = "small"
description = "one region"
compute_share = 0.5
[[regions]]
name = "north"
coordinator = "north-1"
[[regions.devices]]
name = "a"
profile = "raspberry-pi-4b"
[[regions.devices]]
name = "b"
profile = "raspberry-pi-4b"
link = {latency_ms = 20, mbit_per_s = 1}
"""


def load(folder: Path, text: str) -> Scenario:
    file = folder / "small.toml"
    file.write_text(text)
    return scenarios.load(str(file))[0]


def test_every_packaged_scenario_has_its_recipe_and_its_profiles() -> None:
    names = [scenario.name for scenario in scenarios.packaged()]
    assert "quickstart" in names
    for name in names:
        scenario, _ = scenarios.load(name)
        assert scenario.name == name
        for _, device in scenario.devices():
            assert 0.0 < scenario.duty_cycle(profiles.load(device.profile)) <= 1.0


def test_a_scenario_comes_with_its_recipe() -> None:
    _, recipe = scenarios.load("quickstart")
    assert recipe.name == "quick"


def test_devices_are_dealt_the_data_in_order(tmp_path: Path) -> None:
    scenario = load(tmp_path, SMALL)
    assert scenario.data_source("a") == "builtin:activity?part=0&parts=2"
    assert scenario.data_source("b") == "builtin:activity?part=1&parts=2"


def test_a_device_is_as_slow_as_profile_and_share_say(tmp_path: Path) -> None:
    profile = profiles.load("raspberry-pi-4b")
    assert load(tmp_path, SMALL).duty_cycle(profile) == pytest.approx(0.5 / profile.lab.slowdown)


def test_a_link_is_the_devices_own_or_the_scenarios_or_the_profiles(tmp_path: Path) -> None:
    profile = profiles.load("raspberry-pi-4b")
    assert profile.link is not None
    assert profile.link.up_bytes_per_s is not None
    scenario = load(tmp_path, SMALL)
    (_, a), (_, b) = scenario.devices()
    of_profile, own = scenario.device_link(a, profile), scenario.device_link(b, profile)
    assert of_profile.a_to_b.shape.bits_per_s == profile.link.up_bytes_per_s * 8
    assert of_profile.b_to_a.shape.bits_per_s == profile.link.down_bytes_per_s * 8
    assert own.a_to_b.shape.latency_s == pytest.approx(0.020)
    assert own.b_to_a.shape.bits_per_s == pytest.approx(1e6)
    shared = load(tmp_path, SMALL.replace("[[regions]]", "[links.devices]\nlatency_ms = 7\n[[regions]]", 1))
    assert shared.device_link(a, profile).a_to_b.shape.latency_s == pytest.approx(0.007)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('name = "small"', "", "name"),
        ("compute_share = 0.5", "compute_share = 2.0", "compute_share"),
        ("compute_share = 0.5", "compute_shore = 0.5", "compute_shore"),
        ("latency_ms = 20", "latency_ms = -1", "regions[0].devices[1].link.latency_ms"),
        ('name = "b"', 'name = "a"', "regions.devices.name: 'a' is used twice"),
        ('description = "one region"', 'description = ""\ndata = "npz:{who}.npz"', "data"),
        ("compute_share = 0.5", 'recipe = "nonsense"', "nonsense"),
        ("compute_share = 0.5", "compute_share = ", "TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, key: str) -> None:
    with pytest.raises(ConfigError, match=r"small\.toml|recipe") as raised:
        load(tmp_path, SMALL.replace(old, new, 1))
    assert key in str(raised.value)


def test_an_unknown_name_gets_the_list_of_known_ones() -> None:
    with pytest.raises(ConfigError, match="quickstart"):
        scenarios.load("quikstart")


def test_every_packaged_recipe_reads_and_carries_its_file_s_name() -> None:
    files = [item.name for item in scenarios.PACKAGED_RECIPES.iterdir() if item.name.endswith(".toml")]
    for file in files:
        assert scenarios.load("quickstart", file.removesuffix(".toml"))[1].name == file.removesuffix(".toml")


def test_the_default_recipe_is_the_products_own() -> None:
    recipe = scenarios.load("quickstart", "default")[1]
    assert recipe == Recipe(description=recipe.description)
