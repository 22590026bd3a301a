"""The way to the peers: what does not arrive is sent again, for however long; a broken peer costs little."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web

from coordinator import peers as peers_module
from coordinator.enrolment.records import PartyRow, Revocation
from coordinator.events import Event, PeerLedgerArrived
from coordinator.metrics import Metrics
from coordinator.peers import Peers
from skerry.protocol import frames, ledger_lines, sparse
from skerry.protocol.ledger_lines import LedgerLine
from skerry.protocol.messages import BroadcastId, Parties, PeerLedger, PeerModel, PeerModelNeeded, PeerStatus
from skerry.vector import Float32, SparseVector

NOWHERE = "http://127.0.0.1:9"  # the discard port: nobody listens


class Ear:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def submit(self, event: Event) -> None:
        self.events.append(event)


class Desk:
    digest = None

    def __init__(self) -> None:
        self.heard = 0

    async def learn(self, revocations: Sequence[Revocation], peer: str) -> int:
        raise AssertionError("nobody told any")

    async def learn_parties(self, parties: Sequence[PartyRow], peer: str) -> int:
        self.heard += len(parties)
        return 0


def model(base: int | None) -> PeerModel:
    return PeerModel("eu", "eu/00000001", BroadcastId(1, 1), 1.0, 2, base, b"")


@contextlib.asynccontextmanager
async def talking_to(url: str) -> AsyncIterator[tuple[Peers, Metrics, Ear, asyncio.Task[None]]]:
    metrics, ear = Metrics(), Ear()
    connector = aiohttp.TCPConnector
    peers = Peers({"us": url}, "0" * 64, metrics, connector=connector, progress_timeout_s=5.0, rng=random.Random(1))
    peers.region = ear
    running = asyncio.create_task(peers.run())
    try:
        yield peers, metrics, ear, running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_peer_that_is_down_for_a_day_is_tried_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a thousand times: the wait between two attempts must not outgrow what a float can hold."""
    monkeypatch.setattr(peers_module, "RETRY_MAX_S", 0.0)
    async with talking_to(NOWHERE) as (peers, metrics, _, running), asyncio.timeout(60):
        peers.send_to_peer("us", model(1))
        while metrics.peer_failures["us"] < 1100:
            assert not running.done(), running.exception()
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("base", "asked"), [(1, True), (None, False)])
async def test_the_whole_model_is_not_sent_because_the_whole_model_was_not_enough(base: int | None, asked: Any) -> None:
    """A broken peer that always wants more would get the model without a pause."""
    posts = 0

    async def want_more(request: web.Request) -> web.Response:
        nonlocal posts
        posts += 1
        return web.Response(body=frames.encode(PeerModelNeeded("more")))

    application = web.Application()
    application.router.add_post("/v1/federation/model", want_more)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with talking_to(f"http://127.0.0.1:{runner.addresses[0][1]}") as (peers, _, ear, _), asyncio.timeout(20):
            peers.send_to_peer("us", model(base))
            while posts == 0:  # noqa: ASYNC110 - the other side of a socket
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert bool(ear.events) == asked
    finally:
        await runner.cleanup()


def held(model: Float32, **fields: Any) -> PeerModel:
    fields = {"coordinator": "eu", "base": None, "values": sparse.encode(SparseVector.full(model))} | fields
    return PeerModel(lineage="eu/00000001", broadcast=BroadcastId(1, 1), age=40.0, publication=2, **fields)


ONES = np.ones(8, np.float32)


@pytest.mark.parametrize(
    ("answer", "usable"),
    [
        (held(ONES), True),
        (held(ONES, coordinator="asia"), False),
        (held(ONES, base=1), False),
        (held(ONES[:7]), False),
        (held(np.full(8, 3e38, np.float32)), False),
        (held(ONES, values=sparse.encode(SparseVector(8, np.arange(7), ONES[:7]))), False),
        (held(ONES, values=b"nonsense"), False),
        (PeerModelNeeded("no model at all"), False),
        (None, False),
    ],
)
async def test_what_a_peer_holds_of_this_coordinator_counts_only_where_it_is_its_whole_model(
    answer: PeerModel | PeerModelNeeded | None, usable: Any
) -> None:
    async def give(request: web.Request) -> web.Response:
        assert request.query["of"] == "eu"
        return web.Response(status=404) if answer is None else web.Response(body=frames.encode(answer))

    application = web.Application()
    application.router.add_get("/v1/federation/replica", give)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        peers = Peers(
            {"us": url, "nowhere": NOWHERE},
            "0" * 64,
            Metrics(),
            connector=aiohttp.TCPConnector,
            progress_timeout_s=5.0,
            rng=random.Random(1),
        )
        assert await peers.published_before("eu", 8) == ([answer] if usable else [])
    finally:
        await runner.cleanup()


