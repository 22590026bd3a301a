"""Comparisons read from TOML: worlds over their base, the smoke form, recipes with overrides, errors that name keys."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skerry.algorithms.arrival import Constant, FedBuff, GainControlled
from skerry.algorithms.uplink import Dense, TopK
from skerry.errors import ConfigError
from skerry.recipe import Recipe
from testbed.comparison import scenario_file
from testbed.comparison.scenario import Arm, Comparison, RoundTime

Make = Callable[..., Comparison]


def test_a_file_without_worlds_has_the_one_world(make: Make) -> None:
    assert [world.name for world in make().worlds] == ["near"]


def test_only_a_world_that_is_alone_needs_no_name(make: Make) -> None:
    nameless = {key: value for key, value in WORLD.items() if key != "name"}
    assert [world.name for world in make(world=nameless).worlds] == ["base"]
    with pytest.raises(ConfigError, match=r"worlds\[1\]: Object missing required field `name`"):
        make(world=nameless, worlds=[{"name": "near"}, {"distance": 2.0}])


def test_worlds_are_laid_over_what_they_have_in_common(make: Make) -> None:
    far = {
        "name": "far",
        "distance": 2.0,
        "speed": {"rule": "round", "multipliers": [0.5, 2.0]},
        "task": {"held_out": "csv:x"},
    }
    near, changed = make(worlds=[{"name": "near"}, far]).worlds
    assert near.latency_s("north", "south") == pytest.approx(0.1)
    assert changed.latency_s("south", "north") == pytest.approx(0.2)
    assert changed.latency_s("south", "south") == 0.0
    assert isinstance(changed.speed, RoundTime)
    assert (changed.speed.multipliers, changed.speed.ms) == ((0.5, 2.0), 150.0)
    assert (changed.task.held_out, changed.task.data) == ("csv:x", near.task.data)


def test_the_smoke_form_is_laid_over_the_file(make: Make) -> None:
    full, smoke = make(), make(smoke=True)
    assert (full.seeds, full.duration_s, full.worlds[0].devices) == ((1, 2), 10.0, 4)
    assert (smoke.seeds, smoke.duration_s, smoke.worlds[0].devices) == ((1,), 2.0, 2)
    assert smoke.arms == full.arms


def test_a_file_without_a_smoke_form_says_so(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"small\.toml: has no table \[smoke\]"):
        scenario_file.comparison({"name": "small"}, "small.toml", smoke=True)


def test_targets_stand_from_the_easiest_to_the_hardest(make: Make) -> None:
    assert make().ordered_targets() == (0.5, 0.9)
    assert make(metric="loss", targets=[1.0, 3.0]).ordered_targets() == (3.0, 1.0)


def test_grids_are_the_arms_own_or_the_comparisons_or_left_aside(make: Make) -> None:
    plain, tuned = make().arms
    shared = make(grid={"arrival.exponent": [0.0, 1.0]})
    assert make().grid_of(plain) == {}
    assert shared.grid_of(plain) == {"arrival.exponent": (0.0, 1.0)}
    assert shared.grid_of(tuned) == {"arrival.server_rate": (0.3, 0.6)}
    assert make(tune=False).grid_of(tuned) == {}


WORLD: dict[str, Any] = {
    "name": "near",
    "regions": ["north", "south"],
    "latency_ms": [[0, 100], [100, 0]],
    "devices": 4,
    "task": {"data": "builtin:activity", "held_out": "builtin:activity"},
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"duration_s": -1}, "duration_s"),
        ({"duration": 1}, "did you mean `duration_s`?"),
        ({"targets": [1.5]}, "targets: 1.5 is no accuracy"),
        ({"metric": "loss", "targets": [0.0]}, "targets: 0 is no loss"),
        ({"reference": "other"}, "reference: 'other' is no arm; there are plain, tuned"),
        ({"seeds": [1, 1]}, "seeds: '1' is used twice"),
        ({"evaluate_every_s": 2.0}, "evaluate_every_s: must not be longer than hold_s"),
        ({"world": WORLD | {"devices": 5}}, "devices: 5 cannot be dealt evenly to 2 regions"),
        ({"world": WORLD | {"regions": ["north", "north"]}}, "regions: a name is used twice"),
        ({"world": WORLD | {"latency_ms": [[0, 1], [2, 0]]}}, "between south and north must be the same both ways"),
        ({"world": WORLD | {"latency_ms": [[5, 1], [1, 0]]}}, "0 within a region"),
        ({"world": WORLD | {"latency_ms": []}}, "latency_ms: must have 2 rows of 2 numbers"),
        ({"world": WORLD | {"latency_ms": [[0, 1, 2], [1, 0, 2]]}}, "latency_ms: must have 2 rows of 2 numbers"),
        ({"world": WORLD | {"speed": {"rule": "round", "sd_ms": 90}}}, "sd_ms is 90: at most a third of ms"),
        ({"world": WORLD | {"speed": {"rule": "fast"}}}, "'fast' is none of round, profile"),
        (
            {"world": WORLD | {"task": {"data": "npz:{who}", "held_out": ""}}},
            "data: only part, parts, regions, seed can",
        ),
        ({"world": WORLD | {"task": {"data": "", "held_out": "{part}"}}}, "held_out: only seed can be filled in"),
        ({"world": 3}, "world must be a table"),
        ({"worlds": [{"name": "a"}, {"name": "a"}]}, "worlds.name: 'a' is used twice"),
        ({"worlds": [{"name": "a", "sky": "blue"}]}, "worlds[0]: Object contains unknown field `sky`"),
        ({"worlds": [{"name": "a", "distance": -1.0}]}, "worlds[0].distance: "),
        ({"worlds": [{"name": "a"}], "world": WORLD | {"sky": "blue"}}, "toml: world: Object contains unknown field"),
        ({"worlds": [{"name": "a"}], "world": WORLD | {"devices": -1}}, "toml: world.devices: "),
        ({"worlds": [{"name": "a"}], "world": WORLD | {"devices": 3}}, "toml: world: devices: 3 cannot be dealt"),
        ({"worlds": [{"name": "a", "devices": 3}]}, "worlds[0]: devices: 3 cannot be dealt"),
        ({"arms": [{"name": "a"}, {"name": "a"}]}, "arms.name: 'a' is used twice"),
        ({"arms": [{"name": "a", "home": "moon"}]}, "home of 'a' is 'moon', no region of 'near'"),
        ({"arms": [{"name": "a", "home": "north"}]}, """home of 'a' means nothing without servers = "one\""""),
        ({"arms": [{"name": "a", "grid": {"arrival.server_rate": []}}]}, "the grid of 'a' has 0 points"),
        ({"arms": [{"name": "a", "grid": {"x": [1.0] * 9, "y": [1.0] * 9}}]}, "the grid of 'a' has 81 points"),
    ],
)
def test_what_is_wrong_is_named(make: Make, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**changes)
    assert str(caught.value).startswith("small.toml: ")
    assert said in str(caught.value)


