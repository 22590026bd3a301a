"""What a coordinator signs with: its issuer for devices and, where its key is, the root for all others."""

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from skerry.identity import key_file
from skerry.identity.authority import LIFETIME_S, Authority
from skerry.identity.certificate import Role, Subject
from skerry.identity.key_file import IdentityFolder


@dataclass(frozen=True, slots=True)
class Authorities:
    """The authorities of one coordinator."""

    root_certificate: x509.Certificate
    issuer: Authority
    root: Authority | None  # None: its key is elsewhere
    device_lifetime_s: float = LIFETIME_S["agent"]  # of a device's certificate

    @property
    def federation(self) -> str:
        """The federation that they sign for."""
        return self.issuer.federation

    def life_s(self, role: Role, now_s: float) -> float:
        """Return for how long a certificate counts that is signed now: for no longer than its issuer's."""
        above = self.issuer.certificate if role == "agent" else self.root_certificate
        life_s = self.device_lifetime_s if role == "agent" else LIFETIME_S[role]
        return min(life_s, above.not_valid_after_utc.timestamp() - now_s)

    def sign(
        self, subject: Subject, key: ec.EllipticCurvePublicKey, now_s: float, addresses: Sequence[str] = ()
    ) -> tuple[x509.Certificate, ...]:
        """Return a certificate, and behind it those that lead to the root without it."""
        if subject.role == "agent":
            issued = self.issuer.issue(subject, key, now_s, lifetime_s=self.device_lifetime_s)
            return issued, self.issuer.certificate
        assert self.root is not None, "the registry lets no coordinator in where there is no root"
        return (self.root.issue(subject, key, now_s, addresses=addresses),)


def load(folder: IdentityFolder, device_lifetime_s: float = LIFETIME_S["agent"]) -> Authorities:
    """Read a coordinator's authorities; `device_lifetime_s` is what devices' certificates get.

    Raises:
        IdentityError: a file is missing or damaged, or others may read a key.
    """
    return Authorities(
        folder.certificates(key_file.ROOT)[0],
        folder.authority(key_file.ISSUER_KEY, key_file.ISSUER),
        folder.authority(key_file.ROOT_KEY, key_file.ROOT) if folder.holds(key_file.ROOT_KEY) else None,
        device_lifetime_s,
    )