LINE = LedgerLine("kite", 1, 0.5, 1)


@pytest.mark.parametrize(
    ("whose", "lines", "more", "pages", "told"),
    [
        ("eu", ledger_lines.encode([LINE]), 2, 3, 3),
        ("eu", ledger_lines.encode([LINE]), 10**9, 5, 5),
        ("us", ledger_lines.encode([LINE]), 2, 1, 0),
        ("eu", b"nonsense", 2, 1, 0),
    ],
    ids=["to its end", "without end", "of another", "none"],
)
async def test_a_lost_ledger_is_read_page_by_page_and_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, whose: str, lines: bytes, more: int, pages: int, told: int
) -> None:
    monkeypatch.setattr(peers_module, "OWN_LEDGER_PAGES_MAX", 5)
    asked: list[str] = []

    async def give(request: web.Request) -> web.Response:
        assert request.query["of"] == "eu"
        asked.append(request.query["after"])
        page = PeerLedger(whose, lines, f"d/{len(asked)}", more=len(asked) <= more)
        return web.Response(body=frames.encode(page))

    application = web.Application()
    application.router.add_get("/v1/federation/ledger", give)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        peers = Peers(
            {"us": f"http://127.0.0.1:{runner.addresses[0][1]}", "nowhere": NOWHERE},
            "0" * 64,
            Metrics(),
            connector=aiohttp.TCPConnector,
            progress_timeout_s=5.0,
            rng=random.Random(1),
        )
        assert await peers.ledger_before("eu") == told * [LINE]
        assert asked == ["", *(f"d/{page}" for page in range(1, pages))]
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(("name", "pages"), [("us", peers_module.PAGES_MAX), ("them", 1)])
async def test_a_ledger_without_end_or_of_another_keeps_nobody_busy(name: str, pages: int) -> None:
    """Between so many pages the peer is asked for signs of life again; what is another's is not believed."""
    asked: list[str] = []
    line = LedgerLine("kite", 1, 0.5, 1)

    async def tell(request: web.Request) -> web.Response:
        asked.append("status")
        status = PeerStatus("us", "us", "us/1", 1, 1.0, "0" * 64, BroadcastId(0, 0), 0, ledger=f"p:{len(asked)}")
        return web.Response(body=frames.encode(status))

    async def give(request: web.Request) -> web.Response:
        asked.append("ledger")
        page = PeerLedger(name, ledger_lines.encode([line]), f"q:{len(asked)}", more=True)
        return web.Response(body=frames.encode(page))

    application = web.Application()
    application.router.add_get("/v1/federation/status", tell)
    application.router.add_get("/v1/federation/ledger", give)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with (
            talking_to(f"http://127.0.0.1:{runner.addresses[0][1]}") as (_, metrics, ear, _),
            asyncio.timeout(20),
        ):
            while asked.count("status") < 2:  # noqa: ASYNC110 - the other side of a socket
                await asyncio.sleep(0.01)
            lines = [event for event in ear.events if isinstance(event, PeerLedgerArrived)]
            assert asked[: asked.index("status", 1)] == ["status", *["ledger"] * pages]
            assert bool(lines) == (name == "us")
            assert all(event == PeerLedgerArrived("us", [line]) for event in lines)
            assert bool(metrics.peer_failures["us"]) == (name != "us")
    finally:
        await runner.cleanup()


async def test_parties_without_end_keep_nobody_busy() -> None:
    asked: list[str] = []

    async def tell(request: web.Request) -> web.Response:
        asked.append("status")
        status = PeerStatus("us", "us", "us/1", 1, 1.0, "0" * 64, BroadcastId(0, 0), 0, parties=f"p:{len(asked)}")
        return web.Response(body=frames.encode(status))

    async def give(request: web.Request) -> web.Response:
        asked.append(request.query["after"])
        page = Parties((f"agent/kite/{'a' * 64}/us/1",), f"q:{len(asked)}", more=True)
        return web.Response(body=frames.encode(page))

    application = web.Application()
    application.router.add_get("/v1/federation/status", tell)
    application.router.add_get("/v1/federation/parties", give)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with talking_to(f"http://127.0.0.1:{runner.addresses[0][1]}") as (peers, _, _, _), asyncio.timeout(20):
            peers.enrolment = desk = Desk()
            while asked.count("status") < 2:  # noqa: ASYNC110 - the other side of a socket
                await asyncio.sleep(0.01)
            first = asked[1 : asked.index("status", 1)]
            assert first == ["", *(f"q:{number}" for number in range(2, peers_module.PAGES_MAX + 1))]
            assert desk.heard >= len(first)
    finally:
        await runner.cleanup()
