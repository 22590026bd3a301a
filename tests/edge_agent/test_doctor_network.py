"""The way to a coordinator, with real names, sockets, TLS servers and certificates."""

import asyncio
import json
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from edge_agent import network_checks
from edge_agent.finding import Finding
from edge_agent.network_checks import OFFSET_FAILURE_S, check_coordinator, check_offset

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command for certificates")

STATUS = {"coordinator": "c-1", "region": "r", "bundle": {"sha256": "ab" * 32, "task": "t"}, "cycle_s": 2.0}


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, ca.pem, what it signed (good, soon, expired, wrong), and what signed itself."""
    folder = tmp_path_factory.mktemp("certificates")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(folder, "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test CA", "-days", "9")
    alone = (
        "-keyout",
        "self.key",
        "-out",
        "self.pem",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
    )
    openssl(folder, "req", "-x509", *key, *alone, "-days", "9")
    for name, host, days in (
        ("good", "localhost", 90),
        ("soon", "localhost", 3),
        ("expired", "localhost", 0),
        ("wrong", "elsewhere.example", 90),
    ):
        openssl(folder, "req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={host}")
        (folder / f"{name}.ext").write_text(f"subjectAltName = DNS:{host}\n")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", f"{name}.ext")
        openssl(folder, "x509", "-req", "-in", f"{name}.csr", *signed, "-days", str(days), "-out", f"{name}.pem")
    time.sleep(1.1)  # the certificate of no days is over in the second after it was made
    return folder


Serve = Callable[..., Awaitable[int]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start a server that answers as a coordinator does, with TLS if asked; returns its port."""
    runners: list[web.AppRunner] = []

    async def start(
        certificate: Path | None = None, *, health: int = 200, streams: bool = True, refused: str = ""
    ) -> int:
        async def stream(request: web.Request) -> web.StreamResponse:
            if not streams:
                raise web.HTTPForbidden(text="no upgrades here")
            upgraded = web.WebSocketResponse()
            await upgraded.prepare(request)
            async for message in upgraded:
                raise AssertionError(f"the doctor said {message}")
            return upgraded

        answers = {
            "/healthz": (health, "ok\n"),
            "/readyz": (200, "ready\n"),
            "/v1/region": (200, json.dumps(STATUS)),
        }

        async def answer(request: web.Request) -> web.Response:
            if refused and request.path == "/v1/region":
                raise web.HTTPForbidden(headers={"Skerry-Refused": refused})
            status, text = answers[request.path]
            return web.Response(status=status, text=text)

        app = web.Application()
        for path in answers:
            app.router.add_get(path, answer)
        app.router.add_get("/v1/agents/stream", stream)
        context = None
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        return int(runner.addresses[0][1])

    yield start
    for runner in runners:
        await runner.cleanup()


async def findings(url: str) -> list[Finding]:
    return list((await check_coordinator(url, time.monotonic, time.time)).findings)


async def test_a_coordinator_with_a_good_certificate(
    certificates: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
    url = f"https://localhost:{await serve(certificates / 'good.pem')}"
    reached = await check_coordinator(url, time.monotonic, time.time)
    assert [one.outcome for one in reached.findings] == ["ok"] * 4, reached.findings
    assert [one.check.partition(":")[0] for one in reached.findings] == ["name", "connection", "coordinator", "time"]
    assert "TLSv1.3" in reached.findings[1].found
    assert "region r, trains abababababab, cycles of 2 s" in reached.findings[2].found
    assert reached.status is not None
    assert reached.status.cycle_s == 2.0


@pytest.mark.parametrize(
    ("certificate", "trusted", "outcome", "found", "remedy"),
    [
        ("expired", True, "failure", "expired", "renew"),
        ("wrong", True, "failure", "mismatch", "name in the certificate"),
        ("self", True, "failure", "self-signed", "authority"),
        ("good", False, "failure", "local issuer", "federation"),
        ("soon", True, "warning", "3.0 days", "renew"),
    ],
)
async def test_a_certificate_that_is_or_will_be_refused(
    certificate: str,
    trusted: bool,
    outcome: str,
    found: str,
    remedy: str,
    certificates: Path,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / ("ca.pem" if trusted else "self.pem")))
    seen = await findings(f"https://localhost:{await serve(certificates / f'{certificate}.pem')}")
    assert seen[1].outcome == outcome, seen
    assert found in seen[1].found.lower().replace("self signed", "self-signed")
    assert remedy in seen[1].remedy
    assert len(seen) == (2 if outcome == "failure" else 4)


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [("revoked", "remove the folder"), ("expired", "skerry-agent join"), ("certificate", "URL"), ("new", "its log")],
)
async def test_a_certificate_that_the_coordinator_refuses(serve: Serve, reason: str, remedy: str) -> None:
    (found,) = (await findings(f"http://127.0.0.1:{await serve(refused=reason)}"))[2:]
    assert found.outcome == "failure"
    assert found.found == f"/v1/region: refuses this device's certificate: {reason}"
    assert remedy in found.remedy


