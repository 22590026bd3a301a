"""How long a coordinator takes to answer, over the agent's own network."""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import aiohttp

READY_PATH = "/readyz"
ANSWER_S = 2.0  # one that takes longer counts as none


async def round_trips_s(session: "aiohttp.ClientSession", urls: Iterable[str]) -> dict[str, float | None]:
    """Return by base URL the seconds of one request; None: nobody answers there, or does not take agents now."""
    wanted = list(urls)
    return dict(zip(wanted, await asyncio.gather(*(_round_trip_s(session, url) for url in wanted)), strict=True))


async def _round_trip_s(session: "aiohttp.ClientSession", url: str) -> float | None:
    import aiohttp

    loop = asyncio.get_running_loop()
    seconds = None
    try:
        async with asyncio.timeout(ANSWER_S):
            for _ in range(2):  # the first one may have to connect
                began_s = loop.time()
                async with session.get(url + READY_PATH, allow_redirects=False) as response:
                    if response.status != 200:
                        return None
                seconds = loop.time() - began_s
    except (TimeoutError, aiohttp.ClientError, OSError):
        return None
    return seconds
