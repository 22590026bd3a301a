"""A device between coordinators: what its updates say of themselves there, and that it goes where it is answered."""

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from edge_agent.choice_of_coordinator import STEADY_ROUNDS
from edge_agent.config import AgentConfig
from edge_agent.device import Device
from edge_agent.device_setup import Memory
from edge_agent.events import Connected, Disconnected, Event, Received, SaveTask, SendUpdate, SetModel, UpdateStored
from edge_agent.outbox import Update
from edge_agent.store import Store, StoredModel
from edge_agent.stream import Stream, StreamLimits, _offers
from skerry.identity.errors import IdentityError
from skerry.protocol.messages import Hello, ModelVersion, Refused
from tests.edge_agent.device_core import at, finished, new_device, offer, tell, welcome

QUICK = StreamLimits(reconnect_min_s=0.01, reconnect_max_s=0.05, heartbeat_s=0.1, progress_timeout_s=1.0, probe_s=0.05)
UPDATE = Update(1, ModelVersion("r/00000001", 1), 5, 7, 0.5, 0.01, 0.05, b"", event=1, base_age=3.5)
HERE = UpdateStored(1, 100, 7, "r/00000001")


def there() -> Received:
    return Received(welcome(coordinator="c2", region="r2"))


def of_lineage(lineage: str) -> Received:
    first = offer(2).message
    return Received(replace(first, version=ModelVersion(lineage, 0)))


# --- the core ---


def test_an_update_tells_elsewhere_how_often_it_moved_and_the_age_of_its_base(training: Device) -> None:
    tell(training, finished(1))
    assert tell(training, HERE) == [SendUpdate(1, 65536, 0, 0, abroad=False)]
    effects = tell(training, Disconnected("gone"), Connected(), there())
    assert SendUpdate(1, 65536, 0, 1, abroad=True) in effects
    assert SaveTask(there().message, moves=1) in effects  # type: ignore[arg-type]
    again = tell(training, Disconnected("gone"), Connected(), there())
    assert SendUpdate(1, 65536, 0, 1, abroad=True) in again  # to the same one: no move
    home = tell(training, Disconnected("gone"), Connected(), Received(welcome()))
    assert SendUpdate(1, 65536, 0, 2, abroad=True) in home  # nothing was offered yet: home may have lost its state


def test_an_update_that_was_made_behind_the_move_has_not_moved(training: Device) -> None:
    tell(training, Connected(), there(), of_lineage("r2/00000001"), finished(1))
    assert tell(training, UpdateStored(1, 100, 7, "r2/00000001")) == [SendUpdate(1, 65536, 0, 0, abroad=False)]


def test_where_the_coordinator_lost_its_state_the_age_of_an_older_base_is_told(training: Device) -> None:
    """Its region is the same, its lineage is new: without the age the update would be rejected."""
    tell(training, Disconnected("gone"), Connected(), Received(welcome()), of_lineage("r/00000002"), finished(1))
    assert tell(training, HERE) == [SendUpdate(1, 65536, 0, 0, abroad=True)]
    tell(training, finished(2))
    assert tell(training, UpdateStored(2, 100, 7, "r/00000002")) == [SendUpdate(2, 65536, 0, 0, abroad=False)]


def test_a_restart_forgets_no_move() -> None:
    known = welcome(coordinator="c2", region="r2")
    device = new_device(Memory(1, 0, known, at(1), (HERE,), 0, moves=3))
    effects = tell(device, Connected(), there())
    assert SendUpdate(1, 65536, 0, 3, abroad=True) in effects
    effects = tell(device, Disconnected("gone"), Connected(), Received(welcome()))
    assert SendUpdate(1, 65536, 0, 4, abroad=True) in effects


def test_a_models_age_comes_with_it(training: Device) -> None:
    (set_model,) = tell(training, offer(2))
    assert isinstance(set_model, SetModel)
    assert set_model.age == 0.0


@pytest.mark.parametrize(("abroad", "base_age"), [(True, 3.5), (False, None)])
def test_the_age_of_the_base_is_told_abroad_alone(abroad: bool, base_age: float | None) -> None:
    (offered,) = _offers(UPDATE, 1024, 0, moves=2, abroad=abroad)
    assert (offered.base_age, offered.moves) == (base_age, 2)


# --- the disk ---


