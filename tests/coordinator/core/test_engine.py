"""The engine: on disk first, then in memory, then outwards; groups; what is left behind by a stop."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import pytest

from coordinator.config import Checkpoints, Limits
from coordinator.engine import Engine
from coordinator.events import Apply, DeviceDisconnected, Merge, PeerModelArrived, TelemetryArrived, TrafficCounted
from coordinator.history import read_history
from coordinator.recovery import rebuild
from skerry.algorithms.arrival import Constant, FedBuff, Spyker
from skerry.algorithms.downlink import Newest
from skerry.algorithms.federation import NoFederation, SpykerToken
from skerry.errors import StorageError
from skerry.protocol import sparse
from skerry.protocol.messages import BroadcastId, ModelVersion, PeerModel, Telemetry, UpdateAccepted, Welcome
from skerry.recipe import Recipe
from skerry.values import ValueEncoding

T = TypeVar("T")

PLAIN = Recipe(arrival=Constant(weight=0.5), downlink=Newest(), federation=NoFederation())


class Gate:
    """A disk whose writes can be held up, or refused."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.entered = 0
        self.refuse = False
        self._in_threads: Any = None

    def over(self, in_threads: Any) -> Callable[[Callable[[], T]], Awaitable[T]]:
        def run(function: Callable[[], T], /) -> Awaitable[T]:
            def held() -> T:
                self.entered += 1
                assert self.open.wait(20)
                if self.refuse:
                    raise StorageError("disk full")
                return function()

            awaitable: Awaitable[T] = in_threads(held)
            return awaitable

        return run


async def test_what_is_acknowledged_can_be_read_from_disk_at_that_moment(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any
) -> None:
    """Opens the database anew at every acknowledgement: an engine that acknowledged ahead of the commit fails here."""
    config, outlet = config_of(PLAIN), new_listener()
    checked = []

    def on_disk(device: str, message: Any) -> None:
        if isinstance(message, UpdateAccepted):
            rows = {(row.device, row.sequence): row for row in read_history(config.state_dir).updates}
            row = rows[device, message.sequence]
            assert (row.version, row.weight) == (message.version, message.weight)
            checked.append(row)

    outlet.on_send = on_disk
    async with open_engine(config, outlet) as engine:
        for sequence in range(1, 21):
            engine.submit(words.update("kite", sequence, engine.version))
            engine.submit(words.update("tern", sequence, engine.version))
            await asyncio.sleep(0)
        await outlet.until_accepted(40)
    assert len(checked) == 40


async def test_nothing_leaves_and_nothing_changes_before_the_commit(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any, in_threads: Any
) -> None:
    """Neither the acknowledgement, nor that of a repeat, nor a model that holds the update."""
    gate, outlet = Gate(), new_listener()
    async with open_engine(config_of(PLAIN), outlet, gate.over(in_threads)) as engine:
        gate.open.clear()
        update = words.update("kite", 1, engine.version)
        engine.submit(update)
        engine.submit(update)
        await _until(lambda: gate.entered > 0)
        engine.submit(update)
        engine.submit(words.hello("tern"))
        await asyncio.sleep(0.02)
        assert outlet.sent == []
        assert outlet.offers == []
        assert engine.version.number == 0
        assert np.array_equal(engine.model().values, words.initial())
        gate.open.set()
        await outlet.until_accepted(3)
        assert [message.version for message in outlet.accepted()] == [1, 1, 1]
        await outlet.until(lambda: bool(outlet.offers))
        assert outlet.offers[0][1].number == 1
    assert len(read_history(config_of(PLAIN).state_dir).updates) == 1


async def test_a_change_of_the_model_takes_as_long_as_its_toll(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any
) -> None:
    """One after another, each on disk before; the acknowledgement of one does not wait for the next."""
    outlet, turns = new_listener(), asyncio.Semaphore(0)
    paid: list[Apply | Merge] = []

    async def toll(change: Apply | Merge) -> None:
        await turns.acquire()
        paid.append(change)

    async with open_engine(config_of(PLAIN), outlet, toll=toll) as engine:
        for sequence in (1, 2):
            engine.submit(words.update("kite", sequence, engine.version))
        await _until(lambda: len(read_history(config_of(PLAIN).state_dir).updates) == 2)
        assert (engine.version.number, outlet.accepted(), paid) == (0, [], [])
        turns.release()
        await outlet.until_accepted(1)
        assert (engine.version.number, len(outlet.accepted()), len(paid)) == (1, 1, 1)
        turns.release()
        await outlet.until_accepted(2)
        assert engine.version.number == 2
    assert [type(change) for change in paid] == [Apply, Apply]


