"""A process that simulates: it reads one order a line, runs it, keeps the result, and says how far it is.

`python -m testbed.comparison.worker`, started by `crew`. One run at a time; what goes wrong in a run is answered and
the next order is taken.
"""

import contextlib
import importlib
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import BinaryIO

import msgspec

from skerry.errors import SkerryError
from testbed.comparison import store
from testbed.comparison.run_spec import Place, Progress, RunSpec, Simulate
from testbed.comparison.store import Stored

SIMULATION = "testbed.simulation.comparison"  # has `simulate`; heavy, and loaded by nobody else
SAY_S = 0.5  # wall seconds between two words of progress


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Run this, and keep the result there."""

    spec: RunSpec
    place: Place
    fingerprint: str
    path: str


class Running(msgspec.Struct, frozen=True, kw_only=True, tag="running"):
    """The run is so far."""

    progress: Progress


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """The run is over, and its result is on disk."""


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The run came to no result."""

    reason: str
    traceback: str  # "" where the reason says it all


Word = Running | Done | Failed


def work(orders: BinaryIO, words: BinaryIO, simulate: Simulate) -> None:
    """Carry out one order after the other until there are no more."""

    def say(word: Word) -> None:
        words.write(msgspec.json.encode(word) + b"\n")
        words.flush()

    for line in orders:
        order = msgspec.json.decode(line, type=Order)
        said_s = 0.0

        def show(progress: Progress) -> None:
            nonlocal said_s
            if time.monotonic() - said_s >= SAY_S:
                said_s = time.monotonic()
                say(Running(progress=progress))

        try:
            result = simulate(order.spec, order.place, show)
            store.write(Path(order.path), Stored(fingerprint=order.fingerprint, spec=order.spec, result=result))
        except SkerryError as error:
            say(Failed(reason=str(error), traceback=""))
        except Exception as error:  # a defect in one run is told, and is no reason to lose the others
            say(Failed(reason=f"{type(error).__name__}: {error}", traceback=traceback.format_exc()))
        else:
            say(Done())


def main() -> None:
    """Serve the lab that started this process, until it closes our standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the lab's; it ends its workers
    words = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing that prints may break into the words
    simulation = importlib.import_module(SIMULATION)
    with contextlib.suppress(BrokenPipeError):  # the lab is gone
        work(sys.stdin.buffer, words, simulation.simulate)


if __name__ == "__main__":
    main()
