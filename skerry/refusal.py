"""What msgspec refuses, told to the person who wrote it: the place, what is wrong, and what may stand there instead."""

import difflib
import re
from collections.abc import Iterator
from typing import Literal, get_args, get_origin

import msgspec
from msgspec import Meta, Struct


def in_words(error: msgspec.ValidationError, kind: object) -> str:
    """Return where in a `kind` the mistake stands, such as `regions[0].name`, and behind a colon the mistake.

    A pattern is told by the description and the first example of its Meta; a value that is none of several, and a rule
    that does not exist or is missing, with those that there are; a key that does not exist with the likely one.
    """
    message, _, place = str(error).partition(" - at `")
    of_key = place.startswith("key` in `")
    where = place.removeprefix("key` in `").removesuffix("`").removeprefix("$").removeprefix(".")
    told = _told(message, kind, [part.partition("[")[0] for part in where.split(".") if part])
    return f"{where or 'top level'}: {'a key in it ' if of_key else ''}{told}"


def _told(message: str, kind: object, path: list[str]) -> str:
    if found := re.fullmatch(r"Object contains unknown field `(.*)`", message, re.DOTALL):
        return message + _likely_key(found[1], _keys(kind, path))
    if found := re.fullmatch(r"Object missing required field `(.*)`", message, re.DOTALL):
        rules = _rules(kind, path, found[1])
        return f"{message}: one of {', '.join(rules)}" if rules else message
    if found := re.fullmatch(r"Invalid (?:enum )?value (.*)", message, re.DOTALL):
        choices = _choices(kind, path) or _rules(kind, path[:-1], path[-1] if path else "")
        return f"{found[1]} is none of {', '.join(choices)}" if choices else message
    for meta in _types(kind, path):
        if isinstance(meta, Meta) and meta.description and message.endswith(f"matching regex {meta.pattern!r}"):
            example = f', such as "{meta.examples[0]}"' if meta.examples else ""
            return f"must be {meta.description}{example}"
    return message


def _likely_key(key: str, known: set[str]) -> str:
    """Return the remedy for a key that does not exist: the nearest one that does."""
    near = difflib.get_close_matches(key, known, n=1)
    if near == [key]:
        return f"; `{key}` belongs to another rule of this table"
    if near:
        return f"; did you mean `{near[0]}`?"
    return f"; known are {', '.join(sorted(known))}" if known else ""


def _keys(kind: object, path: list[str]) -> set[str]:
    """Return the keys of every Struct that may stand at `path` below `kind`."""
    return {field.encode_name for struct in _structs(_types(kind, path)) for field in msgspec.structs.fields(struct)}


def _rules(kind: object, path: list[str], key: str) -> list[str]:
    """Return what may be said for `key` of a table at `path` where that key chooses between several kinds of table."""
    configs = [struct.__struct_config__ for struct in _structs(_types(kind, path))]
    return [str(config.tag) for config in configs if config.tag_field == key]


def _choices(kind: object, path: list[str]) -> list[str]:
    """Return the values that may stand at `path` where only some may."""
    return [str(choice) for part in _types(kind, path) if get_origin(part) is Literal for choice in get_args(part)]


def _types(kind: object, path: list[str]) -> Iterator[object]:
    """Yield every type that may stand at `path` below `kind`, and what it is made of, all the way down."""
    if not path:
        yield from _made_of(kind)
        return
    for struct in _structs(_made_of(kind)):
        for field in msgspec.structs.fields(struct):
            if field.encode_name == path[0]:
                yield from _types(field.type, path[1:])


def _made_of(kind: object) -> Iterator[object]:
    """Yield a type, the members of a union, the items of an array, what is said of them, all the way down."""
    yield kind
    for part in get_args(kind):
        yield from _made_of(part)


def _structs(types: Iterator[object]) -> Iterator[type[Struct]]:
    return (found for found in types if isinstance(found, type) and issubclass(found, Struct))
