"""A federation on the test's own machine: identities as `init` makes them, desks, and enrolment over TLS."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
from aiohttp import web

from coordinator.enrolment import founding
from coordinator.enrolment.api import EnrolmentApi
from coordinator.enrolment.authorities import Authorities
from coordinator.enrolment.desk import Desk
from coordinator.enrolment.opening import open_desk
from skerry.identity import tls
from skerry.identity.certificate import Identified, fingerprint, identify
from skerry.identity.join_token import JoinToken, secret_sha256
from skerry.identity.key_file import IdentityFolder

T = TypeVar("T")
FEDERATION = "0123456789abcdef"
COORDINATORS = {"eu-1": "https://eu.example.org:8470"}


async def in_place(function: Callable[[], T]) -> T:
    """Run it here: a thread that takes no time."""
    await asyncio.sleep(0)
    return function()


@dataclass
class Bench:
    """A desk under test, its clock in the test's hand."""

    desk: Desk
    state_dir: Path
    folder: IdentityFolder
    now_s: list[float]
    ended: list[None] = field(default_factory=list)  # an entry for each call that ends what revoked parties do
    quarantine: str = ""  # of the device "pi": why it is there
    elsewhere: tuple[str, ...] = ()  # other coordinators that take agents

    async def token(self, number: int = 1, **wanted: object) -> JoinToken:
        """Make a join token as an operator's command does."""
        token = JoinToken(self.desk.root_sha256, number.to_bytes(8), number.to_bytes(16))
        defaults = {"role": "agent", "ttl_s": 3600.0, "uses": 1, "region": None, "name": None}
        await self.desk.create_token(token.identifier.hex(), secret_sha256(token.secret), **(defaults | wanted))  # type: ignore[arg-type]
        return token


OpenBench = Callable[..., Awaitable[Bench]]


@pytest.fixture
async def open_bench(tmp_path: Path) -> AsyncIterator[OpenBench]:
    """Open a desk on the state of that name; its federation is made the first time."""
    async with AsyncExitStack() as stack:

        async def opened(name: str = "eu-1", run_in_thread: Callable[..., Awaitable[object]] = in_place) -> Bench:
            state_dir = tmp_path / name
            folder = IdentityFolder(state_dir / "identity")
            if not folder.holds("certificate.pem"):
                found(folder, name)
            now_s, ended = [time.time()], list[None]()
            desk = open_desk(
                state_dir,
                folder,
                coordinator=name,
                region=name.partition("-")[0],
                run_in_thread=run_in_thread,  # type: ignore[arg-type]
                wall_clock=lambda: now_s[0],
                coordinators=lambda: COORDINATORS,
                revoked=lambda: ended.append(None),
            )
            running = asyncio.create_task(desk.run())

            async def close() -> None:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                desk.close()

            stack.push_async_callback(close)
            return Bench(desk, state_dir, folder, now_s, ended)

        yield opened


@pytest.fixture
async def bench(open_bench: OpenBench) -> Bench:
    return await open_bench()


def found(folder: IdentityFolder, name: str) -> Authorities:
    return founding.found(
        folder,
        federation=FEDERATION,
        coordinator=name,
        addresses=[f"{name}.example.org", "localhost", "127.0.0.1"],
        now_s=time.time(),
    )


@dataclass
class Served:
    """Enrolment behind TLS on a real port."""

    bench: Bench
    url: str


@pytest.fixture
async def served(bench: Bench) -> AsyncIterator[Served]:
    root = bench.folder.certificates("root.pem")[0]
    assert fingerprint(root) == bench.desk.root_sha256

    def caller_of(request: web.Request) -> Identified | None:
        transport = request.transport
        assert transport is not None
        der = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return None if der is None else identify(der, root)

    application = web.Application()
    EnrolmentApi(bench.desk, caller_of=caller_of, wall_clock=lambda: bench.now_s[0]).add_to(application)

    async def tell_status(request: web.Request) -> web.Response:  # what `devices` asks for besides
        return web.json_response({"devices": {"pi": {"connected": True, "updates": 7, "quarantine": bench.quarantine}}})

    async def release(request: web.Request) -> web.Response:
        if not bench.quarantine:
            raise web.HTTPNotFound(text=f"device {request.match_info['device']!r} is not in quarantine here")
        bench.quarantine = ""
        return web.json_response({"released": request.match_info["device"]})

    async def admit(request: web.Request) -> web.Response:
        peer = request.match_info["peer"]
        if peer != "us-1":
            raise web.HTTPNotFound(text=f"the model of peer {peer!r} is not refused here")
        return web.json_response({"admitted": peer})

    async def drain(_: web.Request) -> web.Response:
        return web.json_response({"sent_away": 3, "elsewhere": bench.elsewhere})

    application.router.add_post("/v1/admin/drain", drain)
    application.router.add_post("/v1/admin/peers/{peer}/admit", admit)
    application.router.add_get("/v1/admin/status", tell_status)
    application.router.add_post("/v1/admin/devices/{device}/release", release)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "0.0.0.0", 0, ssl_context=tls.server_context(bench.folder))
    await site.start()
    yield Served(bench, f"https://127.0.0.1:{runner.addresses[0][1]}")
    await runner.cleanup()
