"""Which coordinators one names now, asked for: a stream that stands for weeks is told of them only in its welcome."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from skerry.protocol.limits import MAP_ENTRIES_MAX
from skerry.protocol.messages import Name, Url

if TYPE_CHECKING:
    import aiohttp

PATH = "/v1/region"
ANSWER_S = 10.0
ANSWER_BYTES_MAX = 64 << 10


class _About(msgspec.Struct):
    """What is read of the answer."""

    coordinators: Annotated[dict[Name, Url], Meta(max_length=MAP_ENTRIES_MAX)]


async def named_coordinators(session: "aiohttp.ClientSession", url: str) -> dict[str, str] | None:
    """Return name and base URL of those that the coordinator at `url` names; None: it does not answer, or not that."""
    import aiohttp

    answer = bytearray()
    try:
        async with asyncio.timeout(ANSWER_S), session.get(url + PATH, allow_redirects=False) as response:
            async for chunk in response.content.iter_any():
                answer += chunk
                if len(answer) > ANSWER_BYTES_MAX:
                    return None
        return msgspec.json.decode(answer, type=_About).coordinators
    except (TimeoutError, aiohttp.ClientError, OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
