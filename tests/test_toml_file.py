"""A mistake in a TOML file is told with file, place and, for a key that does not exist, the one that was meant."""

import pytest

from coordinator.config import CoordinatorConfig
from edge_agent.config import AgentConfig
from skerry import toml_file
from skerry.errors import ConfigError
from skerry.profile import Profile
from testbed.scenario import Scenario

AGENT = 'device = "a"\ncoordinators = ["https://c.example"]\n[data]\nsource = "csv:x"\n'
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
            'name = "a"\nregion = "r"\nbundle = "b"\n[recipe.uplink]\nrule = "top_k"\ndensty = 1.0',
            "recipe.uplink: .*did you mean `density`?",
        ),
        (Profile, 'name = "a"\n[lab.jitter]\nxyzzy = 1.0', "lab.jitter: .*known are distribution, sigma"),
    ],
)
def test_a_key_that_does_not_exist_is_told_with_the_likely_one(kind: type, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=f"^some.toml: {told}".replace("?", r"\?")):
        toml_file.parse(text, kind, "some.toml")


def test_any_other_mistake_names_no_other_key() -> None:
    with pytest.raises(ConfigError, match=r"^some.toml: coordinators\[0\]: Expected `str`, got `int`$"):
        toml_file.parse('device = "a"\ncoordinators = [1]', AgentConfig, "some.toml")
