"""How a machine becomes a party of a federation, and stays one: what the `join` commands of both services share.

The root's certificate is fetched from a server that nobody vouches for, and believed only if its fingerprint is the one
in the join token. Only then is the secret sent, over a connection that this root vouches for.
"""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal
from urllib.parse import urlsplit

import aiohttp
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from skerry import connection_error
from skerry.errors import ConfigError, SkerryError
from skerry.identity import certificate as certificates
from skerry.identity import key_file, request, tls
from skerry.identity.authority import CLOCK_MARGIN_S, make_key
from skerry.identity.certificate import Subject
from skerry.identity.errors import IdentityError, InvalidCertificateError
from skerry.identity.join_token import JoinToken
from skerry.identity.key_file import IdentityFolder
from skerry.protocol import frames
from skerry.protocol.errors import MalformedMessage
from skerry.protocol.messages import Enrolling, Joined, JoinRefused, JoinRequested, RenewalRequested

ANSWER_BYTES_MAX = 64 << 10
ANSWER_S = 30.0  # for one answer, the handshake included

Connector = Callable[[], aiohttp.BaseConnector]


class NotReachedError(SkerryError):
    """No coordinator answers at that address, or not as one should."""


class FixedCertificateError(IdentityError):
    """The certificate is a credential of the service manager, which alone can put another one in its place."""


class ClockError(IdentityError):
    """This machine's clock is so wrong that no certificate would count."""


class JoinRefusedError(IdentityError):
    """The coordinator lets this machine not in; the text is the coordinator's and says why."""

    def __init__(self, refused: JoinRefused) -> None:
        super().__init__(refused.detail)
        self.reason = refused.reason


def own_key(folder: IdentityFolder, name: str = key_file.KEY) -> ec.EllipticCurvePrivateKey:
    """Return the key in `folder`; make and keep one where there is none.

    It is kept before anybody hears of it: should the answer be lost, joining again with the same key gives it again.

    Raises:
        IdentityError: there is one that cannot be used.
        StorageError: the disk refused.
    """
    if not folder.holds(name):
        folder.write_key(name, make_key())
    return folder.key(name)


async def join(
    url: str,
    token: JoinToken,
    folder: IdentityFolder,
    *,
    role: Literal["agent", "coordinator"],
    name: str | None,
    wall_clock: Callable[[], float],
    addresses: Sequence[str] = (),
    connector: Connector = aiohttp.TCPConnector,
) -> Joined:
    """Join the federation of the coordinator at `url`, and keep the identity in `folder`.

    Args:
        url: `https://HOST:PORT` of a coordinator that knows the join token.
        token: the join token.
        folder: where the identity is kept; a key that lies there already is used.
        role: what this machine is to be.
        name: what it is to be called; None: as the join token says, or the coordinator chooses.
        wall_clock: seconds since 1970.
        addresses: of a coordinator: host names and IP addresses that it is reached by.
        connector: makes what connects.

    Raises:
        ConfigError: `url` is none.
        ClockError: this machine's clock is wrong.
        JoinRefusedError: the coordinator refuses.
        IdentityError: the join token is of another federation, or an own file cannot be used.
        NotReachedError: nobody answers there, or not as a coordinator should.
        StorageError: the disk refused.
    """
    key = own_key(folder)
    issuer_key = own_key(folder, key_file.ISSUER_KEY) if role == "coordinator" else None
    root = await fetch_root(url, token, wall_clock=wall_clock, connector=connector)
    asked = JoinRequested(
        token.identifier,
        token.secret,
        role,
        name,
        request.make(key),
        None if issuer_key is None else request.make(issuer_key),
        tuple(addresses),
    )
    context = tls.joining_context(certificates.pem_of(root).decode())
    joined = await _enrol(f"{url.rstrip('/')}/v1/enrolment/join", asked, context, connector)
    if name is not None and joined.name != name:
        raise NotReachedError(f"{url}: gave the name {joined.name!r} instead of {name!r}")
    folder.write(key_file.ROOT, certificates.pem_of(root))
    _keep(folder, joined, Subject(certificates.federation_of(root), role, joined.name), root, url, wall_clock())
    return joined


