"""One peer over HTTP: a request and its answer, and what is told in pages."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import quote

import aiohttp

from skerry import connection_error
from skerry.protocol import frames
from skerry.protocol.errors import MalformedMessage

if TYPE_CHECKING:
    from typing_extensions import TypeForm

ANSWER_BYTES_MAX = 64 << 10
CHUNK_BYTES = 64 << 10  # of a message that is being sent; each must get away within the progress time-out

T = TypeVar("T")


class PeerError(Exception):
    """A peer did not answer as it should; its text says how."""


class NoAnswerError(PeerError):
    """A peer cannot be reached, or is starting or stopping."""


class Place(NamedTuple):
    """How far one has come in what is told in pages."""

    up_to: str
    more: bool


class PeerLink:
    """Where a peer is, and what was exchanged with it."""

    def __init__(self, name: str, url: str, progress_timeout_s: float) -> None:
        self.name = name
        self.url = url.rstrip("/")
        self._progress_timeout_s = progress_timeout_s
        self.sent_bytes = 0
        self.received_bytes = 0

    async def exchange(
        self,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        body: bytes = b"",
        bytes_max: int = ANSWER_BYTES_MAX,
    ) -> bytes:
        """Return the peer's answer to one request. Only lack of progress times out, not the length of the message.

        Raises:
            PeerError: no answer, or none that can be used.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._progress_timeout_s) as deadline:

                def progressed() -> None:
                    deadline.reschedule(loop.time() + self._progress_timeout_s)

                request = session.request(
                    method,
                    f"{self.url}/v1/federation/{path}",
                    data=_chunks(body, progressed) if body else None,
                    headers={"Content-Length": str(len(body))} if body else None,
                    allow_redirects=False,
                )
                async with request as response:
                    data = bytearray()
                    while not response.content.at_eof() and len(data) < bytes_max:
                        data += await response.content.read(min(CHUNK_BYTES, bytes_max - len(data)))
                        progressed()
        except TimeoutError:
            raise NoAnswerError(f"no progress for {self._progress_timeout_s:g} s") from None
        except aiohttp.ClientConnectorError as error:
            raise NoAnswerError(f"no connection to {self.url}: {connection_error.reason(error)}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise NoAnswerError(connection_error.reason(error)) from None
        self.sent_bytes += len(body)
        self.received_bytes += len(data)
        if response.status != 200:
            kind = PeerError if response.status < 500 else NoAnswerError
            raise kind(f"HTTP {response.status}: {data[:200].decode(errors='replace')}")
        return bytes(data)

    async def read_pages(
        self,
        session: aiohttp.ClientSession,
        path: str,
        after: str,
        pages_max: int,
        take: Callable[[bytes], Awaitable[Place]],
    ) -> bool:
        """Ask for one page after the other, from `after` on; return whether they were read to their end.

        Args:
            session: to ask with.
            path: with its query, to which the place that one has come to is added.
            after: that place.
            pages_max: a peer that always has more keeps nobody busy for longer.
            take: takes a page.

        Raises:
            PeerError: no answer, or none that can be used; and what `take` raises.
        """
        for _ in range(pages_max):
            after, more = await take(await self.exchange(session, "GET", path + quote(after)))
            if not more:
                return True
        return False


def decode(answer: bytes, kind: "TypeForm[T]") -> T:
    """Read an answer, which was bounded when it came.

    Raises:
        PeerError: it is none of that kind.
    """
    try:
        return frames.decode(answer, kind, bytes_max=len(answer))
    except MalformedMessage as error:
        raise PeerError(f"not an answer: {error}") from None


async def _chunks(body: bytes, progressed: Callable[[], None]) -> AsyncIterator[bytes]:
    """Yield `body` piece by piece; the next piece is asked for when the one before has left."""
    for start in range(0, len(body), CHUNK_BYTES):
        progressed()
        yield body[start : start + CHUNK_BYTES]
    progressed()
