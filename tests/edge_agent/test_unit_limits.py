"""The unit's memory is bounded as the profile says."""

from pathlib import Path

import pytest

from edge_agent import unit_limits
from edge_agent.unit_limits import DROP_IN, drop_in, generate
from skerry import profile
from skerry.errors import ConfigError
from skerry.profile import Limits, Profile

PI = "raspberry-pi-4b"


def config(folder: Path, text: str) -> Path:
    path = folder / "agent.toml"
    path.write_text(text)
    return path


def test_the_bound_is_the_profiles(tmp_path: Path) -> None:
    generate(tmp_path, config(tmp_path, f'profile = "{PI}"\n[data]\nsource = "nonsense:that the service will tell"\n'))
    bytes_max = profile.load(PI).limits.memory_bytes_max
    lines = (tmp_path / DROP_IN).read_text().splitlines()
    assert lines[1:] == ["[Service]", f"MemoryHigh={bytes_max * 9 // 10 if bytes_max else 0}", f"MemoryMax={bytes_max}"]


@pytest.mark.parametrize("text", ["", 'device = "a"\n'])
def test_without_a_profile_there_is_no_bound(tmp_path: Path, text: str) -> None:
    generate(tmp_path, config(tmp_path, text))
    assert not (tmp_path / DROP_IN).exists()


def test_without_a_configuration_there_is_none_either(tmp_path: Path) -> None:
    generate(tmp_path, tmp_path / "missing.toml")
    assert not list(tmp_path.iterdir())


def test_a_profile_that_bounds_nothing_writes_nothing() -> None:
    assert drop_in(Profile(name="x", limits=Limits(memory_bytes_max=None))) is None


def test_a_profile_that_there_is_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nobody"):
        generate(tmp_path, config(tmp_path, 'profile = "nobody"\n'))


def test_as_a_generator_it_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(tmp_path, "no = toml = at all")
    monkeypatch.setattr(unit_limits.generate, "__defaults__", (path,))
    assert unit_limits.main([str(tmp_path)]) == 1
    assert "skerry-agent-limits: " in capsys.readouterr().err
