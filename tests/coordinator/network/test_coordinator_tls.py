"""A coordinator that listens with TLS, on real sockets: who gets in, as whom, and for how long."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import WSServerHandshakeError, web

from coordinator import remote
from coordinator.config import CoordinatorConfig
from coordinator.service import Service
from skerry.errors import ConfigError
from skerry.identity import tls
from skerry.identity.certificate import Identified, Role
from skerry.identity.errors import IdentityError
from skerry.identity.key_file import KEY, IdentityFolder
from skerry.protocol import frames, sparse
from skerry.protocol.messages import BroadcastId, Drain, Refused, TokenPassed, UpdateAccepted
from skerry.vector import SparseVector
from tests.identity.parties import OTHER_FEDERATION, Federation

Start = Callable[..., Awaitable[Any]]
MakeConfig = Callable[..., CoordinatorConfig]


class Parties:
    """A federation in a folder, and what its members connect with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.federation = Federation(time.time())
        self.foreign = Federation(time.time(), OTHER_FEDERATION)
        self._sessions = contextlib.AsyncExitStack()

    def party(self, role: Role, name: str, *, foreign: bool = False, **more: Any) -> IdentityFolder:
        federation = self.foreign if foreign else self.federation
        return federation.party(self.folder / f"{role}-{name}-{foreign}", role, name, **more)

    async def session(self, identity: IdentityFolder | None) -> aiohttp.ClientSession:
        """Connect as that party, or as one that has no certificate and knows the root."""
        if identity is None:
            root = self.party("agent", "for-its-root").read("root.pem").decode()
            context = tls.joining_context(root)
        else:
            context = tls.client_context(identity)
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context))
        return await self._sessions.enter_async_context(session)

    async def close(self) -> None:
        await self._sessions.aclose()


@pytest.fixture
async def parties(tmp_path: Path) -> AsyncIterator[Parties]:
    found = Parties(tmp_path / "parties")
    yield found
    await found.close()


@pytest.fixture
async def begin(parties: Parties, start: Start) -> Start:  # in this order: coordinators say goodbye first
    """Return a function that starts a coordinator with TLS and gives it and its URL."""

    async def begin(name: str = "eu", **keys: Any) -> Any:
        identity = parties.party("coordinator", name)
        coordinator = await start(name, insecure=False, identity_dir=str(identity.path), **keys)
        coordinator.url = f"https://127.0.0.1:{coordinator.service.port}"
        return coordinator

    return begin


@pytest.fixture
async def connect(begin: Start, connect: Any) -> AsyncIterator[Any]:
    """Return a function that connects a device; its sockets are closed before its sessions are."""
    opened = []

    async def connected(session: aiohttp.ClientSession, url: str, name: str) -> Any:
        opened.append(await connect(url, name, session=session))
        return opened[-1]

    yield connected
    for device in opened:
        await device.socket.close()


async def status(session: aiohttp.ClientSession, url: str) -> tuple[int, str | None]:
    async with session.get(url) as response:
        return response.status, response.headers.get("Skerry-Refused")


async def test_without_an_identity_it_does_not_start(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="join"):
        await Service(make_config(insecure=False)).start()


async def test_with_the_certificate_of_another_it_does_not_start(make_config: MakeConfig, parties: Parties) -> None:
    for identity in (parties.party("coordinator", "us"), parties.party("agent", "eu")):
        with pytest.raises(ConfigError, match="coordinator 'eu'"):
            await Service(make_config(insecure=False, identity_dir=str(identity.path))).start()


async def test_with_an_expired_certificate_it_does_not_start(make_config: MakeConfig, parties: Parties) -> None:
    identity = parties.party("coordinator", "eu", now_s=time.time() - 100.0, lifetime_s=50.0)
    with pytest.raises(IdentityError, match="expired"):
        await Service(make_config(insecure=False, identity_dir=str(identity.path))).start()


async def test_with_a_key_that_others_may_read_it_does_not_start(make_config: MakeConfig, parties: Parties) -> None:
    identity = parties.party("coordinator", "eu")
    (identity.path / KEY).chmod(0o640)
    with pytest.raises(IdentityError, match="chmod 600"):
        await Service(make_config(insecure=False, identity_dir=str(identity.path))).start()


async def test_roles_are_asked_for_on_real_connections(begin: Start, parties: Parties) -> None:
    """One resource of each kind; tests of `judge` have them all."""
    coordinator = await begin()
    expected: dict[tuple[Role | None, str], dict[str, tuple[int, str | None]]] = {
        (None, ""): {"/readyz": (200, None), "/v1/model": (403, "certificate"), "/nothing": (404, None)},
        ("agent", "pi-1"): {"/v1/model": (200, None), "/v1/region": (200, None), "/v1/admin/status": (403, "role")},
        ("coordinator", "us"): {
            "/v1/federation/status": (200, None),
            "/v1/admin/status": (403, "role"),
            "/v1/agents/stream": (403, "role"),
        },
        ("coordinator", "eu"): {"/v1/admin/status": (200, None)},
        ("admin", "ann"): {
            "/v1/admin/status": (200, None),
            "/metrics": (200, None),
            "/v1/federation/status": (403, "role"),
        },
    }
    for (role, name), answers in expected.items():
        session = await parties.session(None if role is None else parties.party(role, name))
        for path, answer in answers.items():
            assert await status(session, coordinator.url + path) == answer, (role, path)