async def renew(
    url: str,
    folder: IdentityFolder,
    *,
    wall_clock: Callable[[], float],
    addresses: Sequence[str] = (),
    connector: Connector = aiohttp.TCPConnector,
) -> Joined:
    """Get another certificate for the key in `folder` from the coordinator at `url`, and keep it there.

    It takes the place of one that counts, so it is kept only if it is no worse: it must end no sooner.

    Raises:
        FixedCertificateError: a new one would stand behind the old one.
        JoinRefusedError: the coordinator refuses.
        IdentityError: an own file cannot be used.
        NotReachedError: nobody answers there, or not as a coordinator should.
        StorageError: the disk refused.
    """
    if folder.is_credential(key_file.CERTIFICATE):
        raise FixedCertificateError(
            f"{folder.find(key_file.CERTIFICATE)}: is a credential of the service manager, and half of its life is "
            "over: replace it where it comes from and restart, or leave it out and join"
        )
    root = folder.certificates(key_file.ROOT)[0]
    before = folder.certificates(key_file.CERTIFICATE)
    own = certificates.subject_of(certificates.der_of(before[0]))
    issuer_request = request.make(folder.key(key_file.ISSUER_KEY)) if own.role == "coordinator" else None
    asked = RenewalRequested(request.make(folder.key(key_file.KEY)), issuer_request, tuple(addresses))
    renewed = await _enrol(f"{url.rstrip('/')}/v1/enrolment/renew", asked, tls.client_context(folder), connector)
    _keep(folder, renewed, own, root, url, wall_clock(), _end(before))
    return renewed


