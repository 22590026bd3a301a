"""The agent's one connection: a WebSocket outwards, kept up for ever. Decides nothing about training.

A stream counts as dead when it makes no progress for a while, not when something takes long: any byte that arrives is
progress, and so is every byte of a large update that the kernel takes on its way out. Heartbeats keep bytes coming
when there is nothing to say; they are this file's own business and do not depend on training.
"""

import asyncio
import logging
import random
import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_agent.backoff import Backoff
from edge_agent.choice_of_coordinator import ChoiceOfCoordinator
from edge_agent.events import Connected, Disconnected, Event, Received
from edge_agent.opening_limit import OpeningLimit
from edge_agent.outbox import Update
from edge_agent.progress import ByteCounter, KernelBytes
from edge_agent.round_trip import round_trips_s
from edge_agent.upload_window import PART_BYTES_MIN, UploadWindow
from skerry import connection_error
from skerry.identity.errors import IdentityError
from skerry.protocol import frames, parts
from skerry.protocol.errors import MalformedMessage
from skerry.protocol.limits import FRAME_BYTES_MAX
from skerry.protocol.messages import (
    FromAgent,
    FromCoordinator,
    Heartbeat,
    Refused,
    UpdateAccepted,
    UpdateOffered,
    Welcome,
)

if TYPE_CHECKING:
    import aiohttp

REFUSED_HEADER = "Skerry-Refused"  # beside 403: what of the certificate is not taken
STREAM_PATH = "/v1/agents/stream"
UNSENT_BYTES = 16 << 10  # what the kernel may hold back: more would hide that nothing moves, and delay heartbeats
CONTROL_FRAMES_MAX = 1024  # queued and not written: the link cannot carry even these
UPLOAD_RATE_S = 600.0  # so long a measured rate holds
CLOSE_S = 2.0  # grace for a closing handshake

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """How long to wait for what; see the configuration's `limits`."""

    reconnect_min_s: float
    reconnect_max_s: float
    heartbeat_s: float
    progress_timeout_s: float
    probe_s: float = 30.0  # between two measurements of the ways to all coordinators


@dataclass
class Traffic:
    """Bytes of frames since the agent started."""

    sent_bytes: int = 0
    received_bytes: int = 0
    _upload: tuple[float, float] | None = None  # bytes per second of the newest large parts, and when that was

    def upload_measured(self, bytes_per_s: float, now_s: float) -> None:
        """Large parts have arrived at that rate."""
        self._upload = bytes_per_s, now_s

    def upload_bytes_per_s(self, now_s: float) -> float | None:
        """Return the rate of the newest large parts; None: there were none, or too long ago.

        A device that rests for the sake of a slow link sends nothing to measure: it must try again some day.
        """
        if self._upload is None or now_s - self._upload[1] > UPLOAD_RATE_S:
            return None
        return self._upload[0]


class StreamEnded(Exception):  # noqa: N818 - an end, not always an error
    """Why the present stream is over."""

    def __init__(self, reason: str, *, wait_s: float = 0.0, hopeless: bool = False, dead: bool = False) -> None:
        super().__init__(reason)
        self.wait_s, self.hopeless = wait_s, hopeless
        self.dead = dead  # nobody was there, or nobody any more


