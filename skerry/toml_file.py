"""One way to read a TOML file into a validated Struct, with errors that name file and key."""

import difflib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec
from msgspec import Struct

from skerry.errors import ConfigError

FILE_BYTES_MAX = 1 << 20

T = TypeVar("T")


def read(path: Path, kind: type[T]) -> T:
    """Read `path` as a `kind`.

    Raises:
        ConfigError: the file is missing, too large, no TOML, or a key is unknown, missing or out of range.
    """
    return parse(_text(path), kind, str(path))


def read_over(path: Path, table: str, below: Struct) -> Any:
    """Read one table of `path` key by key over the values of `below`; what the file does not say stays as it is there.

    Raises:
        ConfigError: as for `read`; also where a key of the file does not go together with one of `below`.
    """
    own = parse(_text(path), dict[str, Any], str(path)).get(table, {})
    try:
        return msgspec.convert(msgspec.to_builtins(below) | own, type(below), dec_hook=_from_text)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {table}: {error}") from error


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"{path}: larger than {FILE_BYTES_MAX} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}") from error


def parse(text: str, kind: type[T], origin: str) -> T:
    """Read TOML `text`; `origin` is named in errors.

    Raises:
        ConfigError: as for `read`.
    """
    try:
        return msgspec.convert(tomllib.loads(text), kind, dec_hook=_from_text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin}: not valid TOML: {error}") from error
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        where = place.rstrip("`").lstrip(".")
        raise ConfigError(f"{origin}: {where or 'top level'}: {message}{_likely_key(message, where, kind)}") from error


def _likely_key(message: str, where: str, kind: type[Any]) -> str:
    """Return the remedy for a key that does not exist: the nearest one that does; "" for another message.

    `where` is msgspec's path of the table that holds it, such as `regions[...].devices[0]`.
    """
    found = re.fullmatch(r"Object contains unknown field `(.*)`", message, re.DOTALL)
    if found is None:
        return ""
    known = _keys_at(kind, [part.partition("[")[0] for part in where.split(".") if part])
    near = difflib.get_close_matches(found[1], known, n=1)
    if near == [found[1]]:
        return f"; `{found[1]}` belongs to another rule of this table"
    if near:
        return f"; did you mean `{near[0]}`?"
    return f"; known are {', '.join(sorted(known))}" if known else ""


def _keys_at(kind: object, path: list[str]) -> set[str]:
    """Return the keys of every Struct that may stand at `path` below `kind`."""
    structs = [found for found in (kind, *_inside(kind)) if isinstance(found, type) and issubclass(found, Struct)]
    fields = [field for struct in structs for field in msgspec.structs.fields(struct)]
    if not path:
        return {field.encode_name for field in fields}
    return {key for field in fields if field.encode_name == path[0] for key in _keys_at(field.type, path[1:])}


def _inside(kind: object) -> Iterator[object]:
    """Yield what a type is made of: the members of a union, the items of an array, all the way down."""
    for part in get_args(kind):
        yield part
        yield from _inside(part)


def _from_text(kind: type[Any], value: object) -> Path:
    """Make what TOML has no form for; called by msgspec, which turns a ValueError into a ValidationError."""
    if kind is not Path:
        raise NotImplementedError(f"{kind.__name__} cannot be read from TOML")
    if not isinstance(value, str):
        raise ValueError(f"Expected `str`, a path, got `{type(value).__name__}`")  # noqa: TRY004 - see above
    return Path(value)
