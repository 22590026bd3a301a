"""The HTTP resources of enrolment. Who may ask for which is decided before a request comes here."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta

from coordinator.enrolment.desk import Desk
from coordinator.enrolment.records import PartyRow, TokenRow
from coordinator.enrolment.registry import Refusal
from skerry.identity.certificate import Identified
from skerry.protocol import frames
from skerry.protocol.errors import MalformedMessage
from skerry.protocol.messages import (
    Addresses,
    JoinRefused,
    JoinRequested,
    Name,
    Parties,
    RenewalRequested,
    Revocations,
    Sha256,
)

MSGPACK = "application/msgpack"
BODY_BYTES_MAX = 32 << 10
BODY_S = 10.0  # for a body to arrive
STATUS_OF = {"malformed": 400, "unknown": 403, "busy": 503, "name_taken": 409}  # others: 403

T = TypeVar("T")
RoleOfParty = Literal["agent", "coordinator", "admin"]


class TokenWanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator sends for a new join token. The secret stays with the operator."""

    identifier: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
    secret_sha256: Sha256
    ttl_s: float
    uses: int
    role: Literal["agent", "coordinator"] = "agent"
    region: Name | None = None
    name: Name | None = None
    addresses: Addresses = ()  # that a coordinator gets; none: those that it asks for


class RevocationWanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator sends to shut a party out."""

    role: RoleOfParty = "agent"
    key: Sha256 | None = None  # None: every key that the party has here


class TitleWanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator sends to call a party something else."""

    title: str
    role: RoleOfParty = "agent"


