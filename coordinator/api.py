"""The coordinator's HTTP resources, but for the agents' stream. Bodies are bounded; answers say what was wrong."""

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import formatdate
from functools import lru_cache, partial
from typing import Any, Literal, Protocol, TypeVar

import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware

from coordinator.admission import Allowances
from coordinator.authorization import caller_of
from coordinator.engine import EngineStatus, ModelSnapshot
from coordinator.enrolment.registry import Registry
from coordinator.events import (
    Answer,
    DeviceReleased,
    LedgerAsked,
    Malformed,
    PeerAdmitted,
    PeerModelArrived,
    TokenArrived,
)
from coordinator.intake import read_vector
from coordinator.metrics import CONTENT_TYPE, Metrics
from coordinator.model_state import Replica
from coordinator.peers import BUNDLE_HEADER, Peers
from coordinator.stream import Agents
from coordinator.threads import RunInThread
from skerry.errors import StorageError
from skerry.protocol import frames
from skerry.protocol.errors import MalformedMessage
from skerry.protocol.messages import PeerModel, PeerStatus, TokenPassed
from skerry.tasks.bundle import Bundle
from skerry.tasks.model_file import to_safetensors
from skerry.vector import Float32

MSGPACK = "application/msgpack"
DEVICE_MODELS_PER_S = 1.0  # that one device may ask for over HTTP
MESSAGE_BYTES_MAX = 64 << 10  # of a peer's message, its values aside

log = logging.getLogger(__name__)

T = TypeVar("T")
Json = dict[str, Any]


class Region(Protocol):
    """What the resources need of the engine."""

    @property
    def size(self) -> int:
        """Entries of the model."""

    async def ask(self, event: PeerModelArrived | TokenArrived | LedgerAsked | DeviceReleased | PeerAdmitted) -> Answer:
        """Hand over a peer's message, or an operator's wish; return the answer once it may be sent."""

    def model(self, kind: Literal["regional", "federated"] = "regional") -> ModelSnapshot:
        """Copy a model as it is now."""

    def replica(self, of: str) -> Replica | None:
        """Return what a peer published last, None: nothing that is known here."""

    def status(self) -> EngineStatus:
        """Return the state in numbers."""

    def peer_status(self, bundle: str) -> PeerStatus:
        """Return what peers are told."""