def test_what_another_region_needs_to_know_is_on_disk(tmp_path: Path) -> None:
    vector = np.ones(3, np.float32)
    store = Store(tmp_path / "state.db")
    store.save_task(welcome(), moves=4)
    store.put_update(UPDATE, vector)
    store.save_model(StoredModel(at(9), vector, 8.5))
    stored = store.load()
    assert stored.moves == 4
    assert stored.updates == [UPDATE]
    assert stored.model is not None
    assert stored.model.age == 8.5
    store.adopt_task(welcome(), moves=5)
    assert store.load().moves == 5
    store.close()


def test_a_database_from_before_devices_moved_knows_no_ages(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with sqlite3.connect(path) as db:
        scripts = sorted(Path("edge_agent/schema").glob("*.sql"))[:5]
        db.executescript("".join(script.read_text() for script in scripts) + "PRAGMA user_version = 5;")
        db.execute("INSERT INTO outbox VALUES (7, 'r/1', 2, 5, 7, 0.5, 0.01, x'00', 13, NULL, NULL, 0.05, 0)")
        db.execute("INSERT INTO model VALUES (1, 'r/1', 2, x'00000000')")
    db.close()
    stored = Store(path).load()
    assert stored.moves == 0
    assert [update.base_age for update in stored.updates] == [None]
    assert stored.model is not None
    assert stored.model.age is None


# --- real sockets ---


@asynccontextmanager
async def streaming(*urls: str, limits: StreamLimits = QUICK, **more: Any) -> AsyncIterator[tuple[Stream, list[Event]]]:
    events: list[Event] = []
    stream = Stream(urls, limits, random.Random(1), events.append, **more)
    task = asyncio.create_task(stream.run())
    try:
        yield stream, events
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def stands(stream: Stream, coordinator: Any) -> bool:
    return stream.connection is not None and stream.url == coordinator.url


async def test_a_stream_goes_elsewhere_when_its_coordinator_dies_and_returns_when_that_is_steady(
    serve: Any, free_port: int
) -> None:
    nowhere = f"http://127.0.0.1:{free_port}"
    other = await serve(name="other")
    async with streaming(nowhere, other.url) as (stream, events):
        await other.until(lambda: stands(stream, other))
        home = await serve(free_port, name="home")
        assert home.url == nowhere
        await home.until(lambda: stands(stream, home))
        ends = [event.reason for event in events if isinstance(event, Disconnected)]
        assert ends == [f"{nowhere} is nearer"]


async def test_one_that_takes_no_agents_is_not_returned_to(serve: Any) -> None:
    home, other = await serve(name="home", ready=False), await serve(name="other")
    async with streaming(home.url, other.url) as (stream, _):
        await other.until(lambda: stands(stream, other))
        await asyncio.sleep(QUICK.probe_s * (STEADY_ROUNDS + 2))
        assert stands(stream, other)
        assert not home.sockets
        home.ready = True
        await home.until(lambda: stands(stream, home))


async def test_one_that_answers_and_refuses_streams_is_not_returned_to_soon(serve: Any) -> None:
    home, other = await serve(name="home"), await serve(name="other")
    async with streaming(home.url, other.url) as (stream, _):
        await home.until(lambda: stands(stream, home))
        assert stream.connection is not None
        stream.connection.leave("its recipe is refused", hopeless=True)
        await other.until(lambda: stands(stream, other))
        asked = len(home.sockets)
        await asyncio.sleep(QUICK.probe_s * (STEADY_ROUNDS + 2))
        assert stands(stream, other)
        assert len(home.sockets) == asked


async def test_one_coordinator_alone_ends_no_agent_by_saying_that_it_was_revoked(serve: Any) -> None:
    home, other = await serve(name="home", shuts_out=True), await serve(name="other")
    async with streaming(home.url, other.url) as (stream, events):
        await other.until(lambda: stands(stream, other))
        ends = [event.reason for event in events if isinstance(event, Disconnected)]
        assert ends == [f"{home.url} says that this device's certificate was revoked, and alone is not believed"]


@pytest.mark.parametrize("on_its_stream", [False, True])
async def test_an_agent_ends_when_all_its_coordinators_say_that_it_was_revoked(serve: Any, on_its_stream: bool) -> None:
    home, other = await serve(name="home", shuts_out=not on_its_stream), await serve(name="other", shuts_out=True)
    stream = Stream((home.url, other.url), QUICK, random.Random(1), lambda _: None)
    running = asyncio.create_task(stream.run())
    if on_its_stream:
        await home.until(lambda: bool(home.sockets))
        home.shuts_out = True
        await home.say(Refused("revoked", "shut out", retry=False))
        assert stream.connection is not None
        await home.until(lambda: stream._choice._present.shuts_out)
        stream.connection.leave("refused", hopeless=True)
    with pytest.raises(IdentityError, match="no other coordinator known here says otherwise") as caught:
        await asyncio.wait_for(running, 20)
    assert caught.value.exit_code == 7


async def test_who_serves_an_agent_after_all_says_no_more_that_it_was_revoked(serve: Any) -> None:
    home = await serve(name="home", shuts_out=True)
    nowhere = "http://127.0.0.1:1"
    async with streaming(home.url, nowhere) as (stream, events):
        said = f"{home.url} says that this device's certificate was revoked, and alone is not believed"
        await home.until(lambda: Disconnected(said) in events)
        home.shuts_out = False
        await home.until(lambda: stands(stream, home))
        assert stream._choice._present.shuts_out
        assert stream.connection is not None
        stream.connection.send(Hello(1, 0, "pi-1", "0.1", "", None, None, 0, None))
        await home.until(lambda: not stream._choice._present.shuts_out)


async def test_a_certificate_is_renewed_by_any_coordinator_that_is_known(
    serve: Any, agent_config: Callable[..., AgentConfig], running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by the configuration's alone: that one may be in wrong hands."""
    told: list[Callable[[], list[str]]] = []

    async def keep(_: object, urls: Callable[[], list[str]], __: random.Random) -> None:
        told.append(urls)

    monkeypatch.setattr("edge_agent.service.keep", keep)
    other = await serve(name="other")
    home = await serve(name="home", others={"other": other.url})
    async with running(agent_config(home.url)):
        await home.until(lambda: told[0]() == [home.url, other.url] if told else False)


async def test_a_stream_that_stands_is_told_of_coordinators_that_come_later(serve: Any) -> None:
    other, home = await serve(name="other"), await serve(name="home")
    async with streaming(home.url, accepts=lambda url: url == other.url) as (stream, _):
        await home.until(lambda: stands(stream, home))
        assert stream.urls == [home.url]
        home.others = {"other": other.url}
        await home.until(lambda: stream.urls == [home.url, other.url])
        assert stands(stream, home)


async def test_streams_that_take_long_to_open_do_open(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.opening_limit.OPENING_S", 0.1)
    home, other = await serve(name="home", opens_in_s=0.3), await serve(name="other", opens_in_s=0.3)
    async with streaming(home.url, other.url) as (stream, events):
        await home.until(lambda: stream.connection is not None)
        failed = [event.reason for event in events if isinstance(event, Disconnected)]
        assert set(failed) == {f"{one.url} does not answer" for one in (home, other)}
        assert len(failed) >= 4  # two rounds: one of 0.1 s, one of 0.2 s


async def test_a_stream_goes_to_coordinators_that_it_is_told_of(
    serve: Any, agent_config: Callable[..., AgentConfig], running: Any
) -> None:
    """But not to those that an agent may not talk to; and a cycle that began in one region counts in the other."""
    other = await serve(name="other")
    home = await serve(name="home", others={"other": other.url, "far": "http://192.0.2.1"})
    async with running(agent_config(home.url)):
        await home.until(lambda: len(home.journal) >= 2)
        home.answers = False
        await home.until(lambda: bool(home.offered) and home.offered[-1].sequence not in {0, *other.journal})
        home.ready = False
        home.offers_models = False
        home.silent = True
        for one in home.sockets:
            await one.close()
        await other.until(lambda: any(one.base.lineage == "other/00000001" for one in other.offered))
    moved = [update for update in other.offered if update.moves]
    assert moved
    assert {update.moves for update in moved} == {1}
    assert {update.base.lineage for update in moved} == {"home/00000001"}
    assert all(update.base_age == float(update.base.number) for update in moved)
    later = [update for update in other.offered if update.base.lineage == "other/00000001"]
    assert {(update.moves, update.base_age) for update in later} == {(0, None)}


async def test_an_agent_that_is_not_to_roam_stays(
    serve: Any, agent_config: Callable[..., AgentConfig], running: Any
) -> None:
    other = await serve(name="other")
    home = await serve(name="home", others={"other": other.url})
    async with running(replace(agent_config(home.url), roam=False)):
        await home.until(lambda: len(home.journal) >= 1)
        for _ in range(3):
            hellos = len(home.hellos)
            await home.cut()
            await home.until(lambda hellos=hellos: len(home.hellos) > hellos)
    assert not other.hellos
