"""What is rendered reads back as what it was."""

import tomllib
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from skerry import toml_file
from testbed.processes import toml_text

texts = st.text(st.characters(codec="utf-8"), max_size=20)
values = st.recursive(
    st.booleans() | st.integers(-(1 << 62), 1 << 62) | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


class Anything(msgspec.Struct):
    value: object


class Inner(msgspec.Struct, frozen=True):
    path: Path
    limit: int | None = None


class Outer(msgspec.Struct, frozen=True):
    name: str
    inner: Inner
    peers: dict[str, str]
    rates: tuple[float, ...] = ()


@given(values)
def test_any_value_survives(value: object) -> None:
    assert tomllib.loads(toml_text.render(Anything(value))) == {"value": value}


def test_a_configuration_survives_and_none_is_left_out() -> None:
    config = Outer(
        'a "quoted" name', Inner(Path("/var/lib/x y")), {"peer.one": "http://h:1"}, (0.5, 1e-9, float("inf"))
    )
    text = toml_text.render(config)
    assert "limit" not in text
    read = toml_file.parse(text, Outer, "here")
    assert read == config
