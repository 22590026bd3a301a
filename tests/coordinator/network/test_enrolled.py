"""Enrolment in a running coordinator: who joins is served, who is revoked is not, in no region and after no restart."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from coordinator import peers as peers_module
from coordinator import roaming
from coordinator import stream as streams
from coordinator.enrolment.operator import Operator
from coordinator.events import DeviceDisconnected, Event, TrafficCounted
from skerry import joining
from skerry.identity import tls
from skerry.identity.certificate import fingerprint, key_sha256
from skerry.identity.join_token import JoinToken, secret_sha256
from skerry.identity.key_file import IdentityFolder
from skerry.protocol import sparse
from skerry.protocol.messages import Heartbeat, Refused
from skerry.vector import SparseVector
from tests.coordinator.network.conftest import Device
from tests.coordinator.network.test_coordinator_tls import Parties
from tests.identity.parties import certificate_of

Start = Callable[..., Awaitable[Any]]


@pytest.fixture
async def parties(tmp_path: Path) -> AsyncIterator[Parties]:
    found = Parties(tmp_path / "parties")
    yield found
    await found.close()


@pytest.fixture
async def begin(parties: Parties, start: Start) -> Start:
    """Return a function that starts a coordinator with TLS on the port that is given, and gives it and its URL."""

    async def begin(name: str = "eu", **keys: Any) -> Any:
        identity = parties.party("coordinator", name)
        coordinator = await start(name, insecure=False, identity_dir=str(identity.path), **keys)
        coordinator.url = f"https://127.0.0.1:{coordinator.service.port}"
        return coordinator

    return begin


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as found:
        yield found


async def operate(parties: Parties, url: str, path: str, body: dict[str, Any]) -> Any:
    return await Operator(url, tls.client_context(parties.party("admin", "ann"))).post(path, body)


async def enrol(parties: Parties, url: str, name: str, folder: Path) -> IdentityFolder:
    """Make a join token and join with it, as an operator and a device do."""
    root = parties.federation.root.certificate
    token = JoinToken(fingerprint(root), secrets.token_bytes(8), secrets.token_bytes(16))
    wanted = {
        "identifier": token.identifier.hex(),
        "secret_sha256": secret_sha256(token.secret).hex(),
        "ttl_s": 600,
        "uses": 1,
    }
    await operate(parties, url, "/v1/admin/join-tokens", wanted)
    identity = IdentityFolder(folder)
    await joining.join(url, token, identity, role="agent", name=name, wall_clock=lambda: parties.federation.now_s)
    return identity


async def stream(stack: AsyncExitStack, connect: Any, identity: IdentityFolder, url: str, name: str) -> Any:
    connector = aiohttp.TCPConnector(ssl=tls.client_context(identity))
    session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
    device = await connect(url, name, session=session)
    stack.push_async_callback(device.socket.close)
    return device


async def refusal(stack: AsyncExitStack, identity: IdentityFolder, url: str) -> tuple[int, str | None]:
    connector = aiohttp.TCPConnector(ssl=tls.client_context(identity), force_close=True)
    session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
    async with session.get(f"{url}/v1/model") as response:
        return response.status, response.headers.get("Skerry-Refused")


async def test_a_device_joins_streams_and_is_shut_out_for_good(
    begin: Start, parties: Parties, connect: Any, stack: AsyncExitStack, tmp_path: Path
) -> None:
    coordinator = await begin()
    identity = await enrol(parties, coordinator.url, "pi-1", tmp_path / "pi-1")
    device = await stream(stack, connect, identity, coordinator.url, "pi-1")
    other = await stream(
        stack, connect, await enrol(parties, coordinator.url, "pi-2", tmp_path / "pi-2"), coordinator.url, "pi-2"
    )
    await operate(parties, coordinator.url, "/v1/admin/devices/pi-1/revoke", {})
    refused = await device.next(Refused)
    assert (refused.reason, refused.retry) == ("revoked", False)
    assert await refusal(stack, identity, coordinator.url) == (403, "revoked")
    assert not other.socket.closed
    port = coordinator.service.port
    await coordinator.service.stop()
    restarted = await begin(listen={"port": port})
    assert await refusal(stack, identity, restarted.url) == (403, "revoked")


async def test_a_socket_that_was_opened_before_a_revocation_says_hello_in_vain(
    begin: Start, parties: Parties, stack: AsyncExitStack, tmp_path: Path
) -> None:
    coordinator = await begin()
    identity = await enrol(parties, coordinator.url, "pi-1", tmp_path / "pi-1")
    connector = aiohttp.TCPConnector(ssl=tls.client_context(identity))
    session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
    spare = Device("pi-1", await session.ws_connect(f"{coordinator.url}/v1/agents/stream"))
    stack.push_async_callback(spare.socket.close)
    await operate(parties, coordinator.url, "/v1/admin/devices/pi-1/revoke", {})
    await spare.hello()
    refused = await spare.receive()
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.retry) == ("revoked", False)


async def test_one_device_cannot_take_all_places_with_sockets_that_say_nothing(
    begin: Start, parties: Parties, connect: Any, stack: AsyncExitStack, tmp_path: Path
) -> None:
    coordinator = await begin()
    greedy = await enrol(parties, coordinator.url, "pi-1", tmp_path / "pi-1")
    modest = await enrol(parties, coordinator.url, "pi-2", tmp_path / "pi-2")
    connector = aiohttp.TCPConnector(ssl=tls.client_context(greedy))
    session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
    silent = []
    for _ in range(streams.SILENT_MAX + 1):
        silent.append(Device("pi-1", await session.ws_connect(f"{coordinator.url}/v1/agents/stream")))
        stack.push_async_callback(silent[-1].socket.close)
    refused = await silent.pop().receive()
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.retry) == ("busy", True)
    await stream(stack, connect, modest, coordinator.url, "pi-2")
    await silent.pop().hello()  # which gives its place to another one
    await stream(stack, connect, greedy, coordinator.url, "pi-1")


async def test_an_update_that_is_being_read_when_its_device_is_revoked_does_not_count(
    begin: Start,
    parties: Parties,
    connect: Any,
    stack: AsyncExitStack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading, may_go_on = asyncio.Event(), asyncio.Event()

    async def slow(function: Callable[[], Any]) -> Any:
        reading.set()
        await may_go_on.wait()
        return function()

    coordinator = await begin()
    agents, submitted = coordinator.service.agents, list[Event]()
    identity = await enrol(parties, coordinator.url, "pi-1", tmp_path / "pi-1")
    device = await stream(stack, connect, identity, coordinator.url, "pi-1")
    version, values = await device.model()
    monkeypatch.setattr(streams, "DECODE_INLINE_BYTES_MAX", 0)
    monkeypatch.setattr(agents, "_run_in_thread", slow)
    monkeypatch.setattr(agents.region, "submit", submitted.append)
    await device.offer(1, version, sparse.encode(SparseVector.full(values)))
    await reading.wait()
    await operate(parties, coordinator.url, "/v1/admin/devices/pi-1/revoke", {})
    may_go_on.set()
    async with asyncio.timeout(20):
        while agents._open:  # noqa: ASYNC110 - until nothing reads the stream any more
            await asyncio.sleep(0.005)
    assert [type(event) for event in submitted if not isinstance(event, TrafficCounted)] == [DeviceDisconnected]


async def test_who_is_shut_out_in_one_region_is_shut_out_in_all(
    begin: Start,
    parties: Parties,
    connect: Any,
    stack: AsyncExitStack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The device joined at eu and streams to us, which learns of the revocation from eu."""
    monkeypatch.setattr(peers_module, "POLL_S", 0.02)
    eu = await begin("eu", peers={"us": "https://127.0.0.1:1"})
    us = await begin("us", peers={"eu": eu.url})
    identity = await enrol(parties, eu.url, "pi-1", tmp_path / "pi-1")
    device = await stream(stack, connect, identity, us.url, "pi-1")
    await operate(parties, eu.url, "/v1/admin/devices/pi-1/revoke", {})
    async with asyncio.timeout(20):
        refused = await device.next(Refused)
    assert refused.reason == "revoked"
    assert us.service.desk.digest == eu.service.desk.digest
    assert await refusal(stack, identity, us.url) == (403, "revoked")


