"""What the way to a coordinator can carry, measured with what every coordinator serves; bounded in time and bytes.

Round trips are requests of `/healthz` on one connection. Downwards the bundle is fetched again and again. Upwards a
coordinator takes bytes of a device only as updates, and a measurement must not send any: that is not measured.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from statistics import mean, median
from typing import TYPE_CHECKING

import msgspec

from edge_agent.stream import REFUSED_HEADER
from skerry import connection_error
from skerry.errors import SkerryError

if TYPE_CHECKING:
    import aiohttp

ROUND_TRIPS = 30
BYTES_MAX = 16 << 20  # downwards
DOWN_SECONDS_MAX = 5.0
TIMEOUT_S = 10.0  # without a byte
STATUS_BYTES_MAX = 8 << 20
REASON_CHARS_MAX = 40
CHUNK_BYTES = 64 << 10
USER_AGENT = "skerry-agent"


class LinkFailed(SkerryError):  # noqa: N818 - the world's fault
    """The coordinator does not answer, or not as one."""


class LinkRefused(LinkFailed):
    """A coordinator answers, and refuses this device's certificate; `reason` is its word for why."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: refuses this device's certificate: {reason}")
        self.reason = reason


class _BundleName(msgspec.Struct):
    sha256: str


class CoordinatorStatus(msgspec.Struct):
    """What is read of `/v1/region`."""

    coordinator: str
    region: str
    bundle: _BundleName
    cycle_s: float


@dataclass(frozen=True, slots=True)
class LinkSpeed:
    """What was found."""

    round_trips_s: tuple[float, ...]  # not empty
    down_bytes_per_s: float | None  # None: there was nothing to fetch

    @property
    def round_trip_s(self) -> float:
        """Median."""
        return median(self.round_trips_s)

    @property
    def latency_s(self) -> float:
        """One way: half of the shortest round trip."""
        return min(self.round_trips_s) / 2

    @property
    def jitter_s(self) -> float:
        """Mean of what one way takes beyond that."""
        return (mean(self.round_trips_s) - min(self.round_trips_s)) / 2


@contextlib.asynccontextmanager
async def open_session(context: ssl.SSLContext | None, url: str) -> "AsyncIterator[aiohttp.ClientSession]":
    """Give a session for one coordinator; `context` is what the device shows by https.

    Raises:
        LinkFailed: whatever goes wrong with a connection inside.
    """
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT_S, sock_read=TIMEOUT_S)
    if context is None and url.startswith("https://"):
        context = ssl.create_default_context()  # of its own: aiohttp's does not see certificates added since its import
    connector = None if context is None else aiohttp.TCPConnector(ssl=context)
    try:
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, headers={"User-Agent": USER_AGENT}
        ) as session:
            yield session
    except TimeoutError as error:
        raise LinkFailed(f"{url}: no answer in time") from error
    except (aiohttp.ClientError, OSError) as error:
        raise LinkFailed(f"{url}: {connection_error.reason(error)}") from error


async def ask_status(session: "aiohttp.ClientSession", url: str) -> CoordinatorStatus:
    """Return what the coordinator says of itself.

    Raises:
        LinkFailed: it says nothing of the kind.
    """
    where = f"{url}/v1/region"
    async with session.get(where) as response:
        body = await response.content.read(STATUS_BYTES_MAX)
    if response.status == 403 and (reason := response.headers.get(REFUSED_HEADER)) is not None:
        raise LinkRefused(where, "".join(one if one.isprintable() else "?" for one in reason[:REASON_CHARS_MAX]))
    if response.status != 200:
        raise LinkFailed(f"{where}: answers {response.status}; is this a coordinator?")
    try:
        return msgspec.json.decode(body, type=CoordinatorStatus)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise LinkFailed(f"{where}: is no coordinator's status: {error}") from error


async def measure_link(url: str, clock: Callable[[], float], context: ssl.SSLContext | None = None) -> LinkSpeed:
    """Measure the way to the coordinator at the base URL `url`, in at most some ten seconds and BYTES_MAX.

    Raises:
        LinkFailed: it does not answer.
    """
    url = url.rstrip("/")
    async with open_session(context, url) as session:
        await _round_trip_s(session, url, clock)  # makes the connection
        trips = [await _round_trip_s(session, url, clock) for _ in range(ROUND_TRIPS)]
        status = await ask_status(session, url)
        down = await _down(session, f"{url}/v1/bundles/{status.bundle.sha256}", min(trips), clock)
    return LinkSpeed(tuple(trips), down)


async def _round_trip_s(session: "aiohttp.ClientSession", url: str, clock: Callable[[], float]) -> float:
    started_s = clock()
    async with session.get(f"{url}/healthz") as response:
        await response.content.read(1024)
    if response.status != 200:
        raise LinkFailed(f"{url}/healthz: answers {response.status}; is this a coordinator?")
    return clock() - started_s


async def _down(
    session: "aiohttp.ClientSession", url: str, round_trip_s: float, clock: Callable[[], float]
) -> float | None:
    """Return bytes per second of fetching `url` until time or bytes are used up; each request's round trip aside."""
    received, seconds, started_s = 0, 0.0, clock()
    while received < BYTES_MAX and clock() - started_s < DOWN_SECONDS_MAX:
        request_s, before = clock(), received
        async with session.get(url) as response:
            if response.status != 200:
                return None
            async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                received += len(chunk)
                if received >= BYTES_MAX or clock() - started_s >= DOWN_SECONDS_MAX:
                    response.close()
                    break
        if received == before:
            return None
        seconds += max(clock() - request_s - round_trip_s, 1e-6)
        await asyncio.sleep(0)
    return received / seconds
