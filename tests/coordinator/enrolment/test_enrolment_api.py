"""Joining over TLS, end to end: the client that both services share, and what others are answered."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from coordinator.first_model import STARTING, add_waiting_room
from skerry import joining
from skerry.errors import ConfigError
from skerry.identity import key_file, request, tls
from skerry.identity.authority import Authority, make_key
from skerry.identity.certificate import Subject, der_of, subject_of
from skerry.identity.errors import IdentityError
from skerry.identity.join_token import JoinToken
from skerry.identity.key_file import IdentityFolder
from skerry.joining import ClockError, JoinRefusedError, NotReachedError
from skerry.protocol import frames
from skerry.protocol.messages import Joined, JoinRefused, JoinRequested, Revocations
from tests.coordinator.enrolment.conftest import FEDERATION, Bench, Served
from tests.identity.parties import Federation


@pytest.fixture
def folder(tmp_path: Path) -> IdentityFolder:
    return IdentityFolder(tmp_path / "device")


async def join(served: Served, folder: IdentityFolder, token: JoinToken, **wanted: Any) -> Any:
    defaults: dict[str, Any] = {"role": "agent", "name": "pi", "wall_clock": lambda: served.bench.now_s[0]}
    return await joining.join(served.url, token, folder, **(defaults | wanted))


async def renew(served: Served, folder: IdentityFolder, later_s: float = 0.0, **wanted: Any) -> Any:
    return await joining.renew(served.url, folder, wall_clock=lambda: served.bench.now_s[0] + later_s, **wanted)


async def test_a_device_joins_and_is_then_known(served: Served, folder: IdentityFolder) -> None:
    joined = await join(served, folder, await served.bench.token())
    assert (joined.name, joined.region) == ("pi", "eu")
    (own, _) = folder.certificates(key_file.CERTIFICATE)
    assert subject_of(der_of(own)) == Subject(FEDERATION, "agent", "pi")
    renewed = await renew(served, folder)
    assert renewed.name == "pi"
    assert folder.certificates(key_file.CERTIFICATE)[0].serial_number != own.serial_number


async def test_a_coordinator_joins_and_can_enrol_devices(served: Served, folder: IdentityFolder) -> None:
    token = await served.bench.token(role="coordinator")
    await join(served, folder, token, role="coordinator", name="us-1", addresses=["us.example.org"])
    issuer = folder.authority(key_file.ISSUER_KEY, key_file.ISSUER)
    assert issuer.federation == FEDERATION
    tls.server_context(folder)
    assert (await renew(served, folder, addresses=["us.example.org"])).issuer is not None


@pytest.mark.parametrize("how", ["sooner", "expired", "no authority", "not yet"])
async def test_a_renewal_never_makes_a_certificate_worse(served: Served, folder: IdentityFolder, how: str) -> None:
    """Whatever a coordinator in wrong hands answers: the certificate that counts stays where it is."""
    await join(served, folder, await served.bench.token())
    before = folder.find(key_file.CERTIFICATE).read_bytes()
    desk = served.bench.desk
    (own,) = served.bench.folder.certificates(key_file.CERTIFICATE)
    leaf = Authority(own, served.bench.folder.key(key_file.KEY))
    if how == "sooner":
        desk.authorities = replace(desk.authorities, device_lifetime_s=89 * 86400)
    if how == "no authority":
        desk.authorities = replace(desk.authorities, issuer=leaf)
    later_s = {"expired": 91 * 86400.0, "not yet": -2 * 3600.0}.get(how, 0.0)
    reason = "ends on" if how == "sooner" else "does not count"
    with pytest.raises(NotReachedError, match=reason):
        await renew(served, folder, later_s)
    assert folder.find(key_file.CERTIFICATE).read_bytes() == before


async def test_a_join_token_of_another_federation_is_told_as_such(served: Served, folder: IdentityFolder) -> None:
    token = await served.bench.token()
    foreign = JoinToken(bytes(32), token.identifier, token.secret)
    with pytest.raises(IdentityError, match="of another federation than the coordinator at") as caught:
        await join(served, folder, foreign)
    assert caught.value.exit_code == 7
    assert served.bench.desk.registry.tokens()[0].used == 0, "the secret was sent to a server that is not believed"


@pytest.mark.parametrize(("seconds", "text"), [(-86400, "86400 s behind"), (86400, "86400 s ahead of")])
async def test_a_wrong_clock_is_told_as_such(served: Served, folder: IdentityFolder, seconds: float, text: str) -> None:
    token = await served.bench.token()
    wrong_s = time.time() + seconds
    with pytest.raises(ClockError, match=f"clock is {text}".replace("86400", r"\d{5}") + ".*timedatectl"):
        await join(served, folder, token, wall_clock=lambda: wrong_s)
    assert not folder.holds(key_file.CERTIFICATE)


async def test_a_refusal_is_told_in_the_coordinators_words(
    served: Served, folder: IdentityFolder, tmp_path: Path
) -> None:
    token = await served.bench.token()
    await join(served, folder, token)
    with pytest.raises(JoinRefusedError, match="used up, 1 of 1") as caught:
        await join(served, IdentityFolder(tmp_path / "other"), token, name="other")
    assert (caught.value.reason, caught.value.exit_code) == ("used", 7)


async def test_a_lost_answer_is_fetched_again_with_the_key_that_was_kept(
    served: Served, folder: IdentityFolder
) -> None:
    token = await served.bench.token()
    await join(served, folder, token)
    before = folder.read(key_file.CERTIFICATE)
    (folder.path / key_file.CERTIFICATE).unlink()
    await join(served, folder, token)
    assert folder.read(key_file.CERTIFICATE) == before


@pytest.mark.parametrize("lie", ["name", "another's", "another key", "another root", "garbage", "no issuer"])
async def test_certificates_that_do_not_fit_are_not_kept(
    served: Served, folder: IdentityFolder, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    """Method: a coordinator with a certificate of the federation answers with something else than was asked for."""
    token = await served.bench.token()
    issuer = served.bench.desk.authorities.issuer
    if lie == "another root":
        issuer = Federation(served.bench.now_s[0], FEDERATION).issuer

    async def answer(asked: JoinRequested) -> bytes:
        key = make_key().public_key() if lie == "another key" else request.public_key(asked.request)
        subject = Subject(FEDERATION, asked.role, "other" if lie == "another's" else "pi")
        chain = (der_of(issuer.issue(subject, key, served.bench.now_s[0])), der_of(issuer.certificate))
        name = "other" if lie == "name" else "pi"
        return frames.encode(Joined(name, "eu", (b"\x30\x00",) if lie == "garbage" else chain))

    monkeypatch.setattr(served.bench.desk, "join", answer)
    role = "coordinator" if lie == "no issuer" else "agent"
    with pytest.raises(NotReachedError, match=r"do not fit|gave the name 'other' instead of 'pi'"):
        await join(served, folder, token, role=role)
    assert not folder.holds(key_file.CERTIFICATE)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "127.0.0.1:1", "https://", ""])
async def test_what_is_no_url_is_refused_before_anything_is_sent(
    served: Served, folder: IdentityFolder, url: str
) -> None:
    with pytest.raises(ConfigError, match="no https:// URL"):
        await joining.join(url, await served.bench.token(), folder, role="agent", name="pi", wall_clock=lambda: 0.0)


async def test_where_nobody_listens_that_is_said(served: Served, folder: IdentityFolder) -> None:
    token = await served.bench.token()
    with pytest.raises(NotReachedError, match=r"no connection to https://127\.0\.0\.1:1/.*refused"):
        await joining.join("https://127.0.0.1:1", token, folder, role="agent", name="pi", wall_clock=lambda: 0.0)


@pytest.mark.parametrize("what", ["root", "join"])
async def test_one_that_is_still_starting_says_so(bench: Bench, folder: IdentityFolder, what: str) -> None:
    async def tell_root(_: web.Request) -> web.Response:
        return web.Response(body=bench.desk.root_pem)

    application = web.Application()
    if what == "join":
        application.router.add_get("/v1/enrolment/root", tell_root)
    add_waiting_room(application.router)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls.server_context(bench.folder)).start()
    starting = Served(bench, f"https://127.0.0.1:{runner.addresses[0][1]}")
    with pytest.raises(NotReachedError) as caught:
        await join(starting, folder, await bench.token())
    await runner.cleanup()
    assert str(caught.value) == (
        f"{starting.url}/v1/enrolment/{what}: is not ready now, so try again in a minute; it says: {STARTING}"
    )


async def test_an_address_that_the_server_does_not_have_is_named(served: Served, folder: IdentityFolder) -> None:
    token = await served.bench.token()
    url = served.url.replace("127.0.0.1", "127.0.0.2")
    with pytest.raises(NotReachedError, match=r"not for the address '127\.0\.0\.2'.*--address 127\.0\.0\.2"):
        await joining.join(url, token, folder, role="agent", name="pi", wall_clock=lambda: served.bench.now_s[0])


async def ask(served: Served, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """Ask as somebody who has no certificate."""
    async with (
        aiohttp.ClientSession() as http,
        http.request(method, served.url + path, ssl=tls.unverified_context(), data=body) as response,
    ):
        return response.status, await response.read()


async def test_who_shows_no_certificate_renews_none(served: Served) -> None:
    status, _ = await ask(served, "POST", "/v1/enrolment/renew")
    assert status == 403


@pytest.mark.parametrize("body", [b"", b"\x80", b"garbage", bytes(20000)])
async def test_garbage_is_answered_with_a_refusal(served: Served, body: bytes) -> None:
    status, answer = await ask(served, "POST", "/v1/enrolment/join", body)
    assert (status, frames.decode(answer, JoinRefused, bytes_max=4096).reason) == (400, "malformed")


async def test_a_body_that_is_too_large_is_not_read(served: Served) -> None:
    status, _ = await ask(served, "POST", "/v1/enrolment/join", bytes(40000))
    assert status == 413


class Operator:
    """Asks as an operator's commands do."""

    def __init__(self, served: Served) -> None:
        self.served = served

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        context = tls.client_context(IdentityFolder(self.served.bench.folder.path / "admin"))
        async with (
            aiohttp.ClientSession() as http,
            http.request(method, self.served.url + path, json=body, ssl=context) as response,
        ):
            text = await response.text()
            return response.status, json.loads(text) if response.status == 200 else text