async def test_devices_are_told_no_more_of_a_coordinator_that_was_revoked(
    begin: Start,
    parties: Parties,
    connect: Any,
    stack: AsyncExitStack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither in a welcome, nor where their stream has stood for long."""
    monkeypatch.setattr(peers_module, "POLL_S", 0.02)
    monkeypatch.setattr(roaming, "ALIVE_S", 0.5)
    urls = {name: f"https://{name}.example.org:1" for name in ("eu", "us")}
    us = await begin("us", url=urls["us"])
    eu = await begin("eu", url=urls["eu"], peers={"us": us.url})
    identity = await enrol(parties, eu.url, "pi-1", tmp_path / "pi-1")
    device = await stream(stack, connect, identity, eu.url, "pi-1")
    named: dict[str, str] = {}

    async def until_named(expected: dict[str, str]) -> None:
        nonlocal named
        async with asyncio.timeout(20):
            while named != expected:
                await device.send(Heartbeat(1.0))
                named = (await device.next(Heartbeat)).coordinators or named
                await asyncio.sleep(0.02)

    await until_named(urls)
    await device.send(Heartbeat(1.0))
    assert await device.next(Heartbeat) == Heartbeat(1.0)  # it was told of them
    key = key_sha256(certificate_of(parties.party("coordinator", "us")).public_key())
    await operate(parties, eu.url, "/v1/admin/devices/us/revoke", {"role": "coordinator", "key": key})
    await until_named({"eu": urls["eu"]})
    async with asyncio.timeout(20):
        while (await stream(stack, connect, identity, eu.url, "pi-1")).welcome.coordinators != {"eu": urls["eu"]}:
            pass


async def test_a_second_key_under_an_enrolled_name_is_not_served(
    begin: Start, parties: Parties, stack: AsyncExitStack, tmp_path: Path
) -> None:
    """Method: another coordinator of the federation has signed a certificate for the same name."""
    coordinator = await begin()
    await enrol(parties, coordinator.url, "pi-1", tmp_path / "pi-1")
    assert await refusal(stack, parties.party("agent", "pi-1"), coordinator.url) == (403, "revoked")