async def test_what_arrives_during_a_commit_shares_the_next_one(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any, in_threads: Any
) -> None:
    gate, outlet = Gate(), new_listener()
    async with open_engine(config_of(PLAIN), outlet, gate.over(in_threads)) as engine:
        gate.open.clear()
        engine.submit(words.update("kite", 1, engine.version))
        await _until(lambda: gate.entered > 0)
        for sequence in range(2, 102):
            engine.submit(words.update("kite", sequence, engine.version))
        gate.open.set()
        await outlet.until_accepted(101)
        assert gate.entered == 2
        assert [message.sequence for message in outlet.accepted()] == list(range(1, 102))


async def test_a_refused_write_ends_the_engine_and_acknowledges_nothing(
    config_of: Any, new_listener: Any, words: Any, in_threads: Any
) -> None:
    import random

    gate, outlet = Gate(), new_listener()
    config = config_of(PLAIN)
    engine = Engine.open(
        config,
        words.bundle,
        words.initial(),
        outlet,
        run_in_thread=gate.over(in_threads),
        wall_clock=lambda: 0.0,
        rng=random.Random(1),
        tail=0,
    )
    running = asyncio.ensure_future(engine.run())
    gate.refuse = True
    engine.submit(words.update("kite", 1, engine.version))
    with pytest.raises(StorageError, match="disk full"):
        await running
    await engine.close()
    assert outlet.sent == []
    assert read_history(config.state_dir).updates == []


@pytest.mark.parametrize(
    "limits", [Limits(commit_queue_updates_max=10), Limits(commit_queue_bytes_max=1500)], ids=["updates", "bytes"]
)
async def test_streams_wait_while_too_much_is_on_its_way_to_the_disk(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any, in_threads: Any, limits: Limits
) -> None:
    gate, outlet = Gate(), new_listener()
    config = config_of(PLAIN, limits=limits)
    async with open_engine(config, outlet, gate.over(in_threads)) as engine:
        gate.open.clear()
        for sequence in range(1, 12):
            await asyncio.wait_for(engine.room(), 1.0)
            engine.submit(words.update("kite", sequence, engine.version))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(engine.room(), 0.02)
        assert engine.status().uncommitted_updates == 11
        gate.open.set()
        await asyncio.wait_for(engine.room(), 5.0)
        await outlet.until_accepted(11)
        assert engine.status().uncommitted_updates == 0


async def test_a_stop_in_mid_commit_loses_nothing(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any, in_threads: Any
) -> None:
    gate, outlet = Gate(), new_listener()
    config = config_of(PLAIN)
    async with open_engine(config, outlet, gate.over(in_threads)) as engine:
        gate.open.clear()
        engine.submit(words.update("kite", 1, engine.version))
        await _until(lambda: gate.entered > 0)
        engine.submit(words.update("kite", 2, engine.version))
        asyncio.get_running_loop().call_later(0.02, gate.open.set)
    assert [message.sequence for message in outlet.accepted()] == [1, 2]
    assert engine.model().version.number == 2
    assert (rebuild(config.state_dir, 2) == engine.model().values).all()


@pytest.mark.parametrize("updates", [1, 2, 5])
async def test_a_stop_waits_for_a_checkpoint_under_way_before_it_takes_the_last_one(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any, in_threads: Any, updates: int
) -> None:
    """Two at once would write the same file, and a clean stop would end with a disk that refused."""
    writing, together = 0, 0

    def counting(function: Callable[[], T], /) -> Awaitable[T]:
        async def run() -> T:
            nonlocal writing, together
            writing += 1
            together = max(together, writing)
            try:
                return await in_threads(function)  # type: ignore[no-any-return]
            finally:
                writing -= 1

        return run()

    config = config_of(PLAIN, checkpoints=Checkpoints(every_updates=1))
    async with open_engine(config, new_listener(), counting) as engine:
        for sequence in range(1, updates + 1):
            engine.submit(words.update("kite", sequence, engine.version))
    assert together == 1
    async with open_engine(config, new_listener()) as engine:
        assert engine.status().checkpoint_version == updates


async def test_a_device_gets_what_changed_since_its_base(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any
) -> None:
    outlet = new_listener()
    async with open_engine(config_of(PLAIN), outlet) as engine:
        engine.submit(words.hello("kite"))
        await outlet.until(lambda: len(outlet.offers) == 1)
        device, version, base, payload = outlet.offers[0]
        assert (device, version.number, base) == ("kite", 0, None)
        model = np.empty(words.size, np.float32)
        sparse.decode(payload, size=words.size).set_in(model)
        assert np.array_equal(model, words.initial())

        engine.submit(DeviceDisconnected("kite"))
        engine.submit(words.update("tern", 1, engine.version, seed=4))
        await outlet.until_accepted(1)
        engine.submit(words.hello("kite", ModelVersion(engine.lineage, 0)))
        await outlet.until(lambda: len(outlet.offers) == 2)
        _, version, base, payload = outlet.offers[1]
        assert (version.number, base) == (1, ModelVersion(engine.lineage, 0))
        changes = sparse.decode(payload, size=words.size)
        assert list(changes.indices) == list(words.vector(4).indices)
        changes.set_in(model)
        assert np.array_equal(model, engine.model().values)


