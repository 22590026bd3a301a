"""One way to read a TOML file into a validated Struct, with errors that name file and key."""

import tomllib
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from skerry.errors import ConfigError
from skerry.refusal import in_words

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
        raise ConfigError(f"{path.absolute()}: cannot be read: {error.strerror}") from error
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
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin}: not valid TOML: {error}") from error
    except RecursionError:
        raise ConfigError(f"{origin}: not valid TOML: arrays or tables within one another, too many") from None
    return convert(tables, kind, origin)


def convert(tables: dict[str, Any], kind: type[T], origin: str) -> T:
    """Make a `kind` of tables that were read already; `origin` is named in errors.

    Raises:
        ConfigError: a key is unknown, missing or out of range.
    """
    try:
        return msgspec.convert(tables, kind, dec_hook=_from_text)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{origin}: {in_words(error, kind)}") from error


def _from_text(kind: type[Any], value: object) -> Path:
    """Make what TOML has no form for; called by msgspec, which turns a ValueError into a ValidationError."""
    if kind is not Path:
        raise NotImplementedError(f"{kind.__name__} cannot be read from TOML")
    if not isinstance(value, str):
        raise ValueError(f"Expected `str`, a path, got `{type(value).__name__}`")  # noqa: TRY004 - see above
    return Path(value)
