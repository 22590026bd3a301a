"""What a coordinator without a state begins with: what its peers hold of it, or the bundle's initial parameters."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from aiohttp import web

from coordinator.former_life import FormerLife, ledger_of
from skerry.protocol import sparse
from skerry.protocol.ledger_lines import LedgerLine
from skerry.protocol.messages import PeerModel
from skerry.vector import Float32

ASK_AGAIN_S = 0.5
STARTING = "it is starting: it asks its peers what they hold of it, at most for peers_wait_s; try again"

log = logging.getLogger(__name__)


class Peers(Protocol):
    """What is asked of the peers."""

    async def published_before(self, name: str, size: int) -> list[PeerModel] | None:
        """Return what peers hold of coordinator `name`; None: not one of them answered."""

    async def ledger_before(self, name: str) -> list[LedgerLine]:
        """Return what peers know of its ledger."""


async def first_model(
    initial: Float32, peers: Peers, name: str, wait_s: float, waiting: Callable[[], AbstractAsyncContextManager[None]]
) -> tuple[Float32, FormerLife]:
    """Return what version 0 is, float32 of shape (size,), and what comes with it.

    Args:
        initial: the bundle's parameters.
        peers: who may hold something newer.
        name: of this coordinator.
        wait_s: for so long they are asked again, while not one of them answers.
        waiting: entered meanwhile.
    """
    loop = asyncio.get_running_loop()
    until_s = loop.time() + wait_s
    found = await peers.published_before(name, len(initial))
    if found is None and loop.time() < until_s:
        log.warning(
            "no state here, and no peer answers: asking for %g s what they hold of this coordinator (peers_wait_s), "
            "then beginning with the bundle's initial parameters",
            wait_s,
        )
        async with waiting():
            while found is None and loop.time() < until_s:
                await asyncio.sleep(ASK_AGAIN_S)
                found = await peers.published_before(name, len(initial))
    if found is None:
        log.warning("no peer has answered: beginning with the bundle's initial parameters")
    newest = max(found or (), key=lambda one: (one.broadcast, one.publication), default=None)
    if newest is None:
        return initial, FormerLife()
    ledger = ledger_of(await peers.ledger_before(name))
    log.warning(
        "no state here: going on from what peers hold of this coordinator, of age %.1f, with updates of %d devices",
        newest.age,
        len(ledger),
    )
    return sparse.decode(newest.values, size=len(initial)).values, FormerLife(newest.age, ledger)


def add_waiting_room(router: web.UrlDispatcher) -> None:
    """Serve while the peers are asked: two that have no state must not wait for each other."""

    async def know_nothing(request: web.Request) -> web.Response:
        raise web.HTTPNotFound(text="there is no state here yet: its peers are asked, too")

    async def ask_later(request: web.Request) -> web.Response:
        response = web.Response(status=503, text="starting\n")
        response.force_close()
        return response

    async def not_yet(request: web.Request) -> web.Response:
        response = web.Response(status=503, text=f"{STARTING}\n")
        response.force_close()
        return response

    async def live(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    router.add_get("/v1/federation/replica", know_nothing)
    router.add_get("/v1/agents/stream", ask_later)
    router.add_get("/readyz", ask_later)
    for what in ("admin/{path:.*}", "enrolment/{path:.*}", "model", "region"):
        router.add_route("*", f"/v1/{what}", not_yet)
    router.add_get("/healthz", live)