class Stream:
    """Connects, reports events, writes what it is given, reconnects; until cancelled."""

    def __init__(
        self,
        urls: tuple[str, ...],
        limits: StreamLimits,
        rng: random.Random,
        report: Callable[[Event], None],
        connector: "Callable[[], aiohttp.BaseConnector] | None" = None,
        accepts: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """Choose among `urls` and those that coordinators name, as far as `accepts` lets them.

        `connector` makes another network than the machine's own.
        """
        self._choice = ChoiceOfCoordinator(urls, limits.reconnect_min_s, limits.reconnect_max_s, rng)
        self._opening = OpeningLimit(limits.progress_timeout_s)
        self._limits = limits
        self._rng = rng
        self._report = report
        self._connector = connector
        self._accepts = accepts
        self._moving = False  # the present connection is left for another coordinator
        self.connection: Connection | None = None  # the present one; what is asked of an older one is lost with it
        self.traffic = Traffic()

    @property
    def url(self) -> str:
        """Base URL of the coordinator whose turn it is."""
        return self._choice.url

    @property
    def urls(self) -> list[str]:
        """Base URLs of all coordinators that are known."""
        return self._choice.urls

    def learn(self, coordinators: Mapping[str, str]) -> None:
        """Take note of the coordinators that one of them named."""
        self._choice.learned(url for _, url in sorted(coordinators.items()) if self._accepts(url))

    async def run(self) -> None:
        """Keep a stream up; returns only by being cancelled."""
        import aiohttp

        counter = ByteCounter()
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._limits.progress_timeout_s)
        async with (
            aiohttp.ClientSession(
                connector=None if self._connector is None else self._connector(),
                timeout=timeout,
                trace_configs=[counter.trace_config()],
            ) as session,
            aiohttp.ClientSession(connector=None if self._connector is None else self._connector()) as probes,
        ):
            await self._measure(probes)
            self._choice.begin(asyncio.get_running_loop().time())
            tasks = [asyncio.create_task(self._keep_up(session, counter)), asyncio.create_task(self._probe(probes))]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # neither ends but with an error
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_up(self, session: "aiohttp.ClientSession", counter: ByteCounter) -> None:
        """Run one stream after the other."""
        while True:
            ended = await self._attempt(session, counter)
            moved, self._moving = self._moving, False
            wait_s = 0.0
            if not moved:
                wait_s = self._choice.ended(
                    asyncio.get_running_loop().time(),
                    stood=not ended.dead,
                    wait_s=ended.wait_s,
                    hopeless=ended.hopeless,
                )
            log.info("stream: %s; next attempt at %s in %.1f s", ended, self.url, wait_s)
            await asyncio.sleep(wait_s)

    async def _probe(self, session: "aiohttp.ClientSession") -> None:
        """Measure the ways to all coordinators now and then, and leave the present one for one that is nearer."""
        while True:
            await asyncio.sleep(self._probe_in_s())
            await self._measure(session)
            now_s = asyncio.get_running_loop().time()
            if self.connection is not None and not self._moving and self._choice.moves(now_s):
                self._moving = True
                self.connection.leave(f"{self.url} is nearer")

    def _probe_in_s(self) -> float:
        """Return when to measure next: not when all others do, who lost or found their coordinator with this one."""
        alone = len(self._choice.urls) == 1
        return self._limits.probe_s * (1.0 if alone else self._rng.uniform(0.5, 1.0))

    async def _measure(self, session: "aiohttp.ClientSession") -> None:
        urls = self._choice.urls
        if len(urls) > 1:  # else there is nothing to choose
            self._choice.measured(await round_trips_s(session, urls))

    async def _attempt(self, session: "aiohttp.ClientSession", counter: ByteCounter) -> StreamEnded:
        """Run one stream to its end and return why it ended."""
        import aiohttp

        limits, coordinators = self._limits, len(self._choice.urls)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            async with asyncio.timeout(self._opening.seconds(coordinators)) as opening:
                async with session.ws_connect(
                    self.url + STREAM_PATH,
                    max_msg_size=FRAME_BYTES_MAX,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S),
                ) as websocket:
                    opening.reschedule(None)
                    self._opening.opened(loop.time() - began_s)
                    _keep_little_unsent(websocket)
                    self.connection = connection = Connection(
                        websocket, limits, self.traffic, counter, self._hear, self._choice.backoff
                    )
                    self._report(Connected())
                    ended = await connection.run()
        except TimeoutError:
            self._opening.timed_out(coordinators)
            ended = StreamEnded(f"{self.url} does not answer", dead=True)
        except aiohttp.WSServerHandshakeError as error:
            ended = StreamEnded(f"{self.url} answers {error.status} instead of a stream", dead=True)
            if error.status == 403 and error.headers is not None and error.headers.get(REFUSED_HEADER) == "revoked":
                if self._choice.shut_out():
                    raise IdentityError(
                        f"{self.url}: this device's certificate was revoked, and no other coordinator known here says "
                        "otherwise: it takes part again once it has joined with a new key: remove the folder of its "
                        "identity, and join"
                    ) from error
                reason = f"{self.url} says that this device's certificate was revoked, and alone is not believed"
                ended = StreamEnded(reason, dead=True, hopeless=True)
        except (aiohttp.ClientError, OSError) as error:
            ended = StreamEnded(f"{self.url}: {connection_error.reason(error)}", dead=True)
        finally:
            self.connection = None
        self._report(Disconnected(str(ended)))  # also of an attempt that never connected: it says why
        return ended

    def _hear(self, event: Event) -> None:
        match event:
            case Received(Welcome() as welcome):
                self._choice.served()
                self.learn(welcome.coordinators)
            case Received(Heartbeat(coordinators=dict() as named)):
                self.learn(named)
            case Received(Refused(reason="revoked")):
                self._choice.shut_out()
        self._report(event)


