"""Who may ask for what: each resource wants a role, and the client's certificate must have it.

`judge` decides, for every request and before its handler runs. Where plain HTTP was spelt out nobody is asked.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from cryptography import x509

from skerry.identity.certificate import ROLES, Identified, Role, identify
from skerry.identity.errors import InvalidCertificateError

REFUSED_HEADER = "Skerry-Refused"  # beside 403: certificate, expired, role or revoked
CALLER: Final = web.RequestKey("caller", Identified)

_ANYONE: Final = None  # also without a certificate
_PARTIES = frozenset(ROLES)
_ADMIN: frozenset[Role] = frozenset({"admin"})
# The start of a resource, the longest that fits; what is not named is for operators.
WANTED: dict[str, frozenset[Role] | None] = {
    "/healthz": _ANYONE,
    "/readyz": _ANYONE,
    "/v1/enrolment/": _ANYONE,
    "/v1/enrolment/renew": _PARTIES,
    "/v1/agents/": frozenset({"agent"}),
    "/v1/bundles/": _PARTIES,
    "/v1/model": _PARTIES,
    "/v1/region": _PARTIES,
    "/v1/federation/": frozenset({"coordinator"}),
    "/v1/admin/": _ADMIN,
    "/metrics": frozenset({"admin", "coordinator"}),
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not answered."""

    reason: str
    detail: str


def wanted(resource: str) -> frozenset[Role] | None:
    """Return the roles that may ask for a resource, as the router names it; None: anybody may."""
    starts = [start for start in WANTED if resource.startswith(start)]
    return WANTED[max(starts, key=len)] if starts else _ADMIN


def judge(
    resource: str, caller: Identified | None, own_name: str, now_s: float, revoked: Callable[[Identified], bool]
) -> Refusal | None:
    """Return why `caller` may not ask for `resource`, None if it may.

    Args:
        resource: as the router names it.
        caller: whose certificate TLS has verified; None: none was shown.
        own_name: of this coordinator, whose own certificate is as good as an operator's.
        now_s: wall clock. TLS looks at it only when a connection begins.
        revoked: whether a certificate counts no more: it was revoked, or its name is another key's.
    """
    roles = wanted(resource)
    if roles is _ANYONE:
        return None
    if caller is None:
        return Refusal("certificate", "a certificate of the federation is needed: join it")
    if revoked(caller):
        return Refusal(
            "revoked",
            f"the certificate of {caller.subject.uri} counts no more: it was revoked, or another key came first under "
            "this name",
        )
    if now_s > caller.not_after_s:
        return Refusal("expired", f"the certificate of {caller.subject.uri} has expired: join again")
    if caller.subject.role in roles or ("admin" in roles and is_itself(caller, own_name)):
        return None
    return Refusal("role", f"{caller.subject.uri} may not ask for this: it is for {' and '.join(sorted(roles))}")


def is_itself(caller: Identified, own_name: str) -> bool:
    """Return whether a coordinator asks itself: whoever runs commands beside it has its key."""
    return caller.subject.role == "coordinator" and caller.subject.name == own_name


def caller_of(request: web.Request) -> Identified | None:
    """Return who asks; None: plain HTTP was spelt out, or no certificate was shown where none is needed."""
    return request.get(CALLER)


def middleware(
    root: x509.Certificate, own_name: str, wall_clock: Callable[[], float], revoked: Callable[[Identified], bool]
) -> Middleware:
    """Return what lets through whom `judge` does not refuse."""

    @web.middleware
    async def authorize(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        if resource is None:  # there is nothing of that name or no such method: says so to anybody
            return await handler(request)
        try:
            caller = _identified(request, root)
        except InvalidCertificateError as error:
            refusal: Refusal | None = Refusal("certificate", str(error))
        else:
            refusal = judge(resource.canonical, caller, own_name, wall_clock(), revoked)
            if caller is not None:
                request[CALLER] = caller
        if refusal is not None:
            raise web.HTTPForbidden(text=f"{refusal.detail}\n", headers={REFUSED_HEADER: refusal.reason})
        return await handler(request)

    return authorize


def _identified(request: web.Request, root: x509.Certificate) -> Identified | None:
    tls = request.get_extra_info("ssl_object")
    der = None if tls is None else tls.getpeercert(binary_form=True)
    return None if der is None else identify(der, root)