@pytest.mark.parametrize("size", [64, 100_000])
async def test_devices_that_come_back_all_at_once_do_not_stop_the_loop(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any, size: int
) -> None:
    """Each lacks something else: encoding it for all of them in one go would leave every heartbeat unanswered."""
    outlet, turns, at_turn = new_listener(), 0, []

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    outlet.on_offer = lambda: at_turn.append(turns)
    async with open_engine(config_of(PLAIN), outlet, initial=np.zeros(size, np.float32)) as engine:
        for sequence in range(1, 21):
            values = words.vector(sequence, size=size)
            engine.submit(msgspec.structs.replace(words.update("tern", sequence, engine.version), vector=values))
        await outlet.until_accepted(20)
        counting = asyncio.ensure_future(count_turns())
        for base in range(20):
            engine.submit(words.hello(f"pi-{base}", ModelVersion(engine.lineage, base)))
        await outlet.until(lambda: len(outlet.offers) == 20)
        counting.cancel()
    assert all(later > earlier for earlier, later in pairwise(at_turn))


async def test_the_welcome_is_complete(config_of: Any, open_engine: Any, new_listener: Any, words: Any) -> None:
    outlet = new_listener()
    async with open_engine(config_of(PLAIN), outlet) as engine:
        engine.submit(words.hello("kite"))
        await outlet.until(lambda: bool(outlet.sent))
        ((device, welcome),) = outlet.sent
    assert isinstance(welcome, Welcome)
    assert (device, welcome.coordinator, welcome.region, welcome.bundle) == ("kite", "here-1", "here", words.bundle)
    assert welcome.part_bytes_max == Limits().part_bytes_max


async def test_telemetry_costs_no_sync_of_its_own(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any
) -> None:
    config, outlet = config_of(PLAIN), new_listener()
    async with open_engine(config, outlet) as engine:
        engine.submit(words.update("kite", 1, engine.version))
        await outlet.until_accepted(1)
        for sequence in range(1, 21):
            report = Telemetry(float(sequence), 1.0, 0.0, 1, 20, 0.1, 1, 1, 1, 0, 48.5)
            engine.submit(TelemetryArrived("kite", report))
            engine.submit(TrafficCounted("device", "kite", 1, 2))
            engine.submit(words.hello(f"pi-{sequence}"))
            await outlet.until(lambda: len(outlet.offers) == sequence)  # noqa: B023 - awaited at once
        assert engine.status().commits <= 3
        await _until(lambda: bool(read_history(config.state_dir).traffic))  # no longer than a second or two
        engine.submit(TrafficCounted("device", "kite", 1, 2))
    history = read_history(config.state_dir)
    assert history.telemetry["kite"].uptime_s == 20.0
    assert [(one.sent_bytes, one.received_bytes) for one in history.traffic] == [(21, 42)]


async def test_a_publication_is_the_model_at_its_place_among_the_effects(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any
) -> None:
    """One group: an update; a peer's exchange, answered before its merge; another one, answered behind that merge."""
    federation = SpykerToken(density=1.0, values=ValueEncoding.FLOAT32)
    recipe = Recipe(arrival=Constant(weight=0.5), downlink=Newest(), federation=federation)
    outlet, published = new_listener(), []
    outlet.on_peer = lambda _, message: published.append(message) if isinstance(message, PeerModel) else None
    config = config_of(recipe, peers={"there-1": "http://there"})
    async with open_engine(config, outlet) as engine:
        theirs = [words.vector(seed, words.size) for seed in (1, 2)]
        engine.submit(words.update("kite", 1, engine.version, seed=3))
        await asyncio.gather(
            *(
                engine.ask(
                    PeerModelArrived(
                        PeerModel("there-1", "there/1", BroadcastId(99, n), 5.0, n, None, sparse.encode(values)), values
                    )
                )
                for n, values in enumerate(theirs, start=1)
            )
        )
        merges = read_history(config.state_dir).merges
        assert engine.status().commits == 1
    model = words.initial()
    words.vector(3).add_to(model, 0.5)
    first, second = (sparse.decode(message.values, size=words.size) for message in published)
    assert [message.base for message in published] == [None, 1]
    assert np.array_equal(first.dense(), model)
    model += np.float32(merges[0].weight) * (theirs[0].dense() - model)
    np.testing.assert_allclose(first.dense() + second.dense(), model, atol=1e-6)


