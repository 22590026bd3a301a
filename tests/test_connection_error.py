"""What is said of connections that fail: real ones, by the client that the services use."""

import socket
import ssl
from typing import Any

import aiohttp
import pytest

from skerry.connection_error import disbelief, reason


async def refused(url: str) -> aiohttp.ClientError:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError) as error:
            await session.get(url)
    return error.value


async def test_a_port_that_nobody_listens_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    error = await refused(f"http://127.0.0.1:{port}")
    assert "ssl:default" in str(error)  # what this module is for
    assert reason(error) == "Connection refused"


async def test_a_name_that_does_not_exist() -> None:
    error = await refused("http://nowhere.invalid:8470")
    assert isinstance(error, aiohttp.ClientConnectorDNSError)
    assert reason(error) == error.os_error.strerror


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
        (ConnectionResetError(), "ConnectionResetError"),
        (OSError("Multiple exceptions: one, another"), "Multiple exceptions: one, another"),
        (aiohttp.ServerDisconnectedError(), "Server disconnected"),
        (aiohttp.ClientPayloadError(), "ClientPayloadError"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "wrong version number"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_whatever_else_goes_wrong_has_words(error: BaseException, told: str) -> None:
    assert told in reason(error)
    assert "ssl:" not in reason(error)


def test_a_certificate_that_is_refused_says_why() -> None:
    host: Any = None
    cause = ssl.SSLCertVerificationError(1, "certificate verify failed: self-signed certificate")
    error = aiohttp.ClientConnectorCertificateError(host, cause)
    assert "self-signed certificate" in reason(error)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (62, "by an address that `init`"),
        (64, "by an address that `init`"),
        (10, "clock"),
        (19, "of another federation than this identity"),
        (20, "of another federation than this identity"),
    ],
)
def test_a_server_that_is_not_believed_has_its_remedy(code: int, told: str) -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, "as OpenSSL says it"
    assert told in disbelief(error)
    assert "as OpenSSL says it" in disbelief(error)
