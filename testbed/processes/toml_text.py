"""Configuration Structs as TOML text: the services are started from files, as on a real machine."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def render(config: msgspec.Struct) -> str:
    """Return `config` as TOML. A key whose value is None is left out: it reads back as None where that is its default.

    Everything stands in one table of inline values: the text is for a parser.
    """
    tables: dict[str, Any] = msgspec.to_builtins(config, enc_hook=_plain)
    return "".join(f"{_key(key)} = {_value(value)}\n" for key, value in tables.items() if value is not None)


def _plain(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no TOML form")


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _string(key)


def _string(text: str) -> str:
    """Return a TOML basic string: JSON's, if nothing but control characters is escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case float() if not math.isfinite(value):
            return str(value)  # inf, -inf and nan are spelt alike in TOML
        case int() | float():
            return repr(value)
        case str():
            return _string(value)
        case Mapping():
            return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None) + "}"
        case list() | tuple():
            return "[" + ", ".join(_value(item) for item in value) + "]"
        case _:
            raise TypeError(f"{type(value).__name__} has no TOML form")
