"""Coordinators that find each other over loopback, exchange models, and survive each other's faults."""

import asyncio
import contextlib
import logging
import shutil
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from msgspec.structs import replace

from coordinator.first_model import first_model
from coordinator.former_life import FormerLife, ledger_of
from coordinator.history import read_history
from skerry.protocol import sparse
from skerry.protocol.ledger_lines import LedgerLine
from skerry.protocol.limits import PART_BYTES_MAX
from skerry.protocol.messages import BroadcastId, PeerModel, UpdateAccepted, UpdateOffered
from skerry.protocol.parts import cut
from skerry.vector import Float32, SparseVector

Start = Callable[..., Awaitable[Any]]

SIZE = 64
EAGER: dict[str, Any] = {
    "arrival": {"rule": "constant", "weight": 1.0},
    "federation": {
        "rule": "spyker_token",
        "distance_max": 0.0,  # what these devices send drives the regions far apart
        "h_inter": 1.0,
        "h_intra": 1.0,
        "exchange_interval_min_s": 0.0,
        "hold_min_s": 0.0,
        "hold_max_s": 0.05,
        "peer_timeout_s": 1.0,
        "token_timeout_s": 2.0,
    },
}


@pytest.fixture
def ports() -> dict[str, int]:
    """Two free ports: coordinators name each other before either runs."""
    with socket.socket() as east, socket.socket() as west:
        east.bind(("127.0.0.1", 0))
        west.bind(("127.0.0.1", 0))
        return {"east": east.getsockname()[1], "west": west.getsockname()[1]}


@pytest.fixture
def region(start: Start, ports: dict[str, int]) -> Start:
    """Return a function that starts one of the two."""

    async def begin(name: str, **keys: Any) -> Any:
        peers = {other: f"http://127.0.0.1:{port}" for other, port in ports.items() if other != name}
        return await start(name, **({"peers": peers, "listen": {"port": ports[name]}, "recipe": EAGER} | keys))

    return begin


class Stream:
    """A device that offers one update after the other."""

    def __init__(self, device: Any, version: Any) -> None:
        self.device, self.version, self.sequence = device, version, device.welcome.last_sequence

    async def update(self, value: float) -> UpdateAccepted:
        self.sequence += 1
        payload = sparse.encode(SparseVector.full(np.full(SIZE, value, np.float32)))
        await self.device.offer(self.sequence, self.version, payload)
        accepted: UpdateAccepted = await self.device.accepted()
        return accepted


async def stream(coordinator: Any, name: str) -> Stream:
    device = await coordinator.device(name)
    version, _ = await device.model()
    return Stream(device, version)


async def until_merged(streams: list[Stream], coordinators: list[Any], merges: int) -> None:
    """Offer updates until every coordinator has merged so often."""
    async with asyncio.timeout(30):
        while True:
            for number, one in enumerate(streams):
                await one.update(0.1 * (1 if number else -1))
            counts = [(await one.json("/v1/admin/status"))["merges"] for one in coordinators]
            if min(counts) >= merges:
                return
            await asyncio.sleep(0.02)


async def test_two_regions_exchange_their_models(region: Start) -> None:
    east, west = await region("east"), await region("west")
    streams = [await stream(east, "pi-e"), await stream(west, "pi-w")]
    await until_merged(streams, [east, west], 3)
    both = ((east, "west"), (west, "east"))
    for coordinator, peer in both:
        await coordinator.until_metric(f"skerry_peer_reachable{{peer={peer}}}", 1)
    for coordinator, peer in both:
        federated, regional = await coordinator.model("federated"), await coordinator.model("regional")
        assert not np.array_equal(federated, regional)
        await coordinator.service.stop()
        history = read_history(coordinator.config.state_dir)
        assert {merge.peer for merge in history.merges} == {peer}
        assert any(entry.party == "peer" and entry.sent_bytes > 4 * SIZE for entry in history.traffic)


async def test_a_dead_peer_holds_nobody_up(region: Start, caplog: pytest.LogCaptureFixture) -> None:
    east = await region("east")
    device = await stream(east, "pi-e")
    for _ in range(20):
        await device.update(0.1)
    status = await east.json("/v1/admin/status")
    assert status["version"] == 20
    await east.until_metric("skerry_peer_failures_total{peer=west}", 1)
    assert (await east.json("/v1/admin/status"))["peer_troubles"]["west"]
    assert "peer west" in caplog.text

    west = await region("west")
    await east.until_metric("skerry_peer_reachable{peer=west}", 1)
    await until_merged([device, await stream(west, "pi-w")], [east, west], 1)


