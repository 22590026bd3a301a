"""What was said, read off the simulated wires: HTTP and WebSocket taken apart outside of whoever speaks them. Pure.

Only what arrived at a host counts as said, whether or not its process lives to read it.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from skerry.protocol import frames
from skerry.protocol.limits import FRAME_BYTES_MAX, PAYLOAD_BYTES_MAX
from skerry.protocol.messages import FromAgent, FromCoordinator, FromPeer

HEAD_END = b"\r\n\r\n"
BINARY = 2  # opcode of a WebSocket frame, RFC 6455
MASKED, SHORT_MAX, LONG = 0x80, 125, 127


@dataclass(frozen=True, slots=True)
class Said:
    """One message, whole."""

    connection: str  # e.g. d1>c1#3: the client, the server, and a number
    to_server: bool
    frame: bytes
    message: FromAgent | FromCoordinator | FromPeer

    @property
    def client(self) -> str:
        """Who connected."""
        return self.connection.partition(">")[0]

    @property
    def server(self) -> str:
        """Who was connected to."""
        return self.connection.partition(">")[2].partition("#")[0]


@dataclass(slots=True)
class _Connection:
    data: dict[bool, bytearray] = field(default_factory=lambda: {True: bytearray(), False: bytearray()})
    is_stream: bool | None = None  # None: not known yet
    upgraded: bool = False  # the server's answer to the upgrade has passed
    asked: deque[bytes] = field(default_factory=deque)  # paths of requests without an answer


class Tap:
    """Reassembles what comes by each flow of a network; tells `hear` of every message between agents and coordinators.

    What is no message of ours (a bundle, an error page) is passed over.
    """

    def __init__(self, hear: Callable[[Said], None]) -> None:
        self._hear = hear
        self._connections: dict[str, _Connection] = {}

    def __call__(self, flow: str, data: bytes) -> None:
        """See `SimulatedNetwork.tap`."""
        name, _, way = flow.rpartition(" ")
        to_server = way == "there"
        connection = self._connections.setdefault(name, _Connection())
        connection.data[to_server] += data
        for frame, kind in _messages(connection, to_server=to_server):
            message: FromAgent | FromCoordinator | FromPeer = frames.decode(frame, kind, bytes_max=PAYLOAD_BYTES_MAX)
            self._hear(Said(name, to_server, frame, message))


def _messages(connection: _Connection, *, to_server: bool) -> Iterator[tuple[bytes, Any]]:
    """Yield what is complete now: frames, and what they are to be decoded as."""
    data = connection.data[to_server]
    if connection.is_stream is None:
        if HEAD_END not in data:
            return
        connection.is_stream = b"upgrade: websocket" in bytes(data).lower()
        if connection.is_stream:
            del data[: data.index(HEAD_END) + len(HEAD_END)]
    if not connection.is_stream:
        for path, body in _bodies(connection, to_server=to_server):
            if path.startswith(b"/v1/federation/") and body is not None and body:
                yield body, FromPeer
        return
    if not to_server and not connection.upgraded:
        if HEAD_END not in data:
            return
        if not data.startswith(b"HTTP/1.1 101 "):  # refused, and the connection ends
            data.clear()
            return
        connection.upgraded = True
        del data[: data.index(HEAD_END) + len(HEAD_END)]
    for frame in _binary_frames(data):
        yield frame, FromAgent if to_server else FromCoordinator


def _bodies(connection: _Connection, *, to_server: bool) -> Iterator[tuple[bytes, bytes | None]]:
    """Yield (path, body) of every request or answer that is complete; None: the answer is an error page."""
    data = connection.data[to_server]
    while HEAD_END in data:
        head, _, _ = bytes(data).partition(HEAD_END)
        lines = head.split(b"\r\n")
        lengths = [line.split(b":")[1] for line in lines if line.lower().startswith(b"content-length:")]
        begin = len(head) + len(HEAD_END)
        end = begin + (int(lengths[0]) if lengths else 0)
        if len(data) < end:
            return
        body: bytes | None = bytes(data[begin:end])
        del data[:end]
        if to_server:
            path = lines[0].split(b" ")[1]
            connection.asked.append(path)
        else:
            path = connection.asked.popleft()
            if lines[0].split(b" ")[1] != b"200":
                body = None
        yield path, body


def _binary_frames(data: bytearray) -> Iterator[bytes]:
    """Take complete frames off the front of `data`; yield the payloads of binary ones."""
    while len(data) >= 2:
        opcode, size, at = data[0] & 0x0F, data[1] & 0x7F, 2
        if size > SHORT_MAX:
            more = 8 if size == LONG else 2
            size, at = int.from_bytes(data[2 : 2 + more], "big"), 2 + more
        masked = bool(data[1] & MASKED)
        begin = at + (4 if masked else 0)
        if len(data) < begin + size:
            return
        assert size <= FRAME_BYTES_MAX
        payload = bytes(data[begin : begin + size])
        if masked:
            payload = _unmasked(payload, bytes(data[at:begin]))
        del data[: begin + size]
        if opcode == BINARY:
            yield payload


def _unmasked(payload: bytes, key: bytes) -> bytes:
    repeated = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(payload), "big")