async def fetch_root(
    url: str, token: JoinToken, *, wall_clock: Callable[[], float], connector: Connector = aiohttp.TCPConnector
) -> x509.Certificate:
    """Return the root of the federation that the coordinator at `url` belongs to: it is the one of the join token.

    Raises:
        ConfigError, ClockError, IdentityError, NotReachedError: as for `join`.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise ConfigError(f"{url!r} is no https:// URL of a coordinator, such as https://eu.example.org:8470")
    where = f"{url.rstrip('/')}/v1/enrolment/root"
    status, body, date = await _exchange("GET", where, None, tls.unverified_context(), connector)
    if status == 503:
        raise _not_ready(where, body)
    if status != 200:
        raise NotReachedError(f"{where}: HTTP {status}: {_text(body)}: is this a coordinator's address?")
    try:
        root = x509.load_pem_x509_certificate(body)
        certificates.federation_of(root)
    except (*certificates.MALFORMED, InvalidCertificateError):
        raise NotReachedError(f"{where}: answers with no root certificate: is this a coordinator's address?") from None
    if certificates.fingerprint(root) != token.root_sha256:
        raise IdentityError(
            f"this join token is of another federation than the coordinator at {url}: that one's root has the "
            f"fingerprint {certificates.fingerprint(root).hex()[:16]}..., the join token names "
            f"{token.root_sha256.hex()[:16]}...: check the URL, or ask for a join token made there"
        )
    _check_clock(date, root, url, wall_clock())
    return root


def _check_clock(date: str | None, root: x509.Certificate, url: str, now_s: float) -> None:
    """Compare this machine's clock with the coordinator's, as far as that one tells.

    Raises:
        ClockError: they are too far apart for certificates to count.
    """
    try:
        theirs_s = parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        theirs_s = max(now_s, root.not_valid_before_utc.timestamp())
    ahead_s = now_s - theirs_s
    if abs(ahead_s) > CLOCK_MARGIN_S / 2:
        raise ClockError(
            f"this machine's clock is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the clock of the "
            f"coordinator at {url}: certificates would not count. Set it, for example with `timedatectl set-ntp true`"
        )


def _keep(
    folder: IdentityFolder,
    joined: Joined,
    own: Subject,
    root: x509.Certificate,
    url: str,
    now_s: float,
    until: datetime | None = None,
) -> None:
    """Look at what a coordinator answered, and write it down: the certificate last, for with it one has joined.

    `until`: no certificate that ends sooner is kept.

    Raises:
        NotReachedError: it is not what was asked for.
        StorageError: the disk refused.
    """
    try:
        chain = [certificates.parse(der) for der in joined.certificates]
        if certificates.subject_of(joined.certificates[0]) != own:
            raise InvalidCertificateError(f"the certificate is not for {own.uri}")
        if chain[0].public_key() != folder.key(key_file.KEY).public_key():
            raise InvalidCertificateError("the certificate is for another key")
        for one, above in zip(chain, [*chain[1:], root], strict=True):
            one.verify_directly_issued_by(above)
        _check_counts(chain, root, now_s)
        if until is not None and _end(chain) < until:
            raise InvalidCertificateError(f"the certificate ends on {_end(chain)}, and the one here on {until}")
        issuer = None if joined.issuer is None else certificates.parse(joined.issuer)
        if own.role == "coordinator":
            if issuer is None or issuer.public_key() != folder.key(key_file.ISSUER_KEY).public_key():
                raise InvalidCertificateError("there is no certificate for the key that signs devices")
            issuer.verify_directly_issued_by(root)
    except (InvalidCertificateError, InvalidSignature, *certificates.MALFORMED) as error:
        raise NotReachedError(f"{url}: answered with certificates that do not fit: {error}") from error
    if own.role == "coordinator" and issuer is not None:
        folder.write(key_file.ISSUER, certificates.pem_of(issuer))
    folder.write(key_file.CERTIFICATE, certificates.pem_of(*chain))


def _check_counts(chain: Sequence[x509.Certificate], root: x509.Certificate, now_s: float) -> None:
    """See that whoever shows `chain` is let in, by any server of the federation and at this time.

    Raises:
        InvalidCertificateError: it is not.
    """
    try:
        policy = PolicyBuilder().store(Store([root])).time(datetime.fromtimestamp(now_s, UTC)).max_chain_depth(1)
        policy.build_client_verifier().verify(chain[0], list(chain[1:]))
    except VerificationError as error:
        raise InvalidCertificateError(f"the certificate does not count: {error}") from error


def _end(chain: Sequence[x509.Certificate]) -> datetime:
    """Return until when a certificate counts, and those that lead from it to the root."""
    return min(one.not_valid_after_utc for one in chain)


async def _enrol(
    where: str, asked: JoinRequested | RenewalRequested, context: ssl.SSLContext, connector: Connector
) -> Joined:
    status, body, _ = await _exchange("POST", where, frames.encode(asked), context, connector)
    try:
        answer = frames.decode(body, Enrolling, bytes_max=ANSWER_BYTES_MAX)
    except MalformedMessage:
        if status == 503:
            raise _not_ready(where, body) from None
        raise NotReachedError(f"{where}: HTTP {status}: {_text(body)}") from None
    match answer:
        case Joined():
            return answer
        case JoinRefused():
            raise JoinRefusedError(answer)
        case _:
            raise NotReachedError(f"{where}: answers with a question")


async def _exchange(
    method: str, where: str, body: bytes | None, context: ssl.SSLContext, connector: Connector
) -> tuple[int, bytes, str | None]:
    """Return status, body and date of the answer.

    Raises:
        NotReachedError: there was none.
    """
    try:
        async with (
            asyncio.timeout(ANSWER_S),
            aiohttp.ClientSession(connector=connector()) as session,
            session.request(method, where, data=body, ssl=context, allow_redirects=False) as response,
        ):
            answer = bytearray()
            async for chunk in response.content.iter_any():
                answer += chunk
                if len(answer) > ANSWER_BYTES_MAX:
                    raise NotReachedError(f"{where}: answers with more than {ANSWER_BYTES_MAX} bytes")
            return response.status, bytes(answer), response.headers.get("Date")
    except aiohttp.ClientConnectorCertificateError as error:
        raise NotReachedError(_of_certificate(where, str(error.certificate_error))) from None
    except TimeoutError:
        raise NotReachedError(f"{where}: no answer within {ANSWER_S:g} s") from None
    except aiohttp.ClientConnectorError as error:
        raise NotReachedError(f"no connection to {where}: {connection_error.reason(error)}") from None
    except (aiohttp.ClientError, OSError) as error:
        raise NotReachedError(f"{where}: {connection_error.reason(error)}") from None


def _not_ready(where: str, body: bytes) -> NotReachedError:
    """Say what a coordinator says that is starting or stopping."""
    return NotReachedError(f"{where}: is not ready now, so try again in a minute; it says: {_text(body)}")


def _of_certificate(where: str, reason: str) -> str:
    """Say why a server is not believed, and what to do."""
    host = urlsplit(where).hostname
    if "mismatch" in reason or "doesn't match" in reason or "not valid for" in reason:
        return (
            f"{where}: the coordinator's certificate is not for the address {host!r}: use an address that it was made "
            f"with, or add this one there: `skerry-coordinator init --address {host}`"
        )
    if "not yet valid" in reason or "expired" in reason:
        return f"{where}: the coordinator's certificate does not count at this time: is this machine's clock right?"
    return f"{where}: the coordinator's certificate is not of this federation: {reason}"


def _text(body: bytes) -> str:
    """Return what somebody answered so that it cannot steer a terminal."""
    return "".join(one if one.isprintable() else " " for one in body[:200].decode(errors="replace")).strip()