async def test_a_peer_that_lost_its_disk_gets_the_model_whole(region: Start, tmp_path: Path) -> None:
    east, west = await region("east"), await region("west")
    here = await stream(east, "pi-e")
    await until_merged([here, await stream(west, "pi-w")], [east, west], 2)
    await west.service.stop()
    shutil.rmtree(tmp_path / "west")
    west = await region("west")
    await until_merged([here, await stream(west, "pi-w")], [west], 2)
    replica = (await west.json("/v1/admin/status"))["peers"]["east"]
    assert replica["publication"] >= 3


async def test_a_coordinator_that_lost_its_disk_goes_on_from_what_its_peer_holds(
    region: Start, tmp_path: Path, initial: Float32, caplog: pytest.LogCaptureFixture
) -> None:
    east, west = await region("east"), await region("west")
    here = await stream(east, "pi-e")
    await until_merged([here, await stream(west, "pi-w")], [east, west], 2)
    await west.service.stop()
    held = east.service.engine.replica("west")
    lineage, age, values = held.lineage, held.age, held.values.copy()
    shutil.rmtree(tmp_path / "west")

    west = await region("west", recipe={"federation": {"rule": "none"}})
    assert f"going on from what peers hold of this coordinator, of age {age:.1f}" in caplog.text
    status = await west.json("/v1/admin/status")
    assert (status["version"], status["age"]) == (0, age)
    assert status["lineage"] != lineage
    np.testing.assert_array_equal(await west.model(), values)
    assert not np.array_equal(values, initial)
    assert west.service.engine.model().trained
    device = await stream(west, "pi-w")
    await device.update(0.1)
    await west.service.stop()
    west = await region("west", recipe={"federation": {"rule": "none"}})  # from its own disk now
    assert (await west.json("/v1/admin/status"))["version"] == 1
    assert caplog.text.count("going on from what peers hold") == 1


