"""The identity of this machine's own service: read, checked, and when to renew it."""

from cryptography import x509

from skerry.errors import ConfigError
from skerry.identity.authority import CLOCK_MARGIN_S
from skerry.identity.certificate import MALFORMED, Identified, Role, addresses_of, der_of, identify
from skerry.identity.errors import IdentityError, InvalidCertificateError
from skerry.identity.key_file import CERTIFICATE, ROOT, IdentityFolder


def read_own(folder: IdentityFolder, role: Role, name: str, now_s: float) -> tuple[x509.Certificate, Identified]:
    """Return the federation's root and whose certificate lies in `folder`: it is `name`'s, and in force.

    Raises:
        IdentityError: a file is missing or damaged, or the certificate has expired.
        ConfigError: the certificate is of another role or name.
    """
    path = folder.find(CERTIFICATE)
    root = folder.certificates(ROOT)[0]
    try:
        own = identify(der_of(folder.certificates(CERTIFICATE)[0]), root)
    except InvalidCertificateError as error:
        raise IdentityError(f"{path}: {error}: join again") from error
    if (own.subject.role, own.subject.name) != (role, name):
        raise ConfigError(
            f"the configuration is of {role} {name!r}, and the certificate {path} of {own.subject.role} "
            f"{own.subject.name!r}: correct the name, or join with it"
        )
    check_in_force(own, now_s)
    return root, own


def check_in_force(own: Identified, now_s: float) -> None:
    """See that a certificate of our own still counts.

    Raises:
        IdentityError: it has expired.
    """
    if now_s > own.not_after_s:
        raise IdentityError(
            f"the certificate of {own.subject.uri} has expired {now_s - own.not_after_s:.0f} s ago by this machine's "
            "clock: join again, with a new join token; or set the clock"
        )


def renewal_due_s(own: Identified, now_s: float) -> float:
    """Return in how many seconds a certificate is to be renewed: at half of its life; 0 or less: now."""
    issued_s = min(own.not_before_s + CLOCK_MARGIN_S, own.not_after_s)
    return issued_s + (own.not_after_s - issued_s) / 2 - now_s


def own_addresses(folder: IdentityFolder) -> tuple[str, ...]:
    """Return the host names and IP addresses in a coordinator's certificate, in its order: a renewal asks for the same.

    Raises:
        IdentityError: it is missing or damaged.
    """
    certificate = folder.certificates(CERTIFICATE)[0]
    try:
        return addresses_of(certificate)
    except MALFORMED as error:
        raise IdentityError(f"{folder.find(CERTIFICATE)}: names no address: join again") from error
