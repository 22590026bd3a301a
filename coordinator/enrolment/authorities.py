"""What a coordinator signs with: its issuer for devices and, where its key is, the root for all others."""

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from skerry.identity import key_file
from skerry.identity.authority import Authority
from skerry.identity.certificate import Subject
from skerry.identity.key_file import IdentityFolder


@dataclass(frozen=True, slots=True)
class Authorities:
    """The authorities of one coordinator."""

    root_certificate: x509.Certificate
    issuer: Authority
    root: Authority | None  # None: its key is elsewhere

    @property
    def federation(self) -> str:
        """The federation that they sign for."""
        return self.issuer.federation

    def sign(
        self, subject: Subject, key: ec.EllipticCurvePublicKey, now_s: float, addresses: Sequence[str] = ()
    ) -> tuple[x509.Certificate, ...]:
        """Return a certificate, and behind it those that lead to the root without it."""
        if subject.role == "agent":
            return self.issuer.issue(subject, key, now_s), self.issuer.certificate
        assert self.root is not None, "the registry lets no coordinator in where there is no root"
        return (self.root.issue(subject, key, now_s, addresses=addresses),)


def load(folder: IdentityFolder) -> Authorities:
    """Read a coordinator's authorities.

    Raises:
        IdentityError: a file is missing or damaged, or others may read a key.
    """
    return Authorities(
        folder.certificates(key_file.ROOT)[0],
        folder.authority(key_file.ISSUER_KEY, key_file.ISSUER),
        folder.authority(key_file.ROOT_KEY, key_file.ROOT) if folder.holds(key_file.ROOT_KEY) else None,
    )
