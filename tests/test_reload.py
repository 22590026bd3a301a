"""A configuration that is read again: what differs, and what becomes of it."""

import asyncio
import contextlib

import msgspec

from skerry.errors import ConfigError
from skerry.reload import Differences, Reloads, compare, follow, text
from skerry.service_manager import ServiceManager


class Inner(msgspec.Struct, frozen=True):
    fast: bool = False
    steps: int = 3


class Outer(msgspec.Struct, frozen=True):
    name: str = "a"
    inner: Inner = Inner()
    extra: Inner | None = None


def test_what_differs_is_named_with_its_table() -> None:
    wanted = Outer(name="b", inner=Inner(fast=True, steps=4), extra=Inner())
    assert compare(Outer(), wanted, {"inner.fast"}) == Differences(("inner.fast",), ("name", "inner.steps", "extra"))


def test_a_table_is_named_as_a_whole() -> None:
    assert compare(Outer(), Outer(inner=Inner(True, 4)), {"inner"}).waiting == ()
    assert compare(Outer(), Outer(inner=Inner(True, 4)), {"inn"}).taken == ()


def test_no_difference_is_said_to_be_none() -> None:
    differences = compare(Outer(), Outer(), {"name"})
    assert differences == Differences((), ())
    assert text(differences) == "the configuration was read again: nothing has changed"


def test_both_kinds_are_told() -> None:
    assert text(Differences(("a",), ("b", "c"))).endswith("; taken: a; a restart is needed for: b, c")


async def test_each_wish_is_followed_and_a_broken_file_changes_nothing() -> None:
    sent: list[bytes] = []
    heard = asyncio.Event()

    def send(message: bytes) -> None:
        sent.append(message)
        heard.set()

    found: list[Outer | ConfigError] = [Outer(name="b"), ConfigError("agent.toml: unknown key"), Outer(name="c")]
    taken: list[str] = []

    def load() -> Outer:
        one = found.pop(0)
        if isinstance(one, ConfigError):
            raise one
        return one

    def take(wanted: Outer) -> Differences:
        taken.append(wanted.name)
        return compare(Outer(), wanted, {"name"})

    reloads = Reloads(asyncio.Event(), load)
    following = asyncio.create_task(follow(reloads, ServiceManager(send), take))
    for expected in (b"taken: name", b"stays as it was: agent.toml: unknown key", b"taken: name"):
        reloads.wished.set()
        while not sent or not sent[-1].startswith(b"READY=1"):
            heard.clear()
            await asyncio.wait_for(heard.wait(), 5.0)
        reloading, ready = sent
        assert reloading.startswith(b"RELOADING=1")
        assert expected in ready
        sent.clear()
    assert taken == ["b", "c"]
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following