async def test_a_role_that_an_issuer_may_not_give_counts_for_nothing(begin: Start, parties: Parties) -> None:
    """An issuer that was stolen signs itself an operator's certificate: TLS takes the chain, nobody takes the role."""
    coordinator = await begin()
    forged = parties.party("admin", "mallory", authority=parties.federation.issuer)
    session = await parties.session(forged)
    assert await status(session, coordinator.url + "/v1/admin/status") == (403, "certificate")


async def test_foreign_expired_and_plain_connections_get_no_answer(begin: Start, parties: Parties) -> None:
    coordinator = await begin()
    foreign = parties.party("agent", "pi-1", foreign=True)
    foreign.write("root.pem", parties.party("agent", "pi-2").read("root.pem"))
    expired = parties.party("agent", "pi-3", now_s=time.time() - 100.0, lifetime_s=50.0)
    for identity in (foreign, expired):
        with pytest.raises(aiohttp.ClientError):
            await status(await parties.session(identity), coordinator.url + "/healthz")
    with pytest.raises(aiohttp.ClientError):
        await status(coordinator.http, coordinator.url.replace("https", "http") + "/healthz")
    context = tls.client_context(parties.party("agent", "pi-4"))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as old:
        with pytest.raises(aiohttp.ClientError):
            await status(old, coordinator.url + "/healthz")


async def test_a_device_streams_as_itself_alone(begin: Start, connect: Any, http: Any, parties: Parties) -> None:
    coordinator = await begin()
    session = await parties.session(parties.party("agent", "pi-1"))
    own = await connect(session, coordinator.url, "pi-1")
    thief = type(own)("pi-2", await session.ws_connect(f"{coordinator.url}/v1/agents/stream"))
    await thief.hello()
    refused = await thief.next(Refused)
    assert not refused.retry
    assert "pi-1" in refused.detail
    assert "pi-2" in refused.detail
    await thief.socket.close()
    none = await parties.session(None)
    with pytest.raises(WSServerHandshakeError, match="403"):
        await none.ws_connect(f"{coordinator.url}/v1/agents/stream")


async def test_a_device_that_asks_for_the_model_again_and_again_is_put_off(begin: Start, parties: Parties) -> None:
    coordinator = await begin()
    greedy, other = [await parties.session(parties.party("agent", name)) for name in ("pi-1", "pi-2")]
    answers = [(await status(greedy, coordinator.url + "/v1/model"))[0] for _ in range(20)]
    assert answers[:5] == [200] * 5
    assert 429 in answers
    assert (await status(other, coordinator.url + "/v1/model"))[0] == 200
    operator = await parties.session(parties.party("admin", "ann"))
    assert {(await status(operator, coordinator.url + "/v1/model"))[0] for _ in range(20)} == {200}


async def test_updates_travel_through_tls(begin: Start, parties: Parties, connect: Any) -> None:
    coordinator = await begin()
    device = await connect(await parties.session(parties.party("agent", "pi-1")), coordinator.url, "pi-1")
    version, values = await device.model()
    assert len(values) == 64
    payload = sparse.encode(SparseVector(64, np.array([3, 40]), np.array([1.0, -2.0], np.float32)))
    await device.offer(1, version, payload)
    assert (await device.next(UpdateAccepted)).sequence == 1


