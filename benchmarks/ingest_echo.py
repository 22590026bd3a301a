"""The reference of `benchmarks.ingest`: a bare aiohttp WebSocket that decodes each payload, adds it, and sends it back.

`python -m benchmarks.ingest_echo PORT_FILE SIZE`. Nothing is checked, remembered or written to disk.
"""

import asyncio
import sys
from pathlib import Path

import numpy as np
from aiohttp import WSMsgType, web

from skerry.protocol import sparse


async def serve(port_file: Path, size: int) -> None:
    """Echo for ever."""
    model = np.zeros(size, np.float32)

    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False, max_msg_size=1 << 20)
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                sparse.decode(message.data, size=size).add_to(model)
                await socket.send_bytes(message.data)
        return socket

    application = web.Application()
    application.router.add_get("/v1/agents/stream", echo)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    beside = port_file.with_suffix(".tmp")
    beside.write_text(f"{runner.addresses[0][1]}\n")
    beside.replace(port_file)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
