"""What a running service takes of a configuration that is read again (SIGHUP), and what waits for a restart."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from msgspec import Struct

from skerry.errors import SkerryError
from skerry.service_manager import ServiceManager

log = logging.getLogger(__name__)

C = TypeVar("C", bound=Struct)


@dataclass(frozen=True, slots=True, eq=False)
class Reloads(Generic[C]):
    """Somebody's wish, and how to read the configuration again."""

    wished: asyncio.Event
    load: Callable[[], C]  # raises SkerryError


class Differences(NamedTuple):
    """The keys in which a new configuration differs from the running one, each with its tables before it."""

    taken: tuple[str, ...]
    waiting: tuple[str, ...]  # for a restart


def compare(running: Struct, wanted: Struct, reloadable: Set[str]) -> Differences:
    """Say what of `wanted` can be taken now; `reloadable` names keys, or tables as a whole."""
    changed = [".".join(path) for path in _changed(running, wanted, ())]
    now = tuple(key for key in changed if _covered(key, reloadable))
    return Differences(now, tuple(key for key in changed if key not in now))


def _covered(key: str, reloadable: Set[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in reloadable)


def _changed(running: Struct, wanted: Struct, at: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name in running.__struct_fields__:
        before, after = getattr(running, name), getattr(wanted, name)
        if isinstance(before, Struct) and type(before) is type(after):
            yield from _changed(before, after, (*at, name))
        elif before != after:
            yield *at, name


def text(differences: Differences) -> str:
    """Say it in one line."""
    if not differences.taken and not differences.waiting:
        return "the configuration was read again: nothing has changed"
    parts = []
    if differences.taken:
        parts.append(f"taken: {', '.join(differences.taken)}")
    if differences.waiting:
        parts.append(f"a restart is needed for: {', '.join(differences.waiting)}")
    return f"the configuration was read again; {'; '.join(parts)}"


async def follow(reloads: Reloads[C], manager: ServiceManager, take: Callable[[C], Differences]) -> None:
    """Take the configuration anew whenever that is wished for, until cancelled.

    A configuration that cannot be used changes nothing: the service goes on with the one that it has, and says so.
    """
    while True:
        await reloads.wished.wait()
        reloads.wished.clear()
        manager.reloading()
        try:
            said = text(take(reloads.load()))
            log.info(said)
        except SkerryError as error:
            said = f"the configuration stays as it was: {error}"
            log.error(said)  # noqa: TRY400 - the text says it all
        manager.ready(said)
