"""Reading a comparison from TOML: worlds over what they have in common, the smoke form, and each arm's recipe."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from skerry import toml_file
from skerry.errors import ConfigError
from skerry.recipe import Recipe
from skerry.refusal import in_words
from testbed.comparison.scenario import Arm, Comparison
from testbed.scenario import load_recipe

SMOKE = "smoke"
ONLY_WORLD = "base"  # the name of a world that is alone in its file and has none


def comparison(tables: Mapping[str, Any], origin: str, *, smoke: bool) -> Comparison:
    """Return the comparison that a TOML file says.

    Every table of `[[worlds]]` is laid over `[world]`, key by key; a file without `[[worlds]]` has the one `[world]`,
    which needs no name.
    With `smoke`, `[smoke]` is laid over the whole file before that.

    Raises:
        ConfigError: a key is unknown, missing or out of range; names `origin` and key.
    """
    whole = {key: value for key, value in tables.items() if key != SMOKE}
    if smoke:
        if not isinstance(tables.get(SMOKE), dict):
            raise ConfigError(f"{origin}: has no table [smoke], so no smoke form")
        whole = laid_over(whole, tables[SMOKE])
    base = whole.pop("world", {})
    worlds = whole.get("worlds", [{}])
    only = {} if "worlds" in whole else {"name": ONLY_WORLD}
    if not isinstance(base, dict) or not isinstance(worlds, list) or not all(isinstance(one, dict) for one in worlds):
        raise ConfigError(f"{origin}: world must be a table, and worlds an array of tables")
    whole["worlds"] = [laid_over(only | base, world) for world in worlds]
    try:
        return toml_file.convert(whole, Comparison, origin)
    except ConfigError as error:
        raise ConfigError(_where_it_stands(str(error), worlds)) from error


def _where_it_stands(message: str, worlds: list[dict[str, Any]]) -> str:
    """Name [world], where a mistake in one of the worlds is in what that table says for all of them."""
    found = re.search(r"worlds\[(\d+)\]((?:\.\w+)*): (?:Object contains unknown field `(\w+)`|(\w+): )?", message)
    if found is None:
        return message
    path = [*found[2].split(".")[1:], *filter(None, (found[3], found[4]))]
    own: Any = worlds[int(found[1])]
    for key in path:
        if not isinstance(own, dict) or key not in own:
            return message.replace(f"worlds[{found[1]}]", "world", 1)
        own = own[key]
    return message


def recipe_of(arm: Arm, folder: Path) -> Recipe:
    """Return the recipe of an arm with its overrides; a path is relative to `folder`.

    Raises:
        ConfigError: there is no such recipe, or an override does not fit it; names the arm.
    """
    who = f"arm {arm.name!r}"
    try:
        recipe = load_recipe(arm.recipe, folder)
    except ConfigError as error:
        raise ConfigError(f"{who}: {error}") from error
    return changed(recipe, arm.overrides, who)


def at_point(recipe: Recipe, point: Mapping[str, Any], who: str) -> Recipe:
    """Return `recipe` with some of its keys changed, each named with the table before it: `arrival.server_rate`.

    Raises:
        ConfigError: a key does not exist or does not take this value; `who` is named.
    """
    changes: dict[str, Any] = {}
    for key, value in point.items():
        table = changes
        *tables, last = key.split(".")
        for name in tables:
            table = table.setdefault(name, {})
        table[last] = value
    return changed(recipe, changes, who)


def changed(recipe: Recipe, changes: Mapping[str, Any], who: str) -> Recipe:
    """Return `recipe` with tables laid over it; a table that names another rule replaces the whole stage.

    Raises:
        ConfigError: a change does not fit; `who` is named.
    """
    tables = laid_over(msgspec.to_builtins(recipe), changes)
    try:
        return msgspec.convert(tables, Recipe)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{who}: {in_words(error, Recipe)}") from error


def laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` with what `above` says; tables are merged, all else is replaced.

    A table with another `rule` than the one below it replaces it: the keys of one rule mean nothing to another.
    """
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        if (
            isinstance(under, dict)
            and isinstance(value, dict)
            and value.get("rule", under.get("rule")) == under.get("rule")
        ):
            merged[key] = laid_over(under, value)
        else:
            merged[key] = value
    return merged
