"""Checks of the way to a coordinator: its name, the connection, the certificate, what it says of itself.

Nothing is said that a coordinator would act on: no Hello, no update.
"""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from edge_agent.finding import Finding, failure, ok, warning
from edge_agent.link_speed import CoordinatorStatus, LinkFailed, LinkRefused, ask_status, open_session
from edge_agent.stream import STREAM_PATH

if TYPE_CHECKING:
    import aiohttp

    from skerry.identity.certificate import Identified

PATIENCE_S = 5.0  # for a name, a connection, a handshake, each
NAME_WARNING_S = 1.0
EXPIRY_WARNING_S = 14 * 86400.0
OFFSET_WARNING_S = 30.0
OFFSET_FAILURE_S = 3600.0
EXPIRED, NOT_YET_VALID, SELF_SIGNED, SELF_SIGNED_ABOVE, NO_ISSUER, WRONG_NAME, WRONG_ADDRESS = 10, 9, 18, 19, 20, 62, 64
REMEDIES = {  # by OpenSSL's X509_V_ERR_ numbers
    EXPIRED: "renew the coordinator's certificate; if that is valid, this device's clock is wrong",
    NOT_YET_VALID: "set this device's clock; if that is right, the certificate was made for later",
    SELF_SIGNED: "its authority is not the one of the federation that this device has joined: correct the URL, or join "
    "that one",
    WRONG_NAME: "use the name in the certificate as the coordinator's URL, or have the certificate made for this name",
}
REMEDIES |= {SELF_SIGNED_ABOVE: REMEDIES[SELF_SIGNED], NO_ISSUER: REMEDIES[SELF_SIGNED]}
REMEDIES |= {WRONG_ADDRESS: REMEDIES[WRONG_NAME]}
REFUSAL_REMEDIES = {  # by what the coordinator says of the certificate
    "revoked": "remove the folder of this device's identity, and join with a new join token",
    "expired": "skerry-agent join URL --token-file FILE",
    "certificate": "join the federation of this coordinator, or correct the URL",
    "role": "this is no device's certificate: remove the identity's folder, and join as an agent",
}


@dataclass(frozen=True, slots=True)
class Reached:
    """What was found out about one coordinator."""

    findings: tuple[Finding, ...]
    status: CoordinatorStatus | None  # None: it could not be asked


async def check_coordinator(
    url: str, clock: Callable[[], float], wall_clock: Callable[[], float], context: ssl.SSLContext | None = None
) -> Reached:
    """Go the whole way to the coordinator at the base URL `url`; stops where it ends.

    `context` is what the device shows by https; None: it has no identity, and sees what it can see without.
    """
    findings = [await check_name(url, clock)]
    if findings[-1].outcome != "failure":
        findings.append(await check_connection(url, wall_clock, context))
    if findings[-1].outcome == "failure":
        return Reached(tuple(findings), None)
    answered, status = await check_answers(url.rstrip("/"), wall_clock, context)
    return Reached((*findings, *answered), status)


def check_own_certificate(own: "Identified", now_s: float) -> Finding:
    """Look at the device's own certificate, which is in force: the agent should have renewed it at half of its life."""
    from skerry.identity.own import renewal_due_s

    found = f"{own.subject.uri}, for another {(own.not_after_s - now_s) / 86400:.1f} days"
    overdue_s, left_s = -renewal_due_s(own, now_s), own.not_after_s - now_s
    if overdue_s > left_s:  # three quarters are over
        return warning("identity", f"{found}; it should have been renewed", "the agent's log says why it was not")
    return ok("identity", found)


async def check_name(url: str, clock: Callable[[], float]) -> Finding:
    """Resolve the coordinator's name."""
    host, port, check = *_host_and_port(url), f"name: {url}"
    started_s = clock()
    try:
        async with asyncio.timeout(PATIENCE_S):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        return failure(check, f"{host}: no answer within {PATIENCE_S:g} s", "check the network and /etc/resolv.conf")
    except (OSError, UnicodeError) as error:
        return failure(
            check,
            f"{host}: cannot be resolved: {getattr(error, 'strerror', None) or error}",
            "correct `coordinators`; if the name is right, check the network and /etc/resolv.conf",
        )
    addresses = ", ".join(sorted({str(entry[4][0]) for entry in found}))
    took_s = clock() - started_s
    if took_s > NAME_WARNING_S:
        return warning(check, f"{host} is {addresses}, found after {took_s:.1f} s", "check /etc/resolv.conf")
    return ok(check, f"{host} is {addresses}")


