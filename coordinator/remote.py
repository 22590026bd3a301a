"""Asking a running coordinator over HTTP, for the command line."""

import ssl

import aiohttp

from skerry import connection_error
from skerry.errors import ConfigError, SkerryError

TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=30.0)


class NotRunningError(SkerryError):
    """Nobody answers at that address."""


class UnexpectedAnswerError(SkerryError):
    """Somebody answers, but not as a coordinator should."""


async def get(url: str, path: str, *, bytes_max: int, context: ssl.SSLContext | None = None) -> bytes:
    """Return the body of `url` + `path`; `context` is whom to believe, and as whom to ask, by https.

    Raises:
        ConfigError: `url` is none.
        NotRunningError: there is no connection to be had.
        UnexpectedAnswerError: an error status, or a body of more than `bytes_max` bytes.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"{url!r} is no http:// or https:// URL")
    where = url.rstrip("/") + path
    body = bytearray()
    try:
        async with (
            aiohttp.ClientSession(timeout=TIMEOUT) as session,
            session.get(where, ssl=True if context is None else context) as response,
        ):
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > bytes_max:
                    raise UnexpectedAnswerError(f"{where}: answers with more than {bytes_max} bytes")
    except aiohttp.ClientConnectorCertificateError as error:
        raise UnexpectedAnswerError(f"{url}: {connection_error.disbelief(error.certificate_error)}") from error
    except aiohttp.ServerDisconnectedError as error:
        told = "" if url.startswith("https:") else ": if it speaks TLS, ask by https:// and without --insecure"
        raise UnexpectedAnswerError(f"{url}: closes the connection without an answer{told}") from error
    except TimeoutError as error:
        raise NotRunningError(f"no coordinator is running at {url}: no answer") from error
    except aiohttp.ClientConnectionError as error:
        raise NotRunningError(f"no coordinator is running at {url}: {connection_error.reason(error)}") from error
    except aiohttp.ClientError as error:
        raise UnexpectedAnswerError(f"{where}: {error}") from error
    if response.status != 200:
        raise UnexpectedAnswerError(f"{where}: HTTP {response.status}: {body[:200].decode(errors='replace')}")
    return bytes(body)
