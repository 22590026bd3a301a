"""The authorities of a federation: the root, and below it one issuer on each coordinator.

The root signs coordinators, operators and issuers. An issuer signs devices, so that no enrolment hangs on one server;
it can sign nothing that a server may show, and no authority (its path length is 0).
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from skerry.errors import ConfigError
from skerry.identity.certificate import FEDERATION, ISSUER_UNIT, Role, Subject, federation_of, key_sha256

DAY_S = 86400.0
ROOT_S = 3650 * DAY_S
ISSUER_S = 365 * DAY_S
LIFETIME_S: dict[Role, float] = {"agent": 90 * DAY_S, "coordinator": 365 * DAY_S, "admin": 365 * DAY_S}
CLOCK_MARGIN_S = 3600.0  # certificates count from so long before they are made: clocks differ

_USAGES = {
    "agent": [ExtendedKeyUsageOID.CLIENT_AUTH],
    "coordinator": [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
    "admin": [ExtendedKeyUsageOID.CLIENT_AUTH],
}


@dataclass(frozen=True, slots=True)
class Authority:
    """A key that signs, and its certificate."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def federation(self) -> str:
        """The federation that it signs for."""
        return federation_of(self.certificate)

    def issue(
        self,
        subject: Subject,
        key: ec.EllipticCurvePublicKey,
        now_s: float,
        *,
        addresses: Iterable[str] = (),
        lifetime_s: float | None = None,
    ) -> x509.Certificate:
        """Return a certificate for `key`, for no longer than this authority's own.

        Args:
            subject: whose it is; of this authority's federation.
            key: on P-256.
            now_s: wall clock.
            addresses: host names and IP addresses that a coordinator is reached by.
            lifetime_s: None: as the role has it.

        Raises:
            ConfigError: an address is none.
        """
        assert subject.federation == self.federation
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(subject.uri)]
        names += [_address(one) for one in dict.fromkeys(addresses)]
        lifetime_s = LIFETIME_S[subject.role] if lifetime_s is None else lifetime_s
        return self._sign(
            _begin(_name(subject.federation, subject.role, subject.name), key, now_s, lifetime_s, self.certificate)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(_USAGES[subject.role]), critical=False)
        )

    def issue_issuer(
        self, name: str, key: ec.EllipticCurvePublicKey, now_s: float, coordinator_key: ec.EllipticCurvePublicKey
    ) -> x509.Certificate:
        """Return the certificate of coordinator `name`'s issuer: for what clients show, no further authority.

        Its name holds the coordinator's own key: what it signs counts as long as that one was not revoked.
        """
        owner = x509.NameAttribute(NameOID.SERIAL_NUMBER, key_sha256(coordinator_key))
        subject = x509.Name([*_name(self.federation, ISSUER_UNIT, name), owner])
        return self._sign(
            _begin(subject, key, now_s, ISSUER_S, self.certificate)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            # Holds for all below it: a server that shows a certificate of an issuer is refused.
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        )

    def _sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        own = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
        return builder.add_extension(identifier, critical=False).sign(self.key, hashes.SHA256())


def make_root(federation: str, now_s: float) -> Authority:
    """Return a new federation's root; `federation` is 16 random hex digits."""
    assert FEDERATION.match(federation)
    key = make_key()
    builder = (
        _begin(_name(federation, "root", "root"), key.public_key(), now_s, ROOT_S, None)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
    )
    return Authority(builder.sign(key, hashes.SHA256()), key)


def make_key() -> ec.EllipticCurvePrivateKey:
    """Return a new key on P-256, drawn by OpenSSL."""
    return ec.generate_private_key(ec.SECP256R1())


def check_addresses(addresses: Iterable[str]) -> None:
    """See that each is a host name or an IP address.

    Raises:
        ConfigError: one is neither.
    """
    for one in addresses:
        _address(one)


def _begin(
    name: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now_s: float,
    lifetime_s: float,
    issuer: x509.Certificate | None,
) -> x509.CertificateBuilder:
    now = datetime.fromtimestamp(now_s, UTC).replace(microsecond=0)
    ends = now + timedelta(seconds=lifetime_s)
    if issuer is not None:
        ends = min(ends, issuer.not_valid_after_utc)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if issuer is None else issuer.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(seconds=CLOCK_MARGIN_S))
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(federation: str, unit: str, name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, federation),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _address(text: str) -> x509.GeneralName:
    """Return a host name or an IP address as a certificate names it.

    Raises:
        ConfigError: it is neither.
    """
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    labels = text.split(".")
    if len(text) > 253 or not all(0 < len(one) <= 63 and one.isascii() and _is_label(one) for one in labels):
        raise ConfigError(f"{text!r} is no host name and no IP address: give it without scheme and port")
    return x509.DNSName(text)


def _is_label(text: str) -> bool:
    return text.replace("-", "").replace("_", "").isalnum() and not text.startswith("-") and not text.endswith("-")