async def test_the_stream_of_a_revoked_device_ends_at_once_and_it_does_not_come_back(
    begin: Start, parties: Parties, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    revoked: set[str] = set()

    def is_revoked(self: Service, caller: Identified) -> bool:
        return caller.subject.name in revoked

    monkeypatch.setattr(Service, "_revoked", is_revoked)
    coordinator = await begin()
    sessions = {name: await parties.session(parties.party("agent", name)) for name in ("pi-1", "pi-2")}
    devices = {name: await connect(one, coordinator.url, name) for name, one in sessions.items()}
    revoked.add("pi-1")
    coordinator.service.agents.end_revoked()
    refused = await devices["pi-1"].next(Refused)
    assert (refused.reason, refused.retry) == ("revoked", False)
    with pytest.raises(WSServerHandshakeError) as caught:
        await sessions["pi-1"].ws_connect(f"{coordinator.url}/v1/agents/stream")
    assert caught.value.headers is not None
    assert (caught.value.status, caught.value.headers["Skerry-Refused"]) == (403, "revoked")
    version, _ = await devices["pi-2"].model()
    assert version.number == 0


async def test_a_stream_ends_with_the_certificate_that_it_began_with(
    begin: Start, parties: Parties, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device comes again, with the certificate that it has got meanwhile, or is refused by TLS."""
    coordinator = await begin()
    device = await connect(await parties.session(parties.party("agent", "pi-1")), coordinator.url, "pi-1")
    coordinator.service.agents.end_expired(time.time() + 89 * 86400)
    assert coordinator.service.engine.status().devices["pi-1"].connected
    monkeypatch.setattr(coordinator.service, "_wall_clock", lambda: time.time() + 91 * 86400)
    coordinator.service.housekeep()
    await device.next(Drain)
    assert "pi-1" not in coordinator.service.engine.status().devices


async def test_peers_meet_over_tls_and_take_nobody_else_for_one_of_them(
    begin: Start, parties: Parties, start: Start
) -> None:
    """Where a peer should be stands another coordinator, which has got itself a certificate for that address."""
    eu = await begin("eu", peers={"us": "https://127.0.0.1:1"})
    us = await begin("us", peers={"eu": eu.url})
    impostor = await begin("ap", peers={"eu": eu.url})
    for other, trouble in ((us, None), (impostor, "not of coordinator us")):
        await eu.service.stop()
        eu = await begin(
            "eu", peers={"us": other.url, "ap": "https://127.0.0.1:1"}, listen={"port": int(eu.url.rpartition(":")[2])}
        )
        reachable = eu.service.metrics.peers_reachable
        await until(lambda found=reachable: "us" in found)  # type: ignore[misc]
        session = await parties.session(parties.party("admin", "ann"))
        async with session.get(eu.url + "/v1/admin/status") as response:
            found = (await response.json())["peer_troubles"]["us"]
        assert found == trouble if trouble is None else trouble in found
    session = await parties.session(parties.party("coordinator", "ap"))
    token = frames.encode(TokenPassed("us", BroadcastId(0, 1), {}))
    async with session.get(eu.url + "/v1/region") as response:
        bundle = (await response.json())["bundle"]["sha256"]
    headers = {"Skerry-Bundle": bundle}
    async with session.post(eu.url + "/v1/federation/token", data=token, headers=headers) as response:
        assert response.status == 403
        assert "speaks for itself" in await response.text()


async def answer_to(session: aiohttp.ClientSession, url: str, bundle: str, body: Any) -> tuple[int, str]:
    """Return status and text of the answer to a peer's model."""
    async with asyncio.timeout(10), session.post(url, data=body, headers={"Skerry-Bundle": bundle}) as response:
        return response.status, await response.text()


async def test_of_a_stranger_nothing_is_read_and_of_a_peer_one_model_at_a_time(begin: Start, parties: Parties) -> None:
    """Each takes the memory of a model. Method: bodies that begin and never end."""
    eu = await begin("eu", peers={"us": "https://127.0.0.1:1", "ap": "https://127.0.0.1:1"})
    us, ap, stranger = [await parties.session(parties.party("coordinator", name)) for name in ("us", "ap", "xx")]
    async with us.get(eu.url + "/v1/region") as response:
        bundle = (await response.json())["bundle"]["sha256"]

    async def endless() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    for what in ("model", "token"):
        told = await answer_to(stranger, f"{eu.url}/v1/federation/{what}", bundle, endless())
        assert (told[0], "'xx' is no peer" in told[1]) == (403, True)
    where = f"{eu.url}/v1/federation/model"
    first = asyncio.create_task(answer_to(us, where, bundle, endless()))
    while (told := await answer_to(us, where, bundle, b"x"))[0] == 400:
        pass  # the first has not come yet
    assert (told[0], "still under way" in told[1]) == (503, True)
    assert not first.done()
    assert (await answer_to(ap, where, bundle, b"x"))[0] == 400
    first.cancel()
    while (told := await answer_to(us, where, bundle, b"x"))[0] == 503:
        pass  # it is not gone yet
    assert told[0] == 400


async def test_a_renewed_certificate_is_shown_without_a_restart(begin: Start, parties: Parties) -> None:
    coordinator = await begin()
    before = coordinator.service.credentials.own.serial
    parties.party("coordinator", "eu")  # over the files that are there
    coordinator.service.credentials.reload(time.time())
    assert coordinator.service.credentials.own.serial != before
    context = tls.client_context(parties.party("agent", "pi-1"))
    _, writer = await asyncio.open_connection("127.0.0.1", coordinator.service.port, ssl=context)
    shown = writer.get_extra_info("peercert")["serialNumber"]
    writer.transport.abort()
    assert int(shown, 16) == int(coordinator.service.credentials.own.serial, 16)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - nobody says so
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("foreign", "scheme", "told"),
    [(True, "https", "is of another federation than this identity"), (False, "http", "if it speaks TLS, ask by https")],
)
async def test_a_coordinator_that_answers_is_never_said_not_to_run(
    tmp_path: Path, foreign: bool, scheme: str, told: str
) -> None:
    federation = Federation(time.time())
    asking = (Federation(time.time(), OTHER_FEDERATION) if foreign else federation).party(
        tmp_path / "a", "admin", "ann"
    )
    runner = web.AppRunner(web.Application())
    await runner.setup()
    shown = tls.server_context(federation.party(tmp_path / "eu", "coordinator", "eu-1"))
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=shown).start()
        url = f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
        with pytest.raises(remote.UnexpectedAnswerError, match=told):
            await remote.get(url, "/v1/admin/status", bytes_max=100, context=tls.client_context(asking))
    finally:
        await runner.cleanup()