class EnrolmentApi:
    """Handlers over one desk."""

    def __init__(
        self, desk: Desk, *, caller_of: Callable[[web.Request], Identified | None], wall_clock: Callable[[], float]
    ) -> None:
        """`caller_of` returns whose certificate the connection of a request shows, None where it shows none."""
        self._desk = desk
        self._caller_of = caller_of
        self._wall_clock = wall_clock

    def add_to(self, application: web.Application) -> None:
        """Add the routes."""
        router = application.router
        router.add_get("/v1/enrolment/root", self.tell_root)
        router.add_post("/v1/enrolment/join", self.join)
        router.add_post("/v1/enrolment/renew", self.renew)
        router.add_get("/v1/federation/revocations", self.tell_revocations)
        router.add_get("/v1/federation/parties", self.tell_parties)
        router.add_get("/v1/admin/join-tokens", self.list_tokens)
        router.add_post("/v1/admin/join-tokens", self.create_token)
        router.add_post("/v1/admin/join-tokens/{identifier}/revoke", self.revoke_token)
        router.add_get("/v1/admin/devices", self.list_parties)
        router.add_post("/v1/admin/devices/{name}/revoke", self.revoke_party)
        router.add_post("/v1/admin/devices/{name}/title", self.rename_party)

    # --- parties ---

    async def tell_root(self, request: web.Request) -> web.Response:
        """Give the root's certificate; whoever joins compares its fingerprint with the join token's."""
        return web.Response(body=self._desk.root_pem, content_type="application/x-pem-file")

    async def join(self, request: web.Request) -> web.Response:
        """Let a party join; answered once that is on disk."""
        return await self._enrol(request, JoinRequested, self._desk.join)

    async def renew(self, request: web.Request) -> web.Response:
        """Give a party another certificate like the one that its connection shows."""
        caller = self._caller_of(request)
        if caller is None:
            raise web.HTTPForbidden(text="a certificate is renewed by whoever shows it, and this connection shows none")
        return await self._enrol(request, RenewalRequested, lambda asked: self._desk.renew(caller, asked))

    async def tell_revocations(self, request: web.Request) -> web.Response:
        """Tell a peer whose certificates count no more."""
        page, more = self._desk.registry.revocations(request.query.get("after", ""))
        return web.Response(body=frames.encode(Revocations(tuple(page), more)), content_type=MSGPACK)

    async def tell_parties(self, request: web.Request) -> web.Response:
        """Tell a peer who was enrolled."""
        page, up_to, more = self._desk.registry.told_parties(request.query.get("after", ""))
        return web.Response(body=frames.encode(Parties(tuple(page), up_to, more)), content_type=MSGPACK)

    # --- operators ---

    async def list_tokens(self, request: web.Request) -> web.Response:
        """Return every join token, without what one could join with."""
        now_s = self._wall_clock()
        return _json({"join_tokens": [_token(one, now_s) for one in self._desk.registry.tokens()]})

    async def create_token(self, request: web.Request) -> web.Response:
        """Take a join token whose secret the operator has drawn."""
        wanted = await _read(request, TokenWanted)
        token = await _decided(
            self._desk.create_token(
                wanted.identifier,
                bytes.fromhex(wanted.secret_sha256),
                role=wanted.role,
                ttl_s=wanted.ttl_s,
                uses=wanted.uses,
                region=wanted.region,
                name=wanted.name,
                addresses=wanted.addresses,
            )
        )
        return _json({**_token(token, self._wall_clock()), "root_sha256": self._desk.root_sha256.hex()})

    async def revoke_token(self, request: web.Request) -> web.Response:
        """Let nobody join with a join token any more."""
        token = await _decided(self._desk.revoke_token(request.match_info["identifier"]))
        return _json(_token(token, self._wall_clock()))

    async def list_parties(self, request: web.Request) -> web.Response:
        """Return every party that was enrolled here, those that were shut out too."""
        registry = self._desk.registry
        return _json(
            {"devices": [_party(one, registry.is_revoked(one.role, one.name, one.key)) for one in registry.parties()]}
        )

    async def revoke_party(self, request: web.Request) -> web.Response:
        """Shut a party out, at once and everywhere."""
        wanted = await _read(request, RevocationWanted)
        revoked = await _decided(self._desk.revoke(wanted.role, request.match_info["name"], wanted.key))
        return _json({"revoked": [one._asdict() for one in revoked]})

    async def rename_party(self, request: web.Request) -> web.Response:
        """Give a party another title."""
        wanted = await _read(request, TitleWanted)
        changed = await _decided(self._desk.rename(wanted.role, request.match_info["name"], wanted.title))
        return _json({"devices": [_party(one, revoked=False) for one in changed]})

    # --- inside ---

    @staticmethod
    async def _enrol(request: web.Request, kind: type[T], decide: Callable[[T], Awaitable[bytes]]) -> web.Response:
        """Answer with a frame either way: a machine reads the reason, a person the detail."""
        try:
            body = await _body(request)
            try:
                asked = frames.decode(body, kind, bytes_max=BODY_BYTES_MAX)
            except MalformedMessage as error:
                raise Refusal("malformed", str(error)[:500]) from None
            return web.Response(body=await decide(asked), content_type=MSGPACK)
        except Refusal as refusal:
            return web.Response(
                status=STATUS_OF.get(refusal.reason, 403),
                body=frames.encode(JoinRefused(refusal.reason, refusal.detail)),
                content_type=MSGPACK,
            )


async def _read(request: web.Request, kind: type[T]) -> T:
    body = await _body(request)
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise web.HTTPBadRequest(text=str(error)) from None


async def _body(request: web.Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            while not request.content.at_eof():
                body += await request.content.readany()
                if len(body) > BODY_BYTES_MAX:
                    raise web.HTTPRequestEntityTooLarge(max_size=BODY_BYTES_MAX, actual_size=len(body))
    except TimeoutError:
        raise web.HTTPRequestTimeout(text=f"the body did not come within {BODY_S:g} s") from None
    return bytes(body)


async def _decided(deciding: Awaitable[T]) -> T:
    """Answer an operator's mistake with what it is."""
    try:
        return await deciding
    except Refusal as refusal:
        status = {"unknown": web.HTTPNotFound, "busy": web.HTTPServiceUnavailable}.get(
            refusal.reason, web.HTTPBadRequest
        )
        raise status(text=refusal.detail) from None


def _token(token: TokenRow, now_s: float) -> dict[str, Any]:
    fields = token._asdict()
    del fields["secret_sha256"], fields["revoked"]
    return {**fields, "addresses": token.addresses.split(), "state": token.state(now_s)}


def _party(party: PartyRow, revoked: bool) -> dict[str, Any]:
    return {**party._asdict(), "addresses": party.addresses.split(), "revoked": revoked}


def _json(value: dict[str, Any]) -> web.Response:
    return web.Response(text=json.dumps(value), content_type="application/json")
