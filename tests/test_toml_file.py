"""A mistake in a TOML file is told with file, place and, for a key that does not exist, the one that was meant."""

from typing import Annotated

import msgspec
import pytest
from msgspec import Meta

from coordinator.config import CoordinatorConfig
from edge_agent.config import AgentConfig
from skerry import toml_file
from skerry.errors import ConfigError
from skerry.profile import Profile
from skerry.recipe import Recipe
from testbed.scenario import Scenario

AGENT = 'device = "a"\ncoordinators = ["https://c.example"]\n[data]\nsource = "csv:x"\n'
COORDINATOR = 'name = "a"\nregion = "r"\nbundle = "b"\n'
NAME = 'must be of letters, digits, `.`, `_` and `-`, beginning with a letter or a digit, such as "greenhouse-7"'
SCENARIO = 'name = "a"\ndescription = ""\n[[regions]]\nname = "r"\ncoordinator = "c"\n[[regions.devices]]\nname = "d"\n'


@pytest.mark.parametrize(
    ("kind", "text", "told"),
    [
        (AgentConfig, 'devise = "a"', "top level: .*`devise`; did you mean `device`?"),
        (AgentConfig, AGENT + "[trainign]", "top level: .*did you mean `training`?"),
        (AgentConfig, AGENT + "[training]\nbatchexamples = 1", "training: .*did you mean `batch_examples`?"),
        (Scenario, SCENARIO + 'profil = "x"', r"regions\[0\].devices\[0\]: .*did you mean `profile`?"),
        (
            CoordinatorConfig,
            COORDINATOR + '[recipe.uplink]\nrule = "top_k"\ndensty = 1.0',
            "recipe.uplink: .*did you mean `density`?",
        ),
        (Profile, 'name = "a"\n[lab.jitter]\nxyzzy = 1.0', "lab.jitter: .*known are distribution, sigma"),
    ],
)
def test_a_key_that_does_not_exist_is_told_with_the_likely_one(kind: type, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=f"^some.toml: {told}".replace("?", r"\?")):
        toml_file.parse(text, kind, "some.toml")


@pytest.mark.parametrize(
    ("kind", "text", "told"),
    [
        (
            AgentConfig,
            AGENT + '[policy]\nquiet_hours = ["10pm"]',
            'policy.quiet_hours[0]: must be two times of day as HH:MM-HH:MM, such as "22:00-06:30"',
        ),
        (AgentConfig, AGENT.replace('"a"', '"my pi"'), f"device: {NAME}"),
        (Scenario, SCENARIO.replace('"d"', '"-d"'), f"regions[0].devices[0].name: {NAME}"),
        (CoordinatorConfig, COORDINATOR + 'peers = { "b c" = "http://b" }', f"peers: a key in it {NAME}"),
        (AgentConfig, AGENT + '[training]\nengine = "jax"', "training.engine: 'jax' is none of onnx, torch"),
        (
            CoordinatorConfig,
            COORDINATOR + '[recipe.uplink]\nrule = "topk"',
            "recipe.uplink.rule: 'topk' is none of top_k, dense, flare, whole_model",
        ),
        (Recipe, '[schedule]\nrule = "cos"', "schedule.rule: 'cos' is none of constant, step, exponential, cosine"),
        (
            Recipe,
            "[local_steps]\nsteps_max = 3",
            "local_steps: Object missing required field `rule`: one of cycle, fixed",
        ),
        (CoordinatorConfig, 'name = "a"', "top level: Object missing required field `region`"),
    ],
)
def test_what_may_stand_there_is_told_in_words(kind: type, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        toml_file.parse(text, kind, "some.toml")
    assert str(error.value) == f"some.toml: {told}"


def test_a_pattern_that_nobody_has_described_is_told_as_it_is() -> None:
    class Plain(msgspec.Struct):
        """Its pattern has no description."""

        digits: Annotated[str, Meta(pattern="^[0-9]+$")]

    with pytest.raises(ConfigError, match=r"digits: Expected `str` matching regex '\^\[0-9\]\+\$'$"):
        toml_file.parse('digits = "x"', Plain, "some.toml")


def test_any_other_mistake_names_no_other_key() -> None:
    with pytest.raises(ConfigError, match=r"^some.toml: coordinators\[0\]: Expected `str`, got `int`$"):
        toml_file.parse('device = "a"\ncoordinators = [1]', AgentConfig, "some.toml")


@pytest.mark.parametrize("opening", ["[", "{a="])
def test_what_is_nested_too_deep_is_a_mistake_of_the_file(opening: str) -> None:
    with pytest.raises(ConfigError, match=r"a\.toml: not valid TOML: arrays or tables within one another, too many"):
        toml_file.parse("name = " + opening * 5000, CoordinatorConfig, "a.toml")
