"""A coordinator's configuration, for people: the words of `skerry-coordinator config check`. No I/O."""

import json

import msgspec

from coordinator.config import CoordinatorConfig
from skerry.recipe import Recipe
from skerry.tasks.bundle import Bundle

SHOWN = ("optimizer", "schedule", "privacy", "uplink")  # whatever they are: what devices do, and what leaves them


def config_text(config: CoordinatorConfig, bundle: Bundle, held_out_examples: int | None) -> str:
    """Return what matters most of a configuration that can be used; `held_out_examples`: None without such data."""
    recipe = config.recipe
    assert isinstance(recipe, Recipe), "config.load reads a recipe that is given as a path"
    evaluation = "none: no held-out data here"
    if config.evaluation is not None and held_out_examples is not None:
        evaluation = (
            f"{config.evaluation.source}, {held_out_examples} examples, at most every {config.evaluation.every_s:g} s"
        )
    checkpoints, scheme = config.checkpoints, "http" if config.insecure else "https"
    lines = [
        f"coordinator {config.name}, region {config.region}, at {scheme}://{config.listen.host}:{config.listen.port}",
        f"task        {bundle.manifest.name}, {bundle.manifest.layout.size} parameters, bundle {bundle.sha256[:12]}",
        *_recipe_lines(recipe),
        f"evaluation  {evaluation}",
        f"state       {config.state_dir}, a checkpoint every {checkpoints.every_updates} versions or "
        f"{checkpoints.every_s:g} s, {checkpoints.keep} kept",
    ]
    lines += [f"peer        {name} at {url}" for name, url in sorted(config.peers.items())]
    return "\n".join(lines)


def _recipe_lines(recipe: Recipe) -> list[str]:
    """Return the stages in SHOWN and those that are not as by default with their settings, of the others the rules."""
    default = Recipe()
    stages = [name for name in Recipe.__struct_fields__ if name not in {"name", "description"}]
    shown = [name for name in stages if name in SHOWN or getattr(recipe, name) != getattr(default, name)]
    usual = [f"{name} {getattr(recipe, name).__struct_config__.tag}" for name in stages if name not in shown]
    lines = [f"recipe      {recipe.name}"]
    lines += [f"  {name:<13} {_settings(getattr(recipe, name))}" for name in shown]
    return [*lines, f"  by default    {', '.join(usual)}"] if usual else lines


def _settings(rule: msgspec.Struct) -> str:
    """Return a rule's name and its settings, those aside that are left to the task."""
    name, *rest = ((key, value) for key, value in msgspec.to_builtins(rule).items() if value is not None)
    return ", ".join([str(name[1]), *(f"{key} {json.dumps(value)}" for key, value in rest)])
