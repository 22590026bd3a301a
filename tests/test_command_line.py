"""The four commands answer alike: help, version, the configuration's option, the output's option, named files."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from coordinator.cli import coordinator
from edge_agent.cli import cli as agent
from skerry import __version__
from skerry.cli import task
from skerry.command_line import naming
from skerry.errors import ConfigError
from testbed.cli import cli as lab

GROUPS = {"skerry-agent": agent, "skerry-coordinator": coordinator, "skerry-task": task, "skerry-lab": lab}


def commands(group: click.Command, *names: str) -> list[tuple[tuple[str, ...], click.Command]]:
    """The group and everything below it, each with the words that lead to it."""
    below = group.commands.items() if isinstance(group, click.Group) else ()
    return [(names, group), *(found for name, inner in below for found in commands(inner, *names, name))]


EVERY = [(program, words, command) for program, group in GROUPS.items() for words, command in commands(group)]


def options(command: click.Command) -> set[str]:
    return {name for option in command.params for name in option.opts if name.startswith("-")}


@pytest.mark.parametrize(("program", "words"), [(program, words) for program, words, _ in EVERY])
def test_every_command_has_both_spellings_of_help(program: str, words: tuple[str, ...]) -> None:
    short, long = (CliRunner().invoke(GROUPS[program], [*words, spelt]) for spelt in ("-h", "--help"))
    assert short.exit_code == 0
    assert short.output == long.output
    assert "Usage:" in short.output
    if words and not isinstance(dict(commands(GROUPS[program]))[words], click.Group):
        assert "Example" in short.output


@pytest.mark.parametrize("program", GROUPS)
def test_every_program_says_its_version(program: str) -> None:
    result = CliRunner().invoke(GROUPS[program], ["--version"])
    assert result.exit_code == 0
    assert result.output == f"{program}, version {__version__}\n"


def test_options_have_their_short_form_wherever_they_are() -> None:
    for _, words, command in EVERY:
        for long, short in (("--config", "-c"), ("--output", "-o")):
            assert (long in options(command)) == (short in options(command)), words
        assert "--out" not in options(command), words


def test_the_former_name_of_output_is_still_understood(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for spelt in ("--output", "-o", "--out"):
        result = CliRunner().invoke(lab, ["run", "quickstart", spelt, str(tmp_path / "full")])
        assert result.exit_code == 2
        assert "is not empty" in result.stderr


def test_a_complaint_about_a_configuration_names_the_file_once() -> None:
    for said in ("listen.host: no", "agent.toml: listen.host: no"):
        with pytest.raises(ConfigError, match=r"^agent\.toml: listen\.host: no$"), naming(Path("agent.toml")):
            raise ConfigError(said)


def test_a_coordinator_that_may_not_be_exposed_names_its_file(tmp_path: Path) -> None:
    path = tmp_path / "coordinator.toml"
    path.write_text(
        'name = "a"\nregion = "r"\nbundle = "builtin:activity"\ninsecure = true\nlisten = { host = "0.0.0.0" }\n'
    )
    result = CliRunner().invoke(coordinator, ["config", "check", "-c", str(path)])
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception).startswith(f"{path}: listen.host: ")


def test_a_coordinator_s_missing_recipe_names_both_files(tmp_path: Path) -> None:
    path = tmp_path / "coordinator.toml"
    path.write_text('name = "a"\nregion = "r"\nbundle = "builtin:activity"\nrecipe = "none.toml"\n')
    result = CliRunner().invoke(coordinator, ["config", "check", "-c", str(path)])
    assert isinstance(result.exception, ConfigError)
    assert str(path) in str(result.exception)
    assert "none.toml: cannot be read" in str(result.exception)