async def test_plain_http_where_tls_was_expected(serve: Serve) -> None:
    seen = await findings(f"https://localhost:{await serve()}")
    assert seen[1].outcome == "failure"
    assert "no TLS" in seen[1].found


async def test_a_name_that_does_not_exist() -> None:
    seen = await findings("https://coordinator.invalid:8470")
    assert [one.outcome for one in seen] == ["failure"]
    assert "coordinator.invalid: cannot be resolved" in seen[0].found
    assert "coordinators" in seen[0].remedy


async def test_nobody_listens() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, so that nobody else takes it; not listening
        seen = await findings(f"http://127.0.0.1:{held.getsockname()[1]}")
    assert [one.outcome for one in seen] == ["ok", "failure"]
    assert "Connection refused" in seen[1].found


async def test_something_else_listens(serve: Serve) -> None:
    seen = await findings(f"http://127.0.0.1:{await serve(health=404)}")
    assert seen[2].outcome == "failure"
    assert "/healthz answers 404" in seen[2].found


async def test_something_that_listens_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_checks, "PATIENCE_S", 0.1)

    listening = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        listening.append(asyncio.current_task())
        await reader.read()
        writer.close()
        await writer.wait_closed()

    silent = await asyncio.start_server(listen, "127.0.0.1", 0)
    async with silent:
        seen = await findings(f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}")
        await asyncio.gather(*(task for task in listening if task is not None))
    assert [one.outcome for one in seen] == ["ok", "ok", "failure"]
    assert "no answer in time" in seen[2].found


async def test_a_proxy_that_lets_no_streams_through(serve: Serve) -> None:
    seen = await findings(f"http://127.0.0.1:{await serve(streams=False)}")
    assert seen[2].outcome == "failure"
    assert "answers 403; a proxy in between must let upgrades through" in seen[2].found


async def test_a_real_coordinator(coordinator_url: str) -> None:
    reached = await check_coordinator(coordinator_url, time.monotonic, time.time)
    assert [one.outcome for one in reached.findings] == ["ok"] * 4, reached.findings
    assert "real-1, region real" in reached.findings[2].found


@pytest.mark.parametrize(
    ("ahead_s", "outcome"),
    [(0.0, "ok"), (-20.0, "ok"), (60.0, "warning"), (-60.0, "warning"), (2 * OFFSET_FAILURE_S, "failure")],
)
def test_clocks_that_differ(ahead_s: float, outcome: str) -> None:
    found = check_offset("https://c", "Wed, 21 Oct 2026 07:28:00 GMT", 1_792_567_680.0 + ahead_s)
    assert found.outcome == outcome
    if outcome != "ok":
        assert f"{abs(ahead_s):.0f} s {'ahead' if ahead_s > 0 else 'behind'}" in found.found


@pytest.mark.parametrize("date", [None, "", "yesterday"])
def test_an_answer_without_a_date(date: str | None) -> None:
    assert check_offset("https://c", date, 0.0).outcome == "warning"
