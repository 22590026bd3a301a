"""Who is shut out at one coordinator is shut out at its peers, by whatever way they hear of it."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from msgspec.structs import replace

from coordinator import peers as peers_module
from coordinator.enrolment import registry as registries
from coordinator.enrolment.api import EnrolmentApi
from coordinator.enrolment.records import PartyRow, Revocation, parse_page
from coordinator.enrolment.registry import Refusal
from coordinator.events import Event
from coordinator.metrics import Metrics
from coordinator.peers import Peers
from skerry.identity.authority import make_key
from skerry.protocol import frames
from skerry.protocol.messages import BroadcastId, Parties, PeerStatus, Revocations
from tests.coordinator.enrolment.conftest import Bench, OpenBench
from tests.coordinator.enrolment.test_desk import asked

BUNDLE = "0" * 64
Handler = Callable[[web.Request], Awaitable[web.Response]]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "POLL_S", 0.01)


class Ear:
    def submit(self, event: Event) -> None:
        """Nobody listens."""


def revocation(number: int) -> Revocation:
    return Revocation("agent", f"pi-{number}", f"{number:064x}")


def devices(count: int) -> list[PartyRow]:
    return [PartyRow("agent", f"pi-{number}", f"{number:064x}", "us", "n", "", 9.0, 0.0, "") for number in range(count)]


@asynccontextmanager
async def serving(
    digest: Callable[[], str | None], tell: Handler, parties: Handler | None = None, place: Callable[[], str] = str
) -> AsyncIterator[str]:
    """Serve what a peer asks for: the status, the revocations by `tell`, the parties up to `place` by `parties`."""

    async def tell_status(request: web.Request) -> web.Response:
        status = PeerStatus("eu-1", "eu", "eu/00000001", 0, 0.0, BUNDLE, BroadcastId(0, 0), 0)
        return web.Response(body=frames.encode(replace(status, revocations=digest(), parties=place())))

    application = web.Application()
    application.router.add_get("/v1/federation/status", tell_status)
    application.router.add_get("/v1/federation/revocations", tell)
    if parties is not None:
        application.router.add_get("/v1/federation/parties", parties)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def polling(url: str, bench: Bench) -> AsyncIterator[Metrics]:
    """Let the desk of `bench` hear of what the coordinator at `url` knows."""
    metrics = Metrics()
    peers = Peers(
        {"eu-1": url},
        BUNDLE,
        metrics,
        connector=aiohttp.TCPConnector,
        progress_timeout_s=5.0,
        rng=random.Random(1),
    )
    peers.region, peers.enrolment = Ear(), bench.desk
    running = asyncio.create_task(peers.run())
    try:
        yield metrics
        assert not running.done(), running.exception()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the other side of a socket
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("page", [1, 256])
async def test_what_one_coordinator_revokes_another_one_learns_and_keeps(
    open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(registries, "PAGE_ENTRIES_MAX", page)
    eu, us = await open_bench("eu-1"), await open_bench("us-1")
    await eu.desk.learn([revocation(number) for number in range(5)], "ap-1")
    tell = EnrolmentApi(eu.desk, caller_of=lambda _: None, wall_clock=lambda: 0.0).tell_revocations
    async with serving(lambda: eu.desk.digest, tell) as url, polling(url, us):
        pages = 5 if page == 1 else 1
        await until(lambda: len(us.ended) == pages)
        assert us.desk.digest == eu.desk.digest
        assert us.desk.registry.is_revoked(*revocation(3))
        await eu.desk.revoke("agent", "pi-9", "f" * 64)
        await until(lambda: us.desk.digest == eu.desk.digest)
        await until(lambda: len(us.ended) == pages + 1)
    digest = us.desk.digest
    us.desk.close()
    assert (await open_bench("us-1")).desk.digest == digest


async def test_where_we_know_more_a_peer_is_asked_once_and_not_for_ever(open_bench: OpenBench) -> None:
    eu, us = await open_bench("eu-1"), await open_bench("us-1")
    await eu.desk.learn([revocation(1)], "ap-1")
    await us.desk.learn([revocation(2)], "ap-1")
    asked = statuses = 0

    async def tell(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        page, more = eu.desk.registry.revocations()
        return web.Response(body=frames.encode(Revocations(tuple(page), more)))

    def digest() -> str | None:
        nonlocal statuses
        statuses += 1
        return eu.desk.digest

    async with serving(digest, tell) as url, polling(url, us):
        await until(lambda: statuses > 5)
    assert asked == 1
    assert us.desk.registry.revocations()[0] == [revocation(1).text(), revocation(2).text()]


@pytest.mark.parametrize(
    "pages",
    [
        [["garbage"]],
        [[revocation(2).text(), revocation(1).text()]],
        [[revocation(1).text()], [revocation(1).text()]],
        [[f"root/pi/{'0' * 64}"]],
    ],
    ids=["garbage", "order", "again and again", "role"],
)
async def test_a_broken_peer_is_counted_and_disturbs_nobody(
    open_bench: OpenBench, pages: list[list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    us = await open_bench("us-1")
    told = 0

    async def tell(request: web.Request) -> web.Response:
        nonlocal told
        told += 1
        page = pages[0 if request.query["after"] == "" else -1]
        return web.Response(body=frames.encode(Revocations(tuple(page), more=True)))

    async with serving(lambda: "0" * 64, tell) as url, polling(url, us) as metrics:
        await until(lambda: metrics.peer_failures["eu-1"] >= 2)
    assert told <= 2 * (metrics.peer_failures["eu-1"] + 1)
    assert caplog.text.count("its revocations cannot be taken") == 1  # however often it was asked


async def test_behind_devices_that_are_not_believed_a_coordinator_is_revoked(
    open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is not believed is told in the log once, and read again at its time and not at each sign of life."""
    monkeypatch.setattr(registries, "PAGE_ENTRIES_MAX", 8)
    eu, us = await open_bench("eu-1"), await open_bench("us-1")
    await us.desk.learn_parties(devices(20), "eu-1")
    for number in range(20):
        await eu.desk.revoke("agent", f"pi-{number}", f"{number:064x}")
    await eu.desk.revoke("coordinator", "m", "f" * 64)
    api = EnrolmentApi(eu.desk, caller_of=lambda _: None, wall_clock=lambda: 0.0)
    statuses = asked_first = 0

    def digest() -> str | None:
        nonlocal statuses
        statuses += 1
        return eu.desk.digest

    async def tell(request: web.Request) -> web.Response:
        nonlocal asked_first
        asked_first += request.query["after"] == ""
        return await api.tell_revocations(request)

    async with serving(digest, tell) as url:
        async with polling(url, us):
            await until(lambda: statuses > 3)
            assert us.desk.registry.is_revoked("coordinator", "m", "f" * 64)
            assert len(us.desk.registry.revocations()[0]) == 4 + 1
            assert asked_first == 1
            assert caplog.text.count("they would shut out 16 devices more than one peer is believed in a day") == 1
            await eu.desk.revoke("admin", "ann", "e" * 64)
            await until(lambda: us.desk.registry.is_revoked("admin", "ann", "e" * 64))
        us.now_s[0] += 86400.0
        monkeypatch.setattr(peers_module, "AGAIN_S", 0.0)
        async with polling(url, us):
            await until(lambda: sum(us.desk.registry.is_revoked(*revocation(number)) for number in range(20)) == 8)
            us.now_s[0] += 86400.0
            await until(lambda: sum(us.desk.registry.is_revoked(*revocation(number)) for number in range(20)) == 12)


