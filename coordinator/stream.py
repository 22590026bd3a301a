"""The agents' end of the wire: one WebSocket per device, and the engine's way to it. Decides nothing about training."""

import asyncio
import logging
import socket as sockets
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Protocol

from aiohttp import WSCloseCode, WSMsgType, web

from coordinator.admission import Bucket
from coordinator.authorization import caller_of
from coordinator.config import Limits
from coordinator.events import (
    DeviceConnected,
    DeviceDisconnected,
    Event,
    Malformed,
    OfferDone,
    TelemetryArrived,
    TrafficCounted,
    UpdateArrived,
)
from coordinator.intake import Intake, IntakeFullError, read_vector
from coordinator.metrics import Metrics
from coordinator.outgoing import PART_BYTES, Brief, Offer, Outgoing
from coordinator.threads import RunInThread
from skerry.identity.certificate import Identified
from skerry.protocol import frames
from skerry.protocol.errors import MalformedMessage
from skerry.protocol.limits import PROTOCOL_MAJOR
from skerry.protocol.messages import (
    Drain,
    FromAgent,
    Heartbeat,
    Hello,
    ModelVersion,
    Refused,
    Telemetry,
    UpdateAccepted,
    UpdateOffered,
    UpdateRejected,
    Welcome,
)

log = logging.getLogger(__name__)

HELLO_S = 10.0  # a stream without a Hello by then is ended
SILENT_MAX = 4  # sockets of one certificate that have not said Hello; a device needs one at a time
CLOSE_S = 2.0  # how long to wait for the other side's goodbye
RECONNECT_AFTER_S = 1.0  # said in Drain where the process stops or a certificate has expired
AWAY_S = 30.0  # said in Drain where an operator empties this coordinator
REVOKED = Refused(
    "revoked", "this certificate counts no more: it was revoked, or another key came first under this name", retry=False
)
DECODE_INLINE_BYTES_MAX = 256 << 10  # a larger payload is decoded in a thread: it would hold all streams up
_TCP_LAST_DATA_RECEIVED = struct.Struct("=52xI")  # linux/tcp.h: tcp_info.tcpi_last_data_recv, milliseconds


class Region(Protocol):
    """What the streams need of the engine."""

    @property
    def size(self) -> int:
        """Entries of the model."""

    def submit(self, event: Event) -> None:
        """Hand over what happened."""

    async def room(self) -> None:
        """Wait while too much is on its way to the disk."""