async def test_what_a_peer_has_heard_of_is_not_applied_again_by_who_lost_its_disk(
    region: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = "http://127.0.0.1:1"
    east, west = await region("east"), await region("west", url=url)
    here, there = await stream(east, "pi-e"), await stream(west, "pi-w")
    await until_merged([here, there], [east, west], 2)
    taken = there.sequence
    async with asyncio.timeout(20):
        while (probe := await east.device("pi-w")).welcome.last_sequence < taken:
            await probe.socket.close()
            await asyncio.sleep(0.1)  # west's ledger is on its way
    await west.service.stop()
    shutil.rmtree(tmp_path / "west")

    alone = {"recipe": EAGER | {"federation": {"rule": "none"}}}
    west = await region("west", url=url, **alone)
    assert "with updates of 1 devices" in caplog.text
    held = (await stream(west, "pi-w")).sequence  # the newest may not have been published: then the peer drops its line
    assert 0 < held <= taken
    taken, before = held, await west.model()
    for again in range(2):
        there = await stream(west, "pi-w")
        assert there.sequence == taken
        there.sequence = taken - 1
        assert (await there.update(0.1)).weight == 1.0
        assert (await west.json("/v1/admin/status"))["version"] == 0
        np.testing.assert_array_equal(await west.model(), before)
        if not again:
            await west.service.stop()
            west = await region("west", url=url, **alone)  # from its own disk now
    await there.update(0.1)
    assert (await west.json("/v1/admin/status"))["version"] == 1


async def test_of_several_peers_the_one_with_the_newest_exchange_is_believed() -> None:
    """Whatever its age: a region's age falls where updates are taken back."""

    def held(epoch: int, number: int, publication: int, age: float) -> PeerModel:
        values = sparse.encode(SparseVector.full(np.full(SIZE, age, np.float32)))
        return PeerModel("eu", "eu/1", BroadcastId(epoch, number), age, publication, None, values)

    class Told:
        async def published_before(self, name: str, size: int) -> list[PeerModel]:
            assert (name, size) == ("eu", SIZE)
            return [held(1, 90, 8, 70.0), held(2, 5, 9, 60.0), held(2, 4, 9, 80.0)]

        async def ledger_before(self, name: str) -> list[LedgerLine]:
            assert name == "eu"
            return [LedgerLine("kite", 3, 0.5, 0)]

    values, former = await first_model(np.zeros(SIZE, np.float32), Told(), "eu", 0.0, contextlib.nullcontext)
    assert former == FormerLife(60.0, ledger_of([LedgerLine("kite", 3, 0.5, 0)]))
    np.testing.assert_array_equal(values, np.full(SIZE, 60.0, np.float32))


async def test_two_that_start_at_once_without_a_state_do_not_wait_for_each_other(
    region: Start, ports: dict[str, int], http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    """The first of them serves already: it is alive, not ready, has nothing for its peer, and agents come again."""
    url = f"http://127.0.0.1:{ports['east']}"

    async def answer(path: str) -> tuple[int, str]:
        while True:
            try:
                async with http.get(url + path) as response:
                    return response.status, await response.text()
            except aiohttp.ClientConnectorError:  # it says that it asks before it listens
                await asyncio.sleep(0.01)

    async with asyncio.timeout(20):
        first = asyncio.ensure_future(region("east", peers_wait_s=3600.0))
        while "no peer answers: asking for 3600 s" not in caplog.text:  # noqa: ASYNC110 - another part's log
            await asyncio.sleep(0.01)
        assert await answer("/healthz") == (200, "ok\n")
        for path in ("/readyz", "/v1/agents/stream"):
            assert await answer(path) == (503, "starting\n")
        for path in ("/v1/admin/status", "/v1/admin/join-tokens", "/v1/enrolment/root", "/v1/model?kind=regional"):
            status, text = await answer(path)
            assert (status, "asks its peers what they hold of it" in text) == (503, True)
        told = await answer("/v1/federation/replica?of=west")
        assert told == (404, "there is no state here yet: its peers are asked, too")
        west = await region("west", peers_wait_s=3600.0)
        east = await first
    assert caplog.text.count("no peer answers") == 1
    for one in (east, west):
        assert (await one.json("/v1/admin/status"))["age"] == 0.0


async def test_a_peer_with_another_bundle_is_not_listened_to(
    region: Start, tmp_path: Path, write_bundle: Callable[[Path, Float32], Path], caplog: pytest.LogCaptureFixture
) -> None:
    other = write_bundle(tmp_path / "other.skerry", np.zeros(SIZE, np.float32))
    east, west = await region("east"), await region("west", bundle=str(other))
    await east.until(lambda status: "another bundle" in str(status["peer_troubles"]["west"]))
    streams = [await stream(east, "pi-e"), await stream(west, "pi-w")]
    for _ in range(10):
        for one in streams:
            await one.update(0.1)
    assert (await east.json("/v1/admin/status"))["merges"] == 0
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_peer_behind_the_wrong_name_is_told_from_the_right_one(
    start: Start, region: Start, ports: dict[str, int]
) -> None:
    await region("west")
    east = await start("east", peers={"north": f"http://127.0.0.1:{ports['west']}"}, recipe=EAGER)
    await east.until(lambda status: "is 'west': correct peers.north" in str(status["peer_troubles"]["north"]))


async def test_a_drain_tells_where_agents_may_go(region: Start) -> None:
    """To a peer that takes agents; one that was drained is named no more, to agents or to operators."""
    alone = {"recipe": {"federation": {"rule": "none"}}}
    west = await region("west", url="http://127.0.0.1:1", **alone)
    east = await region("east", **alone)
    await east.until_metric("skerry_peer_reachable{peer=west}", 1)
    async with east.http.post(f"{east.url}/v1/admin/drain") as response:
        assert await response.json() == {"sent_away": 0, "elsewhere": ["west"]}
    async with west.http.post(f"{west.url}/v1/admin/drain") as response:
        assert await response.json() == {"sent_away": 0, "elsewhere": []}
    async with asyncio.timeout(20):
        while True:
            async with east.http.post(f"{east.url}/v1/admin/drain") as response:
                if (await response.json())["elsewhere"] == []:
                    return
            await asyncio.sleep(0.1)  # west is asked once a second


async def test_an_update_counts_in_one_of_two_regions(region: Start, initial: Float32) -> None:
    """One that both took is taken back in the first; one that the second hears of in time is not taken there."""
    alone = {"recipe": {"federation": {"rule": "none"}}}
    east, west = await region("east", **alone), await region("west", url="http://127.0.0.1:1", **alone)
    there = await west.device("kite")
    assert there.welcome.coordinators == {"west": "http://127.0.0.1:1"}
    version, _ = await there.model()
    (part,) = cut(sparse.encode(SparseVector.full(np.full(SIZE, 0.1, np.float32))), PART_BYTES_MAX)
    update = UpdateOffered(1, version, 20, 100, 0.5, 0.01, part)
    await there.send(update)
    weight = (await there.accepted()).weight
    async with asyncio.timeout(20):
        while (here := await east.device("kite")).welcome.last_sequence < 1:
            await here.socket.close()
            await asyncio.sleep(0.1)  # west's ledger is on its way
    assert here.welcome.coordinators == {"west": "http://127.0.0.1:1"}
    await here.send(replace(update, base_age=0.0, moves=1))
    assert (await here.accepted()).weight == weight
    assert (await east.json("/v1/admin/status"))["version"] == 0

    crow, other = await east.device("crow"), await west.device("crow")
    own, _ = await crow.model()
    await crow.send(replace(update, base=own))
    await other.send(replace(update, base=own, base_age=0.0, moves=1))
    weight = (await other.accepted()).weight
    await east.until(lambda status: status["version"] == 2)
    assert (await east.metrics())["skerry_updates_taken_back_total"] == 1.0
    np.testing.assert_allclose(await east.model(), initial, atol=1e-6)
    await crow.send(replace(update, base=own))
    assert (await crow.accepted()).weight is not None
    assert (await crow.accepted()).weight == weight
