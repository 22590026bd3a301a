"""The socket that the service listens on: it turns away whom `admission` refuses, and cuts who keeps silent.

Both happen below TLS and HTTP: a connection that may not stay costs neither a handshake nor memory.
"""

import asyncio
import contextlib
import logging
import socket
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

from coordinator.admission import Admission

log = logging.getLogger(__name__)

BACKLOG = 1024
REFUSALS_PER_TURN = 64  # then the rest of the service has its turn
ADMISSIONS_PER_TURN = 2  # the same: each may be about to cost a handshake, milliseconds of the loop's time
LOOKS_PER_TURN = 500
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: nothing of a refused connection stays behind
_TCP_BYTES = struct.Struct("=120xQQ")  # linux/tcp.h: tcp_info.tcpi_bytes_acked, tcpi_bytes_received


class _Connection(socket.socket):
    """An admitted connection, which says when it is closed."""

    on_close: Callable[["_Connection"], None]
    address: str
    moved: tuple[int, int] = (0, 0)  # bytes that the other side took, bytes that came
    moved_at_s: float = 0.0

    def close(self) -> None:
        """Close it, and give its place back."""
        open_before = self.fileno() >= 0
        super().close()
        if open_before:
            self.on_close(self)


class Listener(socket.socket):
    """A listening TCP socket that accepts only whom `admission` admits."""

    def __init__(self, family: int, admission: Admission, clock: Callable[[], float], refused: Counter[str]) -> None:
        """`refused` counts those who were turned away, by reason."""
        super().__init__(family, socket.SOCK_STREAM)
        self._admission, self._clock, self._refused = admission, clock, refused
        self._open: set[_Connection] = set()
        self._admitted_in_turn = 0

    def accept(self) -> tuple[socket.socket, Any]:
        """Return the next connection that may stay, and its address.

        Raises:
            BlockingIOError: there is none, or others want their turn.
        """
        if self._admitted_in_turn >= ADMISSIONS_PER_TURN:
            self._admitted_in_turn = 0
            raise BlockingIOError
        for _ in range(REFUSALS_PER_TURN):
            try:
                accepted, address = super().accept()
            except BlockingIOError:
                self._admitted_in_turn = 0
                raise
            now_s = self._clock()
            reason = self._admission.admit(address[0], now_s)
            if reason is None:
                connection = _Connection(self.family, self.type, self.proto, fileno=accepted.detach())
                connection.on_close, connection.address = self._give_back, address[0]
                connection.moved_at_s = now_s
                self._open.add(connection)
                self._admitted_in_turn += 1
                return connection, address
            self._refused[reason] += 1
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            accepted.close()
        self._admitted_in_turn = 0
        raise BlockingIOError

    async def cut_silent(self, timeout_s: float) -> None:
        """End every connection on which no byte moved either way for `timeout_s`. Call it now and then."""
        for number, connection in enumerate(list(self._open)):
            if number % LOOKS_PER_TURN == LOOKS_PER_TURN - 1:
                await asyncio.sleep(0)
            if connection not in self._open:
                continue
            now_s, moved = self._clock(), _bytes_moved(connection)
            if moved != connection.moved:
                connection.moved, connection.moved_at_s = moved, now_s
            elif now_s - connection.moved_at_s >= timeout_s:
                self._refused["silent"] += 1
                with contextlib.suppress(OSError):  # it ended by itself meanwhile
                    connection.shutdown(socket.SHUT_RDWR)  # whoever reads or writes it hears of it, and closes it

    def _give_back(self, connection: _Connection) -> None:
        self._open.discard(connection)
        self._admission.release(connection.address)


def _bytes_moved(connection: socket.socket) -> tuple[int, int]:
    """Return the bytes that the other side has taken, and those that came from it: by the kernel's count."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_BYTES.size)
    acknowledged, received = _TCP_BYTES.unpack(info)
    return acknowledged, received
