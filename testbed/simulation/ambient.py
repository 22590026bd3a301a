"""What code takes from its process without being handed it: chance, clocks, garbage collection. As the seed says.

Our own services are handed theirs. These are for the libraries below them: aiohttp draws WebSocket masks and keys,
dates its responses, and lets idle connections expire.
"""

import gc
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp.connector
import numpy.random  # noqa: F401 - draws when it is imported, which must not be while a world runs
from aiohttp._websocket.writer import WebSocketWriter

from testbed.simulation.clock import START_S

OBJECTS = 10_000  # made and not freed again before garbage is looked for: a message needs hundreds, for a moment


@contextmanager
def collecting_anew() -> Iterator[None]:
    """Within, what is made there alone decides when garbage is collected: finalizers may close connections.

    What is there before counts no more, nor in later worlds, and is never found to be garbage: so this comes before
    anything of a world is made. Looking through all of a large process before each of many small worlds would take
    longer than they do.
    """
    threshold = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS, *threshold[1:])
    gc.collect()
    try:
        yield
    finally:
        gc.set_threshold(*threshold)


@contextmanager
def seeded(seed: int, clock: Callable[[], float]) -> Iterator[None]:
    """Within, what the process offers follows from `seed` and `clock` (virtual seconds); afterwards it is as before."""
    streams = [random.Random(f"{seed}/{name}") for name in ("global", "masks", "system")]  # noqa: S311 - a simulation
    masks = _mask_source()
    before = random.getstate(), masks.getstate()
    random.setstate(streams[0].getstate())
    masks.setstate(streams[1].getstate())
    system = streams[2].randbytes

    def wall() -> float:
        return START_S + clock()

    offered: list[tuple[Any, str, Callable[..., Any]]] = [
        (os, "urandom", system),
        (random, "_urandom", system),
        (time, "time", wall),
        (time, "monotonic", clock),
        (aiohttp.connector, "monotonic", clock),
    ]
    real = [(module, name, getattr(module, name)) for module, name, _ in offered]
    try:
        for module, name, virtual in offered:
            setattr(module, name, virtual)
        yield
    finally:
        for module, name, before_it in real:
            setattr(module, name, before_it)
        random.setstate(before[0])
        masks.setstate(before[1])


def _mask_source() -> random.Random:
    """Return what all WebSocket writers of this process share: the default of an argument."""
    source = (WebSocketWriter.__init__.__kwdefaults__ or {}).get("random")
    assert isinstance(source, random.Random), "aiohttp draws its masks from somewhere else"
    return source