def test_overrides_change_keys_of_a_rule_or_the_rule() -> None:
    base = scenario_file.recipe_of(Arm(name="a", recipe="quick"), Path())
    assert isinstance(base.uplink, TopK)
    changes = {"uplink": {"density": 0.5}, "arrival": {"rule": "constant", "weight": 0.25}}
    recipe = scenario_file.changed(base, changes, "a")
    assert isinstance(recipe.uplink, TopK)
    assert recipe.uplink.density == 0.5
    assert recipe.uplink.scope == base.uplink.scope
    assert recipe.arrival == Constant(weight=0.25)
    assert recipe.federation == base.federation
    assert isinstance(scenario_file.changed(base, {"uplink": {"rule": "dense"}}, "a").uplink, Dense)


def test_a_points_keys_are_those_of_the_recipe() -> None:
    recipe = scenario_file.at_point(Recipe(), {"arrival.server_rate": 0.3, "decay.initial": 0.1}, "a")
    assert recipe.arrival == GainControlled(server_rate=0.3)
    assert recipe.decay.initial == 0.1
    assert scenario_file.at_point(Recipe(), {"arrival.rule": "fedbuff"}, "a").arrival == FedBuff()


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ({"arrival.rate": 0.3}, "arrival: Object contains unknown field `rate`"),
        ({"arrival.server_rate": -1.0}, "arrival.server_rate: Expected `float` > 0.0"),
        ({"colour": 1}, "unknown field `colour`"),
    ],
)
def test_a_wrong_key_of_a_grid_is_named_with_its_arm(point: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        scenario_file.at_point(Recipe(), point, "grid of arm 'a'")
    assert str(caught.value).startswith("grid of arm 'a': ")
    assert said in str(caught.value)


def test_a_recipes_path_is_relative_to_the_scenario(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('name = "mine"')
    assert scenario_file.recipe_of(Arm(name="a", recipe="mine.toml"), tmp_path).name == "mine"
    with pytest.raises(ConfigError, match="arm 'a': no recipe 'mine'; there are"):
        scenario_file.recipe_of(Arm(name="a", recipe="mine"), tmp_path)