async def test_an_operator_makes_lists_and_revokes_join_tokens(served: Served) -> None:
    operator = Operator(served)
    wanted = {"identifier": "ab" * 8, "secret_sha256": "cd" * 32, "ttl_s": 3600, "uses": 2, "region": "us"}
    status, made = await operator.ask("POST", "/v1/admin/join-tokens", wanted)
    assert status == 200
    assert made["root_sha256"] == served.bench.desk.root_sha256.hex()
    status, listed = await operator.ask("GET", "/v1/admin/join-tokens")
    (one,) = listed["join_tokens"]
    assert (one["identifier"], one["region"], one["uses"], one["used"], one["state"]) == ("ab" * 8, "us", 2, 0, "valid")
    assert "secret" not in json.dumps(listed)
    status, revoked = await operator.ask("POST", f"/v1/admin/join-tokens/{'ab' * 8}/revoke")
    assert (status, revoked["state"]) == (200, "revoked")
    assert (await operator.ask("POST", "/v1/admin/join-tokens/0000/revoke"))[0] == 404
    for broken in ({}, {**wanted, "uses": "many"}, {**wanted, "ttl_s": 1}, {**wanted, "more": 1}):
        assert (await operator.ask("POST", "/v1/admin/join-tokens", broken))[0] == 400