async def test_a_peer_that_left_the_federation_is_no_part_of_the_federated_model(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any
) -> None:
    recipe = Recipe(arrival=Constant(weight=0.5), federation=SpykerToken())
    theirs = words.vector(1, words.size)
    message = PeerModel("there-1", "there/1", BroadcastId(99, 1), 5.0, 1, None, sparse.encode(theirs))
    for peers in ({"there-1": "http://there"}, {}):
        async with open_engine(config_of(recipe, peers=peers), new_listener()) as engine:
            if peers:
                await engine.ask(PeerModelArrived(message, theirs))
            alike = np.array_equal(engine.model("federated").values, engine.model("regional").values)
            assert alike == (not peers)


async def test_held_updates_outlive_a_restart_and_are_applied_once(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any
) -> None:
    config = config_of(Recipe(arrival=FedBuff(size=3), federation=NoFederation()))
    outlet = new_listener()
    async with open_engine(config, outlet) as engine:
        base = engine.version
        for device in ("kite", "tern"):
            engine.submit(words.update(device, 1, base))
        await outlet.until_accepted(2)
        assert engine.version.number == 0
    again = new_listener()
    async with open_engine(config, again) as engine:
        assert engine.status().held_updates == 2
        engine.submit(words.update("kite", 1, base))
        engine.submit(words.update("gull", 1, base))
        await again.until_accepted(2)
        assert [message.weight for message in again.accepted()] == [None, pytest.approx(1 / 3)]
        expected = words.initial()
        for device in ("kite", "tern", "gull"):
            words.update(device, 1, base).vector.add_to(expected, 1 / 3)
        assert np.array_equal(engine.model().values, expected)
        assert engine.version.number == 3
    assert [row.version for row in read_history(config.state_dir).updates] == [1, 2, 3]
    last = new_listener()
    async with open_engine(config, last) as engine:
        engine.submit(words.update("tern", 1, base))
        await last.until_accepted(1)
        assert (last.accepted()[0].version, last.accepted()[0].weight) == (2, pytest.approx(1 / 3))


async def test_the_journal_is_cut_behind_the_oldest_checkpoint_that_is_kept(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any
) -> None:
    settings = Checkpoints(every_updates=10, keep=2, history_versions=15)
    config, outlet = config_of(PLAIN, checkpoints=settings), new_listener()
    async with open_engine(config, outlet) as engine:
        for sequence in range(1, 101):
            engine.submit(words.update("kite", sequence, engine.version))
            await outlet.until_accepted(sequence)
            if sequence % 10 == 0:
                await _until(lambda: engine.status().checkpoint_version == engine.version.number)
        engine.submit(words.update("tern", 1, ModelVersion(engine.lineage, 85)))
        engine.submit(words.update("tern", 2, ModelVersion(engine.lineage, 86)))
        await outlet.until(lambda: len(outlet.sent) == 102)
        assert [type(message).__name__ for _, message in outlet.sent[-2:]] == ["UpdateRejected", "UpdateAccepted"]
    versions = [row.version for row in read_history(config.state_dir).updates]
    assert versions[0] == 87, "the last checkpoint is of version 101, and 15 versions before it are kept"
    names = sorted(path.name for path in (config.state_dir / "checkpoints").iterdir())
    assert names == ["000000000100.safetensors", "000000000101.safetensors"]
    async with open_engine(config, new_listener()) as engine:
        assert engine.version.number == 101
        assert engine.status().devices["kite"].last_sequence == 100


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - a thread gets there, and tells nobody
            await asyncio.sleep(0.001)


async def test_an_idle_region_takes_no_second_checkpoint(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any, tmp_path: Path
) -> None:
    config = config_of(PLAIN)
    async with open_engine(config, new_listener()):
        pass
    stamp = (config.state_dir / "checkpoints" / "000000000000.safetensors").stat().st_mtime_ns
    async with open_engine(config, new_listener()):
        pass
    assert (config.state_dir / "checkpoints" / "000000000000.safetensors").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(("tail", "values"), [(0, ValueEncoding.INT8), (2, ValueEncoding.FLOAT16)])
async def test_a_model_with_statistics_is_not_published_in_one_scale(
    config_of: Any, open_engine: Any, new_listener: Any, words: Any, inline: Any, tail: int, values: ValueEncoding
) -> None:
    config = config_of(Recipe(arrival=Spyker()), peers={"there-1": "http://there"})
    outlet, published = new_listener(), []
    outlet.on_peer = lambda _peer, message: published.append(message.values)
    async with open_engine(config, outlet, inline, tail=tail) as engine:
        for number in (1, 2):
            vector = words.vector(number, words.size)
            message = PeerModel("there-1", "there/1", BroadcastId(40, number), 1.0, number, None, sparse.encode(vector))
            await engine.ask(PeerModelArrived(message, vector))
    named = sparse.decode(published[1], size=words.size)
    assert published[1] == sparse.encode(named, values)