class Api:
    """Handlers over one region."""

    def __init__(
        self,
        region: Region,
        bundle: Bundle,
        peers: Peers,
        metrics: Metrics,
        run_in_thread: RunInThread,
        *,
        about: Callable[[], Mapping[str, Any]],
        ready: Callable[[], bool],
        progress_timeout_s: float,
        wall_clock: Callable[[], float],
    ) -> None:
        self._region = region
        self._bundle = bundle
        self._peers = peers
        self._metrics = metrics
        self._run_in_thread = run_in_thread
        self._about = about
        self._ready = ready
        self._progress_timeout_s = progress_timeout_s
        self._wall_clock = wall_clock
        self._models = Allowances(DEVICE_MODELS_PER_S)
        self._sends_model: set[str] = set()  # peers, of whom a model is being taken
        self.registry: Registry | None = None  # of enrolment; None: plain HTTP, where nobody is known

    def application(self, agents: Agents, middlewares: Iterable[Middleware] = ()) -> web.Application:
        """Return the routes; `middlewares` stand before every one of them."""
        application = web.Application(middlewares=middlewares)
        application.on_response_prepare.append(self._stamp)
        application.router.add_get("/v1/agents/stream", agents.handle)
        application.router.add_post("/v1/federation/model", self.take_model)
        application.router.add_post("/v1/federation/token", self.take_token)
        application.router.add_get("/v1/federation/status", partial(self.tell_peer, agents))
        application.router.add_get("/v1/federation/ledger", self.tell_ledger)
        application.router.add_get("/v1/federation/replica", self.give_replica)
        application.router.add_get("/v1/bundles/{sha256}", self.give_bundle)
        application.router.add_get("/v1/model", self.give_model)
        application.router.add_get("/v1/region", self.tell_party)
        application.router.add_get("/v1/admin/status", self.tell_operator)
        application.router.add_post("/v1/admin/devices/{device}/release", self.release_device)
        application.router.add_post("/v1/admin/peers/{peer}/admit", self.admit_peer)
        application.router.add_post("/v1/admin/drain", partial(self.drain, agents))
        application.router.add_get("/healthz", self.tell_health)
        application.router.add_get("/readyz", self.tell_readiness)
        application.router.add_get("/metrics", self.give_metrics)
        return application

    async def _stamp(self, _: web.Request, response: web.StreamResponse) -> None:
        """Say the time as this coordinator knows it: `skerry-agent doctor` compares clocks by it."""
        response.headers["Date"] = _http_date(int(self._wall_clock()))
        if isinstance(response, web.FileResponse):  # the bundle is what it contains, whenever its file was made
            response.last_modified = None
            response.etag = self._bundle.sha256

    # --- peers ---

    async def take_model(self, request: web.Request) -> web.Response:
        """Take a peer's publication; answered once it is on disk."""
        with self._taking_model(self._sender(request)):
            body = await self._body(request, 4 * self._region.size + MESSAGE_BYTES_MAX)
            message = await self._run_in_thread(lambda: _decode(body, PeerModel))
            self._check_peer(message.coordinator, request)
            size = self._region.size
            values = await self._run_in_thread(lambda: read_vector(message.values, size))
            if isinstance(values, Malformed):
                raise web.HTTPBadRequest(text=f"values: {values.detail}")
            return await self._answer(message.coordinator, body, PeerModelArrived(message, values))

    async def take_token(self, request: web.Request) -> web.Response:
        """Take the token from a peer; answered once that is on disk."""
        self._sender(request)
        body = await self._body(request, MESSAGE_BYTES_MAX)
        message = _decode(body, TokenPassed)
        self._check_peer(message.sender, request)
        return await self._answer(message.sender, body, TokenArrived(message))

    async def tell_peer(self, agents: Agents, request: web.Request) -> web.Response:
        """Give a sign of life; no agents are to be sent here where none are taken."""
        status = self._region.peer_status(self._bundle.sha256)
        if not agents.takes_agents:
            status = msgspec.structs.replace(status, url=None)
        if self.registry is not None:
            status = msgspec.structs.replace(status, revocations=self.registry.digest, parties=self.registry.place)
        return web.Response(body=frames.encode(status), content_type=MSGPACK)

    async def tell_ledger(self, request: web.Request) -> web.Response:
        """Tell a peer which updates are on the disk here, or were on its own, behind the place that it has come to."""
        of = request.query.get("of")
        if of is not None:
            self._check_peer(of, request)
        try:
            answer = await self._region.ask(LedgerAsked(request.query.get("after", ""), of=of))
        except StorageError as error:
            raise web.HTTPServiceUnavailable(text=str(error)) from None
        return web.Response(body=_encoded(answer), content_type=MSGPACK)

    async def give_replica(self, request: web.Request) -> web.Response:
        """Give a peer that lost its state what it published last, whole."""
        await self._body(request, 0)
        name = request.query.get("of", "")
        self._check_peer(name, request)
        replica = self._region.replica(name)
        if replica is None:
            raise web.HTTPNotFound(text=f"{name} has published nothing that is known here")
        message = PeerModel(
            coordinator=name,
            lineage=replica.lineage,
            broadcast=replica.broadcast,
            age=replica.age,
            publication=replica.number,
            base=None,
            values=replica.whole(),
        )
        return web.Response(body=frames.encode(message), content_type=MSGPACK)

    def _sender(self, request: web.Request) -> str | None:
        """Return which peer sends something, before that is read; None: plain HTTP, where only the message tells."""
        caller = caller_of(request)
        if caller is None:
            return None
        self._check_known(caller.subject.name)
        return caller.subject.name

    @contextmanager
    def _taking_model(self, sender: str | None) -> Iterator[None]:
        """Take one model of a peer at a time, from its first byte to the disk: each has as much memory as our own."""
        if sender is None:
            yield
            return
        if sender in self._sends_model:
            raise web.HTTPServiceUnavailable(text=f"another model of {sender!r} is still under way: come back later")
        self._sends_model.add(sender)
        try:
            yield
        finally:
            self._sends_model.remove(sender)

    def _check_peer(self, name: str, request: web.Request) -> None:
        caller = caller_of(request)
        if caller is not None and caller.subject.name != name:
            raise web.HTTPForbidden(text=f"{caller.subject.uri} speaks for itself alone, not for coordinator {name!r}")
        self._check_known(name)

    def _check_known(self, name: str) -> None:
        if not self._peers.knows(name):
            raise web.HTTPForbidden(
                text=f"coordinator {name!r} is no peer of this one: see `peers` in its configuration"
            )

    async def _body(self, request: web.Request, bytes_max: int) -> bytes:
        """Return the body of a peer's request, which must be about the same bundle."""
        bundle = request.headers.get(BUNDLE_HEADER)
        if bundle != self._bundle.sha256:
            raise web.HTTPConflict(text=f"this region trains bundle {self._bundle.sha256}, not {bundle}")
        if (request.content_length or 0) > bytes_max:
            raise web.HTTPRequestEntityTooLarge(max_size=bytes_max, actual_size=request.content_length or 0)
        body = bytearray()
        while not request.content.at_eof():
            try:
                async with asyncio.timeout(self._progress_timeout_s):
                    body += await request.content.readany()
            except TimeoutError:
                raise web.HTTPRequestTimeout(text=f"no byte for {self._progress_timeout_s:g} s") from None
            if len(body) > bytes_max:
                raise web.HTTPRequestEntityTooLarge(max_size=bytes_max, actual_size=len(body))
        return bytes(body)

    async def _answer(self, peer: str, body: bytes, event: PeerModelArrived | TokenArrived) -> web.Response:
        try:
            answer = _encoded(await self._region.ask(event))
        except StorageError as error:
            raise web.HTTPServiceUnavailable(text=str(error)) from None
        self._peers.count_received(peer, received_bytes=len(body), sent_bytes=len(answer))
        return web.Response(body=answer, content_type=MSGPACK)

    # --- agents, and whoever wants the model ---

    async def give_bundle(self, request: web.Request) -> web.StreamResponse:
        """Send the task's bundle."""
        if request.match_info["sha256"] != self._bundle.sha256:
            raise web.HTTPNotFound(text=f"this region trains bundle {self._bundle.sha256}")
        headers = {"Content-Type": "application/zip", "Cache-Control": "public, max-age=31536000, immutable"}
        return web.FileResponse(self._bundle.path, headers=headers)

    async def give_model(self, request: web.Request) -> web.Response:
        """Send a model as safetensors; `kind` is regional or federated."""
        caller = caller_of(request)
        if caller is not None and caller.subject.role == "agent":  # it gets the model on its stream; this is dear
            now_s = asyncio.get_running_loop().time()
            if not self._models.take(caller.subject.name, now_s):
                raise web.HTTPTooManyRequests(text="too many models for one device\n", headers={"Retry-After": "1"})
        kind = request.query.get("kind", "regional")
        if kind not in {"regional", "federated"}:
            raise web.HTTPBadRequest(text=f"kind={kind!r} is neither regional nor federated")
        snapshot = self._region.model("federated" if kind == "federated" else "regional")
        tag = f"{snapshot.version.lineage}@{snapshot.version.number}"
        if kind == "federated":  # it also changes with the replicas, which have no part in the version
            digest = await self._run_in_thread(lambda: _digest(snapshot.values))
            tag += f"-{digest}"
        if f'"{tag}"' in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers={"ETag": f'"{tag}"'})
        metadata = {
            "kind": kind,
            "lineage": snapshot.version.lineage,
            "version": str(snapshot.version.number),
            "age": repr(snapshot.age),
            "trained": "yes" if snapshot.trained else "no",
            "bundle": self._bundle.sha256,
        }
        layout = self._bundle.manifest.layout
        body = await self._run_in_thread(lambda: to_safetensors(layout, snapshot.values, metadata))
        return web.Response(
            body=body,
            content_type="application/octet-stream",
            headers={"ETag": f'"{tag}"', "Content-Disposition": f'attachment; filename="{kind}.safetensors"'},
        )

    async def tell_party(self, request: web.Request) -> web.Response:
        """Say what this region is about."""
        about, status = self._about(), self._region.status()
        told = {key: about[key] for key in ("coordinator", "region", "bundle")} | {"cycle_s": status.cycle_s}
        return web.json_response(told)

    # --- operators ---

    async def tell_operator(self, request: web.Request) -> web.Response:
        """Return everything that is known, as JSON."""
        status = {**self._about(), **msgspec.to_builtins(self._region.status())}
        return web.Response(text=json.dumps(status, indent=1), content_type="application/json")

    async def release_device(self, request: web.Request) -> web.Response:
        """Let a device out of the guard's quarantine; answered once that is on disk."""
        device = request.match_info["device"]
        try:
            released = await self._region.ask(DeviceReleased(device))
        except StorageError as error:
            raise web.HTTPServiceUnavailable(text=str(error)) from None
        if not released:
            raise web.HTTPNotFound(text=f"device {device!r} is not in quarantine here")
        return web.Response(text=json.dumps({"released": device}), content_type="application/json")

    async def admit_peer(self, request: web.Request) -> web.Response:
        """Let a peer's models be merged again; answered once that is on disk."""
        peer = request.match_info["peer"]
        try:
            admitted = await self._region.ask(PeerAdmitted(peer))
        except StorageError as error:
            raise web.HTTPServiceUnavailable(text=str(error)) from None
        if not admitted:
            raise web.HTTPNotFound(text=f"the model of peer {peer!r} is not refused here")
        return web.Response(text=json.dumps({"admitted": peer}), content_type="application/json")

    async def drain(self, agents: Agents, request: web.Request) -> web.Response:
        """Send the agents elsewhere, for good: a restart takes them again. Peers are served as before."""
        elsewhere = sorted(self._peers.serving_agents())
        sent_away = await agents.send_away()
        log.info("drained: %d agents were asked to go elsewhere: %s", sent_away, ", ".join(elsewhere) or "nobody known")
        told = {"sent_away": sent_away, "elsewhere": elsewhere}
        return web.Response(text=json.dumps(told), content_type="application/json")

    async def tell_health(self, request: web.Request) -> web.Response:
        """Say that the process is alive: whoever reads this has its answer."""
        return web.Response(text="ok\n")

    async def tell_readiness(self, request: web.Request) -> web.Response:
        """Say whether one more agent is served."""
        if self._ready():
            return web.Response(text="ready\n")
        return web.Response(status=503, text="stopping, drained, or full\n")

    async def give_metrics(self, request: web.Request) -> web.Response:
        """Return the metrics in Prometheus' text form."""
        return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return frames.decode(body, kind, bytes_max=len(body))
    except MalformedMessage as error:
        raise web.HTTPBadRequest(text=str(error)) from None


def _encoded(answer: Answer) -> bytes:
    assert not isinstance(answer, bool), "only operators are answered so"
    return frames.encode(answer)


@lru_cache(maxsize=4)
def _http_date(second: int) -> str:
    """Return Unix time as in a Date header; most answers of a busy coordinator are of one second."""
    return formatdate(second, usegmt=True)


def _digest(values: Float32) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()[:16]