class _Refusal(Exception):  # noqa: N818 - no error of ours
    """The stream has to end, and the agent is told why."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.reason)
        self.refused = refused


class _Stream:
    """One connection of one device."""

    def __init__(
        self,
        device: str,
        socket: web.WebSocketResponse,
        request: web.Request,
        outgoing: Outgoing,
    ) -> None:
        self.device = device
        self.socket = socket
        self.request = request
        self.outgoing = outgoing
        self.caller = caller_of(request)  # whose certificate it is; None: plain HTTP
        self.ended = False  # nothing that it still receives counts
        self.named: dict[str, str] = {}  # coordinators that its device was told of last, but in the welcome
        self.heard_at_s = 0.0
        self.received_bytes = 0
        self._reported = (0, 0)

    def traffic(self) -> TrafficCounted | None:
        """Return the bytes since the last call, None where there were none."""
        now = (self.outgoing.sent_bytes, self.received_bytes)
        sent, received = (total - before for total, before in zip(now, self._reported, strict=True))
        self._reported = now
        return TrafficCounted("device", self.device, sent, received) if sent or received else None


class Agents:
    """Every stream of this coordinator."""

    def __init__(
        self,
        limits: Limits,
        metrics: Metrics,
        run_in_thread: RunInThread,
        revoked: Callable[[Identified], bool] = lambda _: False,
    ) -> None:
        """Begin without streams; `revoked` says whether a certificate counts no more."""
        self._limits = limits
        self._revoked = revoked
        self.connections_max = limits.connections_max  # may be changed at any time; streams that stand stay
        self._metrics = metrics
        self._run_in_thread = run_in_thread
        self._streams: dict[str, _Stream] = {}
        self._unwelcomed: Counter[str] = Counter()  # by device: Hellos that the region has not answered yet
        self._open = 0  # sockets, those without a Hello included
        self._silent: Counter[str] = Counter()  # by the certificate's key: sockets without a Hello
        self.takes_agents = True
        self._closing: set[asyncio.Task[None]] = set()
        self._intake = Intake(limits.update_bytes_max, limits.part_bytes_max)
        metrics.partial_updates_bytes = lambda: self._intake.held_bytes
        self.region: Region  # set once, before the port is opened: the engine needs us first
        self.coordinators: Callable[[], dict[str, str]] = dict  # name and URL of those that devices may go to; set once

    # --- the engine's outlet ---

    def send_to_device(self, device: str, message: Welcome | UpdateAccepted | UpdateRejected) -> None:
        """Queue a message; it is dropped where the device is gone, and asked for by it later."""
        if isinstance(message, Welcome):
            self._unwelcomed[device] -= 1
        stream = self._stream_of(device)
        if stream is not None:
            self._put(stream, message)

    def offer_model(
        self, device: str, version: ModelVersion, base: ModelVersion | None, age: float, payload: bytes
    ) -> None:
        """Queue a model; the region hears when it is written."""
        stream = self._stream_of(device)
        if stream is not None:
            stream.outgoing.offer(Offer(version, base, age, payload))

    def _stream_of(self, device: str) -> _Stream | None:
        """Return the stream that what the region says now is meant for; None: it has ended.

        The region answers each Hello with one Welcome, so what comes before the last one is for an earlier stream. On
        a newer one it would do harm: the device has sent the same updates again by then, and must not be told that
        one was rejected which is about to be taken.
        """
        if self._unwelcomed[device] > 0:
            return None
        del self._unwelcomed[device]
        return self._streams.get(device)

    def _put(self, stream: _Stream, message: Brief) -> None:
        if not stream.outgoing.put(message):
            log.warning("device %s: does not read its stream; ending it", stream.device)
            self._abort(stream)

    # --- the server's side of a stream ---

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one agent until its stream ends."""
        socket = web.WebSocketResponse(
            max_msg_size=self._limits.frame_bytes_max, compress=False, timeout=CLOSE_S, writer_limit=PART_BYTES
        )
        await socket.prepare(request)
        try:
            with self._admitted():
                with self._expected(caller_of(request)):
                    hello, hello_bytes = await self._hello(socket, caller_of(request))
                await self._serve(hello, hello_bytes, socket, request)
        except _Refusal as refusal:
            await self._refuse(socket, request, refusal.refused, str(request.remote))
        except ConnectionError:
            pass  # the other side is gone: an everyday event
        return socket

    @property
    def has_room(self) -> bool:
        """Whether one more agent is served."""
        return self.takes_agents and self._open < self.connections_max

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        """Take one of the places, if there is one."""
        if not self.has_room:
            detail = f"already has {self.connections_max} connections" if self.takes_agents else "takes no agents now"
            raise _Refusal(Refused("busy", f"this coordinator {detail}", retry=True))
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    @contextmanager
    def _expected(self, caller: Identified | None) -> Iterator[None]:
        """Take one of the places for those who have not said Hello: no certificate has many."""
        if caller is None:  # plain HTTP, where nobody is known
            yield
            return
        key = caller.key_sha256
        if self._silent[key] >= SILENT_MAX:
            raise _Refusal(Refused("busy", f"{SILENT_MAX} streams of this device have not said Hello yet", retry=True))
        self._silent[key] += 1
        try:
            yield
        finally:
            self._silent[key] -= 1
            if not self._silent[key]:
                del self._silent[key]

    async def _hello(self, socket: web.WebSocketResponse, caller: Identified | None) -> tuple[Hello, int]:
        """Return the agent's first message, if it may stay; with a certificate it may act as nobody else."""
        try:
            async with asyncio.timeout(HELLO_S):
                frame = await self._frame(socket)
        except TimeoutError:
            raise _Refusal(Refused("malformed", f"no Hello within {HELLO_S:g} s", retry=True)) from None
        if frame is None:
            raise ConnectionResetError
        hello = self._decode(frame)
        if not isinstance(hello, Hello):
            raise _Refusal(Refused("malformed", "the first frame must be a Hello", retry=True))
        if hello.protocol_major != PROTOCOL_MAJOR:
            detail = (
                f"protocol {hello.protocol_major}.x is not spoken here, {PROTOCOL_MAJOR}.x is; install a matching agent"
            )
            raise _Refusal(Refused("protocol", detail, retry=False))
        if caller is not None and hello.device != caller.subject.name:
            detail = f"the certificate is of device {caller.subject.name}, not of {hello.device}: join with that name"
            raise _Refusal(Refused("malformed", detail, retry=False))
        if caller is not None and self._revoked(caller):  # since the socket was opened
            raise _Refusal(REVOKED)
        return hello, len(frame)

    async def _serve(self, hello: Hello, hello_bytes: int, socket: web.WebSocketResponse, request: web.Request) -> None:
        """Read one device's messages until its stream ends, writing beside it."""
        device = hello.device
        outgoing = Outgoing(self._limits.part_bytes_max, lambda version: self._offer_done(stream, version))
        stream = _Stream(device, socket, request, outgoing)
        stream.received_bytes = hello_bytes
        older = self._streams.get(device)
        if older is not None:
            self._supersede(older)
        self._streams[device] = stream
        self._unwelcomed[device] += 1
        self.region.submit(DeviceConnected(device, hello, self._intake.partial(device)))
        writer = asyncio.create_task(self._write(stream), name=f"to {device}")
        self._watch(stream)
        try:
            await self._read(stream)
        finally:
            writer.cancel()
            (failure,) = await asyncio.gather(writer, return_exceptions=True)
            self._report(stream)
            self._end(stream)
            if isinstance(failure, Exception):  # our bug: not to be passed over because the stream is over
                raise failure

    async def _read(self, stream: _Stream) -> None:
        loop = asyncio.get_running_loop()
        allowance = Bucket(self._limits.device_frames_per_s_max, loop.time())
        while True:
            frame = await self._frame(stream.socket)
            if frame is None or stream.ended:
                return
            stream.heard_at_s = loop.time()
            stream.received_bytes += len(frame)
            wait_s = allowance.owe(stream.heard_at_s)
            if wait_s > 0.0:  # nothing is lost: the device's own buffers fill
                self._metrics.frames_delayed += 1
                await asyncio.sleep(wait_s)
                if stream.ended:
                    return
            message = self._decode(frame)
            if isinstance(message, UpdateOffered | Telemetry):
                await self.region.room()
                if stream.ended:  # meanwhile: the device says it again on its newer stream
                    return
            match message:
                case UpdateOffered():
                    await self._update(stream, message, len(frame))
                case Heartbeat():
                    before, stream.named = stream.named, self.coordinators()
                    self._put(stream, Heartbeat(message.stamp_s, None if stream.named == before else stream.named))
                case Telemetry():
                    self.region.submit(TelemetryArrived(stream.device, message))
                case Hello():
                    raise _Refusal(Refused("malformed", "a second Hello on one stream", retry=True))

    async def _update(self, stream: _Stream, offered: UpdateOffered, frame_bytes: int) -> None:
        """Take one part of an update; with the last one it goes to the region."""
        try:
            assembled = self._intake.take(stream.device, offered, frame_bytes, stream.heard_at_s)
        except IntakeFullError:
            detail = "no memory for another unfinished update; come back later"
            raise _Refusal(Refused("busy", detail, retry=True)) from None
        if assembled is None:
            return
        payload, size = assembled.payload, self.region.size
        if isinstance(payload, Malformed):
            event = UpdateArrived(stream.device, offered, b"", payload, assembled.frame_bytes)
        elif len(payload) <= DECODE_INLINE_BYTES_MAX:
            event = UpdateArrived(stream.device, offered, payload, read_vector(payload, size), assembled.frame_bytes)
        else:
            vector = await self._run_in_thread(lambda: read_vector(payload, size))
            if stream.ended:  # meanwhile: the device was revoked, or says it again on its newer stream
                return
            event = UpdateArrived(stream.device, offered, payload, vector, assembled.frame_bytes)
        if isinstance(event.vector, Malformed):
            log.warning(
                "device %s: update %d rejected: %s: %s",
                stream.device,
                offered.sequence,
                event.vector.reason,
                event.vector.detail,
            )
        self.region.submit(event)

    async def _frame(self, socket: web.WebSocketResponse) -> bytes | None:
        """Return the next frame; None: the stream has ended."""
        message = await socket.receive()
        match message.type:
            case WSMsgType.BINARY:
                frame: bytes = message.data
                self._metrics.frames_received += 1
                self._metrics.frames_received_bytes += len(frame)
                return frame
            case WSMsgType.TEXT:
                raise _Refusal(Refused("malformed", "a text message; frames are binary", retry=True))
            case WSMsgType.ERROR if getattr(message.data, "code", None) == WSCloseCode.MESSAGE_TOO_BIG:
                self._metrics.frames_refused["too_large"] += 1
                log.warning("a frame of more than %d bytes; ending its stream", self._limits.frame_bytes_max)
        return None

    def _decode(self, frame: bytes) -> FromAgent:
        try:
            return frames.decode(frame, FromAgent, bytes_max=self._limits.frame_bytes_max)
        except MalformedMessage as error:
            raise _Refusal(Refused("malformed", str(error), retry=True)) from None

    async def _write(self, stream: _Stream) -> None:
        """Write what is queued; when the other side is gone, the reader hears of it too."""
        try:
            await stream.outgoing.run(stream.request, stream.socket)
        except ConnectionError:
            self._abort(stream)
        except Exception:
            self._abort(stream)
            raise

    async def _refuse(self, socket: web.WebSocketResponse, request: web.Request, refused: Refused, who: str) -> None:
        self._metrics.frames_refused[refused.reason] += 1
        log.warning("%s: stream refused: %s: %s", who, refused.reason, refused.detail)
        await _say_and_close(socket, request, refused, WSCloseCode.POLICY_VIOLATION)

    # --- ends of streams ---

    def _supersede(self, older: _Stream) -> None:
        """End a device's older stream; the region hears of it before the newer one says Hello."""
        refused = Refused("superseded", "the same device has opened a newer stream", retry=False)
        self._dismiss(older, self._refuse(older.socket, older.request, refused, f"device {older.device}"))

    def end_revoked(self) -> None:
        """End the streams of devices whose certificate counts no more, at once."""
        for stream in list(self._streams.values()):
            if stream.caller is not None and self._revoked(stream.caller):
                who = f"device {stream.device}"
                self._dismiss(stream, self._refuse(stream.socket, stream.request, REVOKED, who))

    def end_expired(self, now_s: float) -> None:
        """Let devices come again whose certificate expired while their stream stood; `now_s` is the wall clock's."""
        for stream in list(self._streams.values()):
            if stream.caller is not None and now_s > stream.caller.not_after_s:
                log.info("device %s: its certificate has expired; ending its stream", stream.device)
                drain = Drain(RECONNECT_AFTER_S)
                self._dismiss(stream, _say_and_close(stream.socket, stream.request, drain, WSCloseCode.GOING_AWAY))

    def _dismiss(self, stream: _Stream, goodbye: Coroutine[None, None, None]) -> None:
        """End a stream: nothing that it still brings counts; `goodbye` tells the device."""
        self._report(stream)
        self._end(stream)
        task = asyncio.create_task(goodbye)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _end(self, stream: _Stream) -> None:
        """Let the region know, once."""
        if not stream.ended:
            stream.ended = True
            del self._streams[stream.device]
            self.region.submit(DeviceDisconnected(stream.device))

    def _offer_done(self, stream: _Stream, version: ModelVersion) -> None:
        if not stream.ended:
            self.region.submit(OfferDone(stream.device, version))

    def _abort(self, stream: _Stream) -> None:
        """Cut the connection; its reader ends and cleans up."""
        _cut(stream.request)

    def _watch(self, stream: _Stream) -> None:
        """Cut the stream if no byte arrives for the progress time-out. One timer a stream, whatever it receives."""
        loop = asyncio.get_running_loop()
        timeout_s = self._limits.progress_timeout_s
        stream.heard_at_s = loop.time()

        def check() -> None:
            if stream.ended:
                return
            now_s = loop.time()
            heard_at_s = max(stream.heard_at_s, now_s - _silence_s(stream.request.transport))
            # Times are compared, not lengths: what is left of one may be too little to move a clock, again and again.
            due_s = heard_at_s + timeout_s
            if now_s >= due_s:
                log.warning("device %s: no byte for %.0f s; ending its stream", stream.device, now_s - heard_at_s)
                self._abort(stream)
            else:
                loop.call_at(due_s, check)

        loop.call_later(timeout_s, check)

    async def drain(self) -> None:
        """Ask every agent to come back later, and end its stream."""
        self.takes_agents = False
        goodbyes: list[Awaitable[None]] = [
            _say_and_close(stream.socket, stream.request, Drain(RECONNECT_AFTER_S), WSCloseCode.GOING_AWAY)
            for stream in self._streams.values()
        ]
        await asyncio.gather(*goodbyes, *self._closing)

    async def send_away(self) -> int:
        """Take no agents from now on and ask those that are here to go elsewhere; return how many were asked."""
        self.takes_agents = False
        streams = list(self._streams.values())
        for stream in streams:
            drain = _say_and_close(stream.socket, stream.request, Drain(AWAY_S), WSCloseCode.GOING_AWAY)
            self._dismiss(stream, drain)
        await asyncio.gather(*self._closing)
        return len(streams)

    # --- book-keeping ---

    def housekeep(self) -> None:
        """Report what was sent and received, forget unfinished updates that are too old. Call it now and then."""
        for stream in self._streams.values():
            self._report(stream)
        self._intake.forget(asyncio.get_running_loop().time())

    def _report(self, stream: _Stream) -> None:
        counted = stream.traffic()
        if counted is not None and not stream.ended:
            self._metrics.frames_sent_bytes += counted.sent_bytes
            self.region.submit(counted)


async def _say_and_close(
    socket: web.WebSocketResponse, request: web.Request, last: Refused | Drain, code: WSCloseCode
) -> None:
    """Send the last message of a stream and close it; cut it where the other side does not read."""
    try:
        async with asyncio.timeout(2 * CLOSE_S):
            await socket.send_bytes(frames.encode(last))
            await socket.close(code=code)
    except TimeoutError:
        _cut(request)
    except ConnectionError:
        pass  # it left before it was told


def _cut(request: web.Request) -> None:
    if request.transport is not None:  # None: closed already
        request.transport.abort()


def _silence_s(transport: asyncio.BaseTransport | None) -> float:
    """Return for how long the kernel has received nothing: less than the stream where a large frame arrives slowly."""
    connection = transport.get_extra_info("socket") if transport is not None else None
    if connection is None:  # closed, or not a TCP connection
        return float("inf")
    info = connection.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, _TCP_LAST_DATA_RECEIVED.size)
    return float(_TCP_LAST_DATA_RECEIVED.unpack(info)[0]) / 1000.0
