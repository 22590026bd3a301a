"""What a certificate says: whose it is, in which federation and which role.

A party's name stands in its certificate's subject alternative names, as the URI `skerry://FEDERATION/ROLE/NAME`.
"""

import hashlib
import re
import warnings
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeGuard, cast, get_args

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID

from skerry.identity.errors import InvalidCertificateError

Role = Literal["agent", "coordinator", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
SCHEME = "skerry"
ISSUER_UNIT = "issuer"  # the organisational unit of an authority for devices
CERTIFICATE_BYTES_MAX = 8192  # DER; one with thirty addresses takes about 1500
FEDERATION = re.compile(r"[0-9a-f]{16}\Z")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")  # as skerry.protocol.messages.Name
# What `cryptography` raises for bytes that are no certificate, or one that it cannot make sense of.
MALFORMED = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose a certificate is.

    Raises:
        InvalidCertificateError: a part has another form.
    """

    federation: str  # 16 hex digits, drawn when the federation was made
    role: Role
    name: str  # of the device, the coordinator or the operator

    def __post_init__(self) -> None:
        """Check the form: what is made of it goes into certificates and file names."""
        if not FEDERATION.match(self.federation) or not _is_role(self.role) or not NAME.match(self.name):
            raise InvalidCertificateError(f"no subject of a federation: {self.uri[:200]!r}")

    @property
    def uri(self) -> str:
        """Its form in a certificate."""
        return f"{SCHEME}://{self.federation}/{self.role}/{self.name}"


class Issuer(NamedTuple):
    """The authority for devices that signed a certificate, by the name that the root's key has given it."""

    coordinator: str
    key_sha256: str  # hex, of the coordinator's own public key; "" where an older Skerry made the authority


@dataclass(frozen=True, slots=True)
class Identified:
    """A party whose certificate counts: TLS has proven that it holds the key."""

    subject: Subject
    key_sha256: str  # hex, of the public key (SubjectPublicKeyInfo): stays the same when the certificate is renewed
    serial: str  # hex
    not_before_s: float  # wall clock
    not_after_s: float
    issuer: Issuer | None = None  # None: the root itself
    addresses: tuple[str, ...] = ()  # host names and IP addresses that it may serve at, in the certificate's order


def parse(der: bytes) -> x509.Certificate:
    """Read a certificate of our own kind.

    Raises:
        InvalidCertificateError: too large, no certificate, or its key is not on P-256.
    """
    if len(der) > CERTIFICATE_BYTES_MAX:
        raise InvalidCertificateError(f"a certificate of {len(der)} bytes, at most {CERTIFICATE_BYTES_MAX}")
    try:
        with warnings.catch_warnings():  # of what it means to refuse one day
            warnings.simplefilter("error", CryptographyDeprecationWarning)
            certificate = x509.load_der_x509_certificate(der)
        check_key(certificate.public_key())
    except (CryptographyDeprecationWarning, *MALFORMED) as error:
        raise InvalidCertificateError("no certificate of a federation: it cannot be read") from error
    return certificate


def subject_of(der: bytes) -> Subject:
    """Return whose the certificate `der` says it is. Whether that is so, `identify` tells.

    Raises:
        InvalidCertificateError: no certificate, or one without exactly one name of ours.
    """
    return _subject(parse(der))


def identify(der: bytes, root: x509.Certificate) -> Identified:
    """Return whose the certificate is, TLS having verified that its chain ends at `root` and that it is in force.

    An authority that devices are enrolled with hangs below the root; it could write any role into what it signs. So
    the roles coordinator and admin count only in a certificate that the root's own key has signed.

    Raises:
        InvalidCertificateError: malformed, of another federation, or of a role that its issuer may not give.
    """
    certificate = parse(der)
    subject = _subject(certificate)
    if subject.federation != federation_of(root):
        raise InvalidCertificateError(f"a certificate of another federation: {subject.federation}")
    if subject.role != "agent":
        try:
            certificate.verify_directly_issued_by(root)
        except (InvalidSignature, *MALFORMED) as error:
            raise InvalidCertificateError(
                f"the certificate of {subject.uri} is not signed by the federation's root, which alone may make "
                f"one for the role {subject.role}"
            ) from error
    return Identified(
        subject,
        key_sha256(certificate.public_key()),
        f"{certificate.serial_number:x}",
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
        _issuer(certificate),
        addresses_of(certificate),
    )


def addresses_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the host names and IP addresses in a certificate, in its order.

    Raises:
        ExtensionNotFound and others of `MALFORMED`: it has no alternative names, or ones that cannot be read.
    """
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return tuple(str(one.value) for one in names if isinstance(one, x509.DNSName | x509.IPAddress))


def federation_of(authority: x509.Certificate) -> str:
    """Return the id of the federation whose root or issuer this is; it is the organisation of its subject.

    Raises:
        InvalidCertificateError: it is none.
    """
    values = [str(one.value) for one in authority.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    if len(values) != 1 or not FEDERATION.match(values[0]):
        raise InvalidCertificateError("no authority of a federation")
    return values[0]


def fingerprint(certificate: x509.Certificate) -> bytes:
    """Return the SHA-256 of a certificate's DER: 32 bytes."""
    return hashlib.sha256(der_of(certificate)).digest()


def key_sha256(key: object) -> str:
    """Return the SHA-256 of a public key, in hex: what a party is known by from one certificate to the next."""
    return hashlib.sha256(
        check_key(key).public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def check_key(key: object) -> ec.EllipticCurvePublicKey:
    """Return `key`, which is on P-256.

    Raises:
        ValueError: it is of another kind.
    """
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("the key is not on the curve P-256")  # noqa: TRY004 - as other malformed bytes
    return key


def der_of(certificate: x509.Certificate) -> bytes:
    """Return a certificate's bytes."""
    return certificate.public_bytes(serialization.Encoding.DER)


def pem_of(*certificates: x509.Certificate) -> bytes:
    """Return certificates as text, one behind the other."""
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


def _subject(certificate: x509.Certificate) -> Subject:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except MALFORMED as error:
        raise InvalidCertificateError("the certificate names no party of a federation") from error
    parts = uris[0].split("/") if len(uris) == 1 else []
    if len(parts) != 5 or parts[:2] != [f"{SCHEME}:", ""]:
        raise InvalidCertificateError("the certificate names no party of a federation")
    return Subject(parts[2], cast("Role", parts[3]), parts[4])


def _issuer(certificate: x509.Certificate) -> Issuer | None:
    """Return whose issuer has signed; TLS has seen that this is the name of the authority above.

    Raises:
        InvalidCertificateError: its issuer's name cannot be read.
    """
    wanted = (NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.COMMON_NAME, NameOID.SERIAL_NUMBER)
    try:
        issuer = certificate.issuer
    except MALFORMED as error:
        raise InvalidCertificateError("the certificate's issuer has a name that cannot be read") from error
    unit, name, key = ("".join(str(one.value) for one in issuer.get_attributes_for_oid(o)) for o in wanted)
    return Issuer(name, key) if unit == ISSUER_UNIT else None


def _is_role(role: str) -> TypeGuard[Role]:
    return role in ROLES