async def check_connection(url: str, wall_clock: Callable[[], float], context: ssl.SSLContext | None = None) -> Finding:
    """Connect; with https, look at the certificate as the agent will."""
    host, port, check = *_host_and_port(url), f"connection: {url}"
    secure = url.startswith("https://")
    if secure and context is None:
        context = ssl.create_default_context()
    try:
        async with _connected(host, port, context) as writer:
            if not secure:
                return ok(check, f"connected to {host} port {port}; plain http, on this machine only")
            return _check_certificate(check, writer.get_extra_info("ssl_object"), wall_clock())
    except ssl.SSLCertVerificationError as error:
        remedy = REMEDIES.get(error.verify_code, REMEDIES[SELF_SIGNED])
        return failure(check, f"{host} port {port}: certificate refused: {error.verify_message}", remedy)
    except ssl.SSLError as error:
        return failure(
            check,
            f"{host} port {port}: no TLS: {error.reason or error}",
            "the port may speak plain http, or a proxy is in between: correct the URL",
        )
    except TimeoutError:
        return failure(
            check, f"{host} port {port}: no answer within {PATIENCE_S:g} s", "check port, firewall and network"
        )
    except OSError as error:
        return failure(
            check,
            f"{host} port {port}: {os.strerror(error.errno) if error.errno else error}",
            "start the coordinator, or correct host and port of the URL",
        )


async def check_answers(
    url: str, wall_clock: Callable[[], float], context: ssl.SSLContext | None
) -> tuple[tuple[Finding, ...], CoordinatorStatus | None]:
    """Ask the coordinator for signs of life, the time and its task, and open a stream without saying anything."""
    check = f"coordinator: {url}"
    status: CoordinatorStatus | None = None
    try:
        async with open_session(context, url) as session, asyncio.timeout(4 * PATIENCE_S):
            async with session.get(f"{url}/healthz") as response:
                date, health = response.headers.get("Date"), response.status
                await response.content.read(1024)
            clock = check_offset(url, date, wall_clock())
            if health != 200:
                return (failure(check, f"/healthz answers {health}", "is this a coordinator's address?"), clock), None
            async with session.get(f"{url}/readyz") as response:
                ready = response.status == 200
            status = await ask_status(session, url)
            await _try_stream(session, url)
    except LinkRefused as error:
        return (failure(check, _of(url, error), REFUSAL_REMEDIES.get(error.reason, "look at its log")),), None
    except LinkFailed as error:
        remedy = "is this a coordinator's address, and of this version? If so, look at its log"
        return (failure(check, _of(url, error), remedy),), None
    found = (
        f"{status.coordinator}, region {status.region}, trains {status.bundle.sha256[:12]}, "
        f"cycles of {status.cycle_s:.3g} s; streams are let through"
    )
    if not ready:
        return (
            warning(check, f"{found}; it takes no more agents now", "wait until it has room, or is up again"),
            clock,
        ), status
    return (ok(check, found), clock), status


def check_offset(url: str, date: str | None, now_s: float) -> Finding:
    """Compare this device's clock with the Date header of an answer, which is exact to the second."""
    check = f"time: {url}"
    try:
        offset_s = now_s - parsedate_to_datetime(date or "").timestamp()
    except (ValueError, TypeError):
        return warning(
            check, "the coordinator does not say what time it is", "a proxy in between drops its Date header"
        )
    if abs(offset_s) < OFFSET_WARNING_S:
        return ok(check, "the clocks agree")
    found = f"this device's clock is {abs(offset_s):.0f} s {'ahead' if offset_s > 0 else 'behind'}"
    remedy = "set the clock: `timedatectl set-ntp true`; if it is right, set the coordinator's"
    return (failure if abs(offset_s) > OFFSET_FAILURE_S else warning)(check, found, remedy)


def _of(url: str, error: LinkFailed) -> str:
    """Return what went wrong at `url`, which the check names already."""
    return str(error).removeprefix(url).removeprefix(": ")


async def _try_stream(session: "aiohttp.ClientSession", url: str) -> None:
    """Open a WebSocket as the agent does, and close it: proxies that let none through show themselves."""
    import aiohttp

    try:
        socket_ = await session.ws_connect(f"{url}{STREAM_PATH}", compress=0)
    except aiohttp.WSServerHandshakeError as error:
        raise LinkFailed(
            f"{url}{STREAM_PATH}: no WebSocket: answers {error.status}; a proxy in between must let upgrades through"
        ) from error
    await socket_.close()


@contextlib.asynccontextmanager
async def _connected(host: str, port: int, context: ssl.SSLContext | None) -> AsyncIterator[asyncio.StreamWriter]:
    async with asyncio.timeout(PATIENCE_S):
        _, writer = await asyncio.open_connection(
            host, port, ssl=context, server_hostname=host if context is not None else None
        )
    try:
        yield writer
    finally:
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await writer.wait_closed()


def _check_certificate(check: str, tls: ssl.SSLObject, now_s: float) -> Finding:
    """Look at a certificate that was accepted."""
    certificate: dict[str, Any] = tls.getpeercert() or {}
    left_s = ssl.cert_time_to_seconds(certificate["notAfter"]) - now_s
    found = f"{tls.version()}, certificate valid until {certificate['notAfter']}"
    if left_s < EXPIRY_WARNING_S:
        return warning(check, f"{found}: {left_s / 86400:.1f} days", "renew the coordinator's certificate")
    return ok(check, found)


def _host_and_port(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
