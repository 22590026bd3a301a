"""The inventory: what holds for all boards, what for one, and what cannot be."""

import tomllib
from pathlib import Path

import pytest

from skerry.errors import ConfigError
from testbed.deploy.inventory import Inventory, load, package_for, target

TEXT = """
package = "skerry-agent_{arch}.deb"
coordinator = "https://eu.example:8470"
profile = "raspberry-pi-4b"
config = "[limits]\\nheartbeat_s = 3.0"
[[boards]]
name = "pi-1"
address = "10.0.0.1"
data = 'csv:/srv/"odd".csv'
[[boards]]
name = "pi-2"
address = "pi-2.local"
user = "pi"
port = 2222
coordinator = "https://us.example:8470"
profile = "raspberry-pi-5"
config = ""
"""


def inventory(folder: Path, text: str = TEXT) -> Inventory:
    path = folder / "boards.toml"
    path.write_text(text)
    return load(path)


def test_what_a_board_says_goes_before_what_holds_for_all(tmp_path: Path) -> None:
    both = inventory(tmp_path)
    first, second = (target(both, board) for board in both.boards)
    assert (first.user, first.port, first.coordinator) == ("root", 22, "https://eu.example:8470")
    assert (second.user, second.port, second.coordinator) == ("pi", 2222, "https://us.example:8470")


def test_the_configuration_of_a_board_is_valid_and_says_neither_who_nor_where(tmp_path: Path) -> None:
    both = inventory(tmp_path)
    first, second = (tomllib.loads(target(both, board).config) for board in both.boards)
    assert first == {
        "runtime_dir": "/run/skerry/agent",
        "profile": "raspberry-pi-4b",
        "limits": {"heartbeat_s": 3.0},
        "data": {"source": 'csv:/srv/"odd".csv'},
    }
    assert second == {"runtime_dir": "/run/skerry/agent", "profile": "raspberry-pi-5"}


def test_the_package_is_the_boards_architectures(tmp_path: Path) -> None:
    assert package_for(inventory(tmp_path), tmp_path, "arm64") == tmp_path / "skerry-agent_arm64.deb"


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('name = "pi-2"', 'name = "pi-1"', "pi-1 stands there more than once"),
        ('address = "pi-2.local"\nuser = "pi"\nport = 2222', 'address = "10.0.0.1"', "more than once"),
        ('"10.0.0.1"', '"-oProxyCommand=reboot"', "address"),
        ('"10.0.0.1"', '"a; reboot"', "address"),
        ('user = "pi"', 'user = "-l"', "user"),
        ("https://us.example:8470", "us.example", "no http"),
        ("raspberry-pi-5", "raspberry-pi-55", "did you mean 'raspberry-pi-5'"),
        ('name = "pi-1"', 'nane = "pi-1"', "nane"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, before: str, after: str, words: str) -> None:
    assert before in TEXT
    with pytest.raises(ConfigError, match=words):
        inventory(tmp_path, TEXT.replace(before, after))
