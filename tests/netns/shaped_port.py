"""A port of loopback that leads over a link: `python -m tests.netns.shaped_port HOST PORT LATENCY_S BITS_PER_S`.

The shape is the relay's of the lab, in user space: it needs nothing of the kernel. Prints the port.
"""

import asyncio
import sys

from testbed.processes.link import Link, Shape
from testbed.processes.relay import Relay


async def serve(host: str, port: int, shape: Shape) -> None:
    """Carry connections until the process ends."""
    relay = Relay(Link(shape, shape), lambda: (host, port))
    await relay.start()
    print(relay.port, flush=True)
    await asyncio.Future()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), Shape(float(sys.argv[3]), float(sys.argv[4]) or None)))