async def test_behind_claims_that_are_not_believed_parties_are_heard_of(
    open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The claims, one an operator's, are told in the log once, and read again at their time alone."""
    monkeypatch.setattr(registries, "PAGE_ENTRIES_MAX", 8)
    eu, us = await open_bench("eu-1"), await open_bench("us-1")
    await us.desk.learn_parties(devices(20), "ap-1")
    claims = [one._replace(key="f" * 64, enrolled_at_s=1.0) for one in devices(20)]
    await eu.desk.learn_parties([*claims, *(one._replace(name=f"far-{one.name}") for one in claims[:5])], "ap-1")
    api = EnrolmentApi(eu.desk, caller_of=lambda _: None, wall_clock=lambda: 0.0)
    statuses = pages = 0

    def place() -> str:
        nonlocal statuses
        statuses += 1
        return eu.desk.registry.place

    async def tell(request: web.Request) -> web.Response:
        nonlocal pages
        pages += 1
        return await api.tell_parties(request)

    def taken() -> int:
        return sum(one.key == "f" * 64 and not one.name.startswith("far") for one in us.desk.registry.parties())

    async with serving(lambda: None, api.tell_revocations, tell, place) as url:
        async with polling(url, us):
            await until(lambda: statuses > 3)
            assert taken() == 4
            assert sum(one.name.startswith("far-pi-") for one in us.desk.registry.parties()) == 5
            assert pages == 4
            assert caplog.text.count("17 would take the names of more devices than one peer is believed") == 1
        us.now_s[0] += 86400.0
        monkeypatch.setattr(peers_module, "AGAIN_S", 0.0)
        async with polling(url, us):
            await until(lambda: taken() == 8)
            us.now_s[0] += 86400.0
            await until(lambda: taken() == 12)


async def test_a_coordinators_new_key_is_heard_of_behind_the_revocation_of_its_old_one(
    open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It was told before, beside an operator's name with another key: then it is told again, and can be revoked."""
    monkeypatch.setattr(peers_module, "AGAIN_S", 0.0)
    eu, us = await open_bench("eu-1"), await open_bench("us-1")
    m = PartyRow("coordinator", "m", "a" * 64, "m", "m", "", 9.0, 0.0, "")
    await us.desk.learn_parties([m], "eu-1")
    await eu.desk.learn_parties([m._replace(key="b" * 64, enrolled_at_s=99.0)], "m")
    api = EnrolmentApi(eu.desk, caller_of=lambda _: None, wall_clock=lambda: 0.0)
    async with (
        serving(lambda: None, api.tell_revocations, api.tell_parties, lambda: eu.desk.registry.place) as url,
        polling(url, us) as metrics,
    ):
        await until(lambda: metrics.peer_failures["eu-1"] >= 2)
        assert "2 would take the names of more devices than one peer is believed in a day, or of a coord" in caplog.text
        assert await us.desk.revoke("coordinator", "m", None) == [Revocation("coordinator", "m", "a" * 64)]
        await until(lambda: any(one.key == "b" * 64 for one in us.desk.registry.parties()))
    assert await us.desk.revoke("coordinator", "m", None) == [Revocation("coordinator", "m", "b" * 64)]


async def test_a_malicious_peer_cannot_fill_our_memory(open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registries, "REVOCATIONS_PER_PEER_MAX", 10)
    us = await open_bench("us-1")

    async def tell(request: web.Request) -> web.Response:
        after = request.query["after"]
        start = int(after[-64:], 16) if after else 0
        page = [Revocation("agent", "pi", f"{start + number:064x}").text() for number in range(1, 5)]
        return web.Response(body=frames.encode(Revocations(tuple(page), more=True)))

    async with serving(lambda: "0" * 64, tell) as url, polling(url, us) as metrics:
        await until(lambda: metrics.peer_failures["eu-1"] >= 2)
    assert len(us.desk.registry.revocations()[0]) <= 10
    assert len(await us.desk.revoke("coordinator", "eu-1", "a" * 64)) == 1  # and it can be thrown out itself


async def test_a_name_that_is_enrolled_in_one_region_is_taken_in_the_others(open_bench: OpenBench) -> None:
    """And a device can be revoked by its name where it did not join; both outlive a restart."""
    eu, us = await open_bench("eu-1"), await open_bench("us-1")
    api = EnrolmentApi(eu.desk, caller_of=lambda _: None, wall_clock=lambda: 0.0)
    await eu.desk.join(asked(await eu.token(), make_key()))
    async with (
        serving(lambda: None, api.tell_revocations, api.tell_parties, lambda: eu.desk.registry.place) as url,
        polling(url, us),
    ):
        await until(lambda: any(one.name == "pi" for one in us.desk.registry.parties()))
        await eu.desk.join(asked(await eu.token(2), make_key(), "pi-2"))
        await until(lambda: any(one.name == "pi-2" for one in us.desk.registry.parties()))
    us.desk.close()
    us = await open_bench("us-1")
    with pytest.raises(Refusal, match="belongs to another key"):
        await us.desk.join(asked(await us.token(), make_key()))
    (revoked,) = await us.desk.revoke("agent", "pi", None)
    assert revoked.key == next(one.key for one in eu.desk.registry.parties() if one.name == "pi")


async def test_a_peer_that_tells_no_parties_is_counted(open_bench: OpenBench) -> None:
    us = await open_bench("us-1")
    before = us.desk.registry.parties()

    async def tell(request: web.Request) -> web.Response:
        return web.Response(body=frames.encode(Parties(("garbage",), "x:1", more=True)))

    async with serving(lambda: None, tell, tell, lambda: "x:1") as url, polling(url, us) as metrics:
        await until(lambda: metrics.peer_failures["eu-1"] >= 2)
    assert us.desk.registry.parties() == before


@pytest.mark.parametrize(
    ("texts", "after", "count"),
    [
        ([], "", 0),
        ([revocation(1).text(), revocation(2).text()], "", 2),
        ([revocation(2).text()], revocation(1).text(), 1),
        ([revocation(1).text()], revocation(1).text(), None),
        ([revocation(1).text(), revocation(1).text()], "", None),
        ([""], "", None),
    ],
)
def test_a_page_is_in_order_and_behind_what_was_asked(texts: Sequence[str], after: str, count: int | None) -> None:
    found = parse_page(texts, after)
    assert (None if found is None else len(found)) == count