async def test_an_operator_lists_renames_and_revokes_devices(served: Served, folder: IdentityFolder) -> None:
    operator = Operator(served)
    await join(served, folder, await served.bench.token())
    status, renamed = await operator.ask("POST", "/v1/admin/devices/pi/title", {"title": "Kitchen"})
    assert (status, renamed["devices"][0]["title"]) == (200, "Kitchen")
    status, revoked = await operator.ask("POST", "/v1/admin/devices/pi/revoke")
    assert (status, [one["name"] for one in revoked["revoked"]]) == (200, ["pi"])
    _, listed = await operator.ask("GET", "/v1/admin/devices")
    assert [(one["name"], one["title"], one["revoked"]) for one in listed["devices"]] == [
        ("admin", "admin", False),
        ("pi", "Kitchen", True),
        ("eu-1", "eu-1", False),
    ]
    assert (await operator.ask("POST", "/v1/admin/devices/nobody/revoke"))[0] == 404
    with pytest.raises(JoinRefusedError, match="was revoked"):
        await renew(served, folder)


async def test_a_peer_is_told_of_revocations(served: Served) -> None:
    await Operator(served).ask("POST", "/v1/admin/devices/far/revoke", {"key": "ab" * 32})
    _, told = await ask(served, "GET", "/v1/federation/revocations")
    assert frames.decode(told, Revocations, bytes_max=1 << 20) == Revocations((f"agent/far/{'ab' * 32}",), more=False)
    _, told = await ask(served, "GET", f"/v1/federation/revocations?after=agent/far/{'ab' * 32}")
    assert frames.decode(told, Revocations, bytes_max=1 << 20) == Revocations((), more=False)
