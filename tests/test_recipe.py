"""A recipe is a TOML file in which every key may be missing and none may be wrong."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from skerry import toml_file
from skerry.agent_stages import AgentStages, on_wire
from skerry.algorithms.arrival import (
    ArrivalRule,
    Constant,
    FedAvg,
    FedBuff,
    GainControlled,
    Spyker,
)
from skerry.algorithms.decay import Relative
from skerry.algorithms.downlink import Newest
from skerry.algorithms.federation import NoFederation, SpykerToken
from skerry.algorithms.local_steps import Cycle, Fixed
from skerry.algorithms.merge import CarryOver
from skerry.algorithms.optimizer import Adam, Sgd
from skerry.algorithms.participation import OnOffer
from skerry.algorithms.privacy import Gaussian
from skerry.algorithms.schedule import Constant as ConstantRate
from skerry.algorithms.schedule import Cosine
from skerry.algorithms.uplink import Dense, Flare, TopK, WholeModel
from skerry.errors import ConfigError
from skerry.recipe import Recipe
from skerry.values import ValueEncoding

STAGES = (
    "participation",
    "local_steps",
    "optimizer",
    "schedule",
    "privacy",
    "uplink",
    "merge",
    "guard",
    "arrival",
    "decay",
    "federation",
)
DOCS = Path(__file__).resolve().parent.parent / "docs" / "recipes.md"


def parse(text: str) -> Recipe:
    return toml_file.parse(text, Recipe, "recipe.toml")


def test_empty_file_is_the_default_recipe() -> None:
    recipe = parse("")
    assert recipe == Recipe()
    assert isinstance(recipe.local_steps, Cycle)
    assert isinstance(recipe.optimizer, Sgd)
    assert recipe.uplink == TopK(density=0.02, scope="tensor", values=ValueEncoding.INT8, return_unapplied=True)
    assert recipe.schedule == ConstantRate(warmup_steps=0)
    assert isinstance(recipe.merge, CarryOver)
    assert recipe.arrival == GainControlled(server_rate=0.6, gain_max=1.2)
    assert isinstance(recipe.decay, Relative)
    assert recipe.decay.initial == 0.05
    assert isinstance(recipe.federation, SpykerToken)


def test_every_stage_is_chosen_by_name() -> None:
    recipe = parse(
        """
        name = "buffered"
        [local_steps]
        rule = "fixed"
        steps_per_cycle = 5
        [uplink]
        rule = "flare"
        strength = 0.25
        values = "int8"
        [arrival]
        rule = "fedbuff"
        size = 4
        [federation]
        rule = "none"
        """
    )
    assert recipe.local_steps == Fixed(5)
    assert recipe.uplink == Flare(strength=0.25, values=ValueEncoding.INT8)
    assert recipe.arrival == FedBuff(4)
    assert recipe.federation == NoFederation()
    assert recipe.optimizer == Sgd()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[uplink]\nrule = "top_k"\ndensity = 0.0', ["uplink.density", "> 0.0"]),
        ('[uplink]\nrule = "top_k"\ndensity = nan', ["uplink.density"]),
        ('[uplink]\nrule = "top_k"\ndensity = "much"', ["uplink.density", "float"]),
        ('[uplink]\nrule = "top_k"\nvalues = "float8"', ["uplink.values", "float8"]),
        ('[uplink]\nrule = "top_k"\ndensty = 0.1', ["uplink", "densty"]),
        ('[uplink]\nrule = "topk"', ["uplink.rule", "topk"]),
        ("[uplink]\ndensity = 0.1", ["uplink", "rule"]),
        ("[uplnk]", ["uplnk"]),
        ('[local_steps]\nrule = "cycle"\nsteps_max = 0', ["local_steps.steps_max", ">= 1"]),
        ('[local_steps]\nrule = "cycle"\ncycle_min_s = 5.0\ncycle_max_s = 1.0', ["local_steps", "cycle_min_s is 5.0"]),
        ('[optimizer]\nrule = "sgd"\nmomentum = 1.0', ["optimizer.momentum", "< 1.0"]),
        ('[optimizer]\nrule = "sgd"\nmomentum = 0.0\nnesterov = true', ["optimizer", "nesterov"]),
        ('[optimizer]\nrule = "sgd"\nclip_norm = 0.0', ["optimizer.clip_norm", "> 0.0"]),
        ('[optimizer]\nrule = "adam"\nbeta2 = 1.0', ["optimizer.beta2", "< 1.0"]),
        ('[optimizer]\nrule = "adam"\nepsilon = 0.0', ["optimizer.epsilon"]),
        ('[optimizer]\nrule = "adam"\nmomentum = 0.9', ["optimizer", "momentum"]),
        ('[optimizer]\nrule = "adam"\nclip_norm = inf', ["optimizer.clip_norm"]),
        ('[schedule]\nrule = "step"\nevery_steps = 0', ["schedule.every_steps", ">= 1"]),
        ('[schedule]\nrule = "exponential"\ngamma = 1.5', ["schedule.gamma", "<= 1.0"]),
        ('[schedule]\nrule = "cosine"\nminimum = nan', ["schedule.minimum"]),
        ('[schedule]\nrule = "cosine"\nwarmup_steps = -1', ["schedule.warmup_steps", ">= 0"]),
        ('[schedule]\nrule = "linear"', ["schedule.rule", "linear"]),
        ('[arrival]\nrule = "spyker"\nserver_rate = inf', ["arrival.server_rate"]),
        ('[arrival]\nrule = "fedbuff"\nsize = 1.5', ["arrival.size", "int"]),
        ('[uplink]\nrule = "whole_model"\n[arrival]\nrule = "fedbuff"', ["whole_model", "fedbuff", "dense"]),
        ('[uplink]\nrule = "whole_model"\n[downlink]\nrule = "top_k"', ["whole_model", "top_k", "newest"]),
        ('[arrival]\nrule = "fedavg"\nfraction = 0.0', ["arrival.fraction"]),
        (
            '[uplink]\nrule = "whole_model"\n[privacy]\nrule = "gaussian"\n[downlink]\nrule = "newest"',
            ["whole_model", "privacy.rule, gaussian", "dense"],
        ),
        ('[privacy]\nrule = "gaussian"\nnoise_multiplier = 0', ["privacy.noise_multiplier"]),
        ('[arrival]\nrule = "median"', ["median", "top_k", "dense"]),
        ('[arrival]\nrule = "trimmed_mean"\ntrim = 0.5', ["arrival.trim", "< 0.5"]),
        ('[arrival]\nrule = "trimmed_mean"\nsize = 4', ["arrival", "trim is 0.2", "4 devices"]),
        ('[arrival]\nrule = "gain_controlled"\ngain_max = 0.0', ["arrival.gain_max"]),
        ('[federation]\nrule = "synchronous_exchange"\ninterval_s = 0.0', ["federation.interval_s"]),
        ('[decay]\nrule = "relative"\nminimum = 1.0', ["decay", "minimum is 1.0"]),
        ('[federation]\nrule = "spyker_token"\neta_a = 2', ["federation.eta_a"]),
        ('[federation]\nrule = "spyker_token"\nhold_min_s = 2.0', ["federation", "hold_min_s is 2.0"]),
        ('[federation]\nrule = "spyker_token"\ntoken_timeout_s = 1.0', ["federation", "token_timeout_s is 1.0"]),
        ("uplink = ", ["TOML"]),
    ],
)
def test_errors_name_file_and_key(text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    for word in ["recipe.toml", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(uplink=Dense(), arrival=Constant()),
        Recipe(uplink=Flare(), federation=NoFederation()),
        Recipe(participation=OnOffer(), uplink=WholeModel(), downlink=Newest()),
        Recipe(optimizer=Adam(decoupled=True, clip_norm=5.0)),
        Recipe(privacy=Gaussian(clip_norm=0.1, noise_multiplier=3.0), uplink=Dense()),
    ],
)
def test_recipe_travels_as_plain_data(recipe: Recipe) -> None:
    assert msgspec.convert(msgspec.to_builtins(recipe), Recipe) == recipe
    stages = on_wire(recipe.agent_stages(), 100)
    assert msgspec.convert(stages, AgentStages) == recipe.agent_stages()
    assert set(stages) - {"participation", "privacy"} == {"local_steps", "optimizer", "schedule", "uplink", "merge"}


def test_agents_that_know_of_no_participation_understand_the_recipes_that_need_none() -> None:
    assert "participation" not in on_wire(Recipe().agent_stages(), 100)
    assert on_wire(Recipe(participation=OnOffer()).agent_stages(), 100)["participation"] == {"rule": "on_offer"}


def test_agents_that_know_of_no_privacy_understand_the_recipes_that_need_none_and_refuse_the_others() -> None:
    assert "privacy" not in on_wire(Recipe().agent_stages(), 100)
    asked = {"rule": "gaussian", "clip_norm": 0.5, "noise_multiplier": 5.0}
    assert on_wire(Recipe(privacy=Gaussian(clip_norm=0.5)).agent_stages(), 100)["privacy"] == asked


def test_a_norm_that_follows_the_model_travels_as_the_number_that_every_agent_knows() -> None:
    privacy = on_wire(Recipe(privacy=Gaussian(noise_multiplier=5.0)).agent_stages(), 100)["privacy"]
    assert privacy == {"rule": "gaussian", "clip_norm": 1 / (25 * 100), "noise_multiplier": 5.0}


def test_devices_get_their_stages() -> None:
    stages: dict[str, Any] = {
        "uplink": Flare(strength=0.1),
        "optimizer": Sgd(momentum=0.5),
        "schedule": Cosine(fall_steps=7),
    }
    assert Recipe(arrival=Spyker(), **stages).agent_stages() == AgentStages(**stages)


@pytest.mark.parametrize("arrival", [FedBuff(), FedAvg(), GainControlled()])
def test_nothing_returns_to_the_residual_where_weights_are_shares(arrival: ArrivalRule) -> None:
    """A weight of 1/10 among ten is full application."""
    assert Recipe(arrival=arrival).agent_stages().uplink.return_unapplied is False
    assert Recipe(arrival=arrival, participation=OnOffer(), uplink=Dense()).agent_stages().uplink == Dense()


def test_what_a_weight_left_out_returns_under_the_published_rule() -> None:
    assert Recipe(arrival=Spyker()).agent_stages().uplink.return_unapplied is True


def shown(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
    return str(value)


def described_entries() -> list[tuple[str, str, str]]:
    """Return stage, entry and the row that each of its keys must have."""
    stages = {field.name: field.type for field in msgspec.inspect.type_info(Recipe).fields}  # type: ignore[attr-defined]
    entries = []
    for stage in STAGES:
        for entry in getattr(stages[stage], "types", (stages[stage],)):
            defaults = entry.cls()
            rows = [f"| `{field.name}` | {shown(getattr(defaults, field.name))} |" for field in entry.fields]
            entries += [(stage, entry.tag, row) for row in rows or [""]]
    return entries


@pytest.mark.parametrize(("stage", "entry", "row"), described_entries())
def test_documentation_has_every_entry_and_key_with_its_default(stage: str, entry: str, row: str) -> None:
    chapter = DOCS.read_text().partition(f"\n## `{stage}`\n")[2].partition("\n## ")[0]
    _, heading, section = chapter.partition(f"### `{entry}`\n")
    assert heading
    assert row in section.partition("\n###")[0]


def test_a_key_of_another_rule_is_not_offered_in_its_own_place(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('[optimizer]\nrule = "adam"\nmomentum = 0.9\n')
    with pytest.raises(ConfigError, match="`momentum` belongs to another rule of this table"):
        toml_file.read(path, Recipe)