class Connection:
    """One WebSocket from Connected to its end; after that it takes everything and sends nothing."""

    def __init__(
        self,
        websocket: "aiohttp.ClientWebSocketResponse[Any]",
        limits: StreamLimits,
        traffic: Traffic,
        counter: ByteCounter,
        report: Callable[[Event], None],
        backoff: Backoff,
    ) -> None:
        self._websocket, self._limits, self._traffic = websocket, limits, traffic
        self._counter, self._report, self._backoff = counter, report, backoff
        self._control: deque[FromAgent] = deque()
        self._updates: dict[int, Iterator[UpdateOffered]] = {}  # by sequence, in the order in which they were queued
        self._window = UploadWindow()
        self._something_to_write = asyncio.Event()
        self._ended: asyncio.Future[StreamEnded] = asyncio.get_running_loop().create_future()

    def send(self, message: FromAgent) -> None:
        """Queue one message."""
        if len(self._control) >= CONTROL_FRAMES_MAX:
            self._end(StreamEnded("the link does not carry even control messages"))
            return
        self._control.append(message)
        self._something_to_write.set()

    def send_update(
        self, update: Update, part_bytes: int, first_part: int, *, moves: int = 0, abroad: bool = False
    ) -> None:
        """Queue one update, in parts; other messages go in between. `moves`, `abroad`: see SendUpdate."""
        self._updates[update.sequence] = _offers(update, part_bytes, first_part, moves=moves, abroad=abroad)
        self._something_to_write.set()

    def drop_update(self, sequence: int) -> None:
        """Send no more of an update that was answered."""
        self._updates.pop(sequence, None)

    def leave(self, reason: str, *, wait_s: float = 0.0, hopeless: bool = False) -> None:
        """End it; the next one comes not before `wait_s`, and later still where it is `hopeless`."""
        self._end(StreamEnded(reason, wait_s=wait_s, hopeless=hopeless))

    async def run(self) -> StreamEnded:
        """Read, write, beat and watch until one of them, or `leave`, ends the stream.

        A Welcome alone is no success: a stream that ends right behind it again and again is not taken up at once.
        """
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        workers = [asyncio.create_task(work()) for work in (self._read, self._write, self._beat, self._watch)]
        try:
            await asyncio.wait([self._ended, *workers], return_when=asyncio.FIRST_COMPLETED)
            for worker in workers:
                if worker.done():
                    self._end(await worker)
            return self._ended.result()
        finally:
            if loop.time() - began_s >= self._limits.reconnect_max_s:
                self._backoff.succeeded()
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    def _end(self, reason: StreamEnded) -> None:
        if not self._ended.done():
            self._ended.set_result(reason)

    async def _read(self) -> StreamEnded:
        from aiohttp import WSMsgType

        async for message in self._websocket:
            if message.type is not WSMsgType.BINARY:
                return StreamEnded(f"the coordinator sent a {message.type.name} frame")
            self._traffic.received_bytes += len(message.data)
            try:
                parsed: FromCoordinator = frames.decode(message.data, FromCoordinator, bytes_max=FRAME_BYTES_MAX)
            except MalformedMessage as error:
                return StreamEnded(f"the coordinator sent nonsense: {error}", hopeless=True)
            if isinstance(parsed, UpdateAccepted):
                self._backoff.succeeded()
            elif isinstance(parsed, Heartbeat):
                now_s = asyncio.get_running_loop().time()
                bytes_per_s = self._window.echoed(parsed.stamp_s, now_s)
                if bytes_per_s is not None:
                    self._traffic.upload_measured(bytes_per_s, now_s)
                self._something_to_write.set()
            self._report(Received(parsed))
        lost = self._websocket.exception()
        if lost is not None:
            return StreamEnded(f"stream lost: {str(lost) or type(lost).__name__}")
        return StreamEnded(f"stream closed with code {self._websocket.close_code}")

    async def _write(self) -> StreamEnded:
        while True:
            message = self._next_message()
            if message is None:
                self._something_to_write.clear()
                await self._something_to_write.wait()
                continue
            frame = frames.encode(message)
            try:
                await self._websocket.send_bytes(frame)
            except (ConnectionError, RuntimeError) as error:  # aiohttp: RuntimeError where the transport is gone
                return StreamEnded(f"stream lost: {error}")
            self._traffic.sent_bytes += len(frame)
            if isinstance(message, UpdateOffered) and len(message.part.data) >= PART_BYTES_MIN:
                stamp_s = self._queue_heartbeat()
                self._window.sent(stamp_s, len(message.part.data))
            if self._control or self._updates:
                await asyncio.sleep(0)  # a write that fits the buffers never suspends: let the reader have its turn

    def _next_message(self) -> FromAgent | None:
        if self._control:
            return self._control.popleft()
        while self._updates and self._window.is_open:
            sequence, offers = next(iter(self._updates.items()))
            for offer in offers:
                return offer
            del self._updates[sequence]
        return None

    async def _beat(self) -> StreamEnded:
        while True:
            await asyncio.sleep(self._limits.heartbeat_s)
            if not any(isinstance(message, Heartbeat) for message in self._control):
                self._queue_heartbeat()

    def _queue_heartbeat(self) -> float:
        stamp_s = asyncio.get_running_loop().time()
        self.send(Heartbeat(stamp_s=stamp_s))
        return stamp_s

    async def _watch(self) -> StreamEnded:
        """Return when neither a byte came in nor a waiting one went out for `progress_timeout_s`."""
        loop = asyncio.get_running_loop()
        look_s = self._limits.progress_timeout_s / 8
        moved_at_s = loop.time()
        received, unsent = self._counter.received_bytes, self._unsent_bytes()
        kernel = KernelBytes()
        while loop.time() - moved_at_s < self._limits.progress_timeout_s:
            await asyncio.sleep(look_s)
            now_received, now_unsent = self._counter.received_bytes, self._unsent_bytes()
            if kernel.moved(self._counter.transport) or now_received != received or now_unsent < unsent:
                moved_at_s = loop.time()
            received, unsent = now_received, now_unsent
        ended = StreamEnded(f"no progress for {self._limits.progress_timeout_s:g} s", dead=True)
        self._end(ended)
        transport = self._counter.transport
        if transport is not None:
            transport.abort()  # a closing handshake would wait for the same dead link
        return ended

    def _unsent_bytes(self) -> int:
        transport = self._counter.transport
        return 0 if transport is None else transport.get_write_buffer_size()


def _offers(
    update: Update, part_bytes: int, first_part: int, *, moves: int = 0, abroad: bool = False
) -> Iterator[UpdateOffered]:
    """Yield the update's messages; nothing is cut before it is due."""
    for part in parts.cut(update.payload, part_bytes, first_part):
        yield UpdateOffered(
            sequence=update.sequence,
            base=update.base,
            steps=update.steps,
            examples=update.examples,
            loss=update.loss,
            seconds_per_step=update.seconds_per_step,
            part=part,
            whole=update.whole,
            base_age=update.base_age if abroad else None,
            moves=moves,
        )


def _keep_little_unsent(websocket: "aiohttp.ClientWebSocketResponse[Any]") -> None:
    """Where the kernel can, keep most of what is not sent yet on this side of it, where its progress is seen."""
    sock = websocket.get_extra_info("socket")
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if sock is not None and option is not None and hasattr(sock, "setsockopt"):
        sock.setsockopt(socket.IPPROTO_TCP, option, UNSENT_BYTES)
