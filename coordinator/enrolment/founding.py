"""Making a federation: its root, the first coordinator's identity, and the first operator's. Synchronous."""

from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.enrolment.authorities import Authorities
from skerry.errors import ConfigError
from skerry.identity import key_file
from skerry.identity.authority import Authority, check_addresses, make_key, make_root
from skerry.identity.certificate import Subject, pem_of
from skerry.identity.key_file import IdentityFolder

ADMIN = "admin"  # the first operator's name, and the folder of its identity


def found(
    folder: IdentityFolder, *, federation: str, coordinator: str, addresses: Sequence[str], now_s: float
) -> Authorities:
    """Make a federation and write the identities of its first coordinator and its first operator.

    What an earlier call left that did not come to its end is made anew.

    Args:
        folder: for the coordinator's identity; the operator's is made in its folder `admin`.
        federation: 16 random hex digits.
        coordinator: its name.
        addresses: host names and IP addresses that it is reached by.
        now_s: wall clock.

    Raises:
        ConfigError: an address is none, or there is an identity already.
        StorageError: the disk refused.
    """
    refuse_second(folder)
    check_addresses(addresses)
    root = make_root(federation, now_s)
    own_key, issuer_key = make_key(), make_key()
    issuer = Authority(root.issue_issuer(coordinator, issuer_key.public_key(), now_s, own_key.public_key()), issuer_key)
    folder.write_key(key_file.ROOT_KEY, root.key)
    folder.write_key(key_file.ISSUER_KEY, issuer_key)
    folder.write(key_file.ISSUER, pem_of(issuer.certificate))
    _write_party(admin_folder(folder.path), root, Subject(federation, "admin", ADMIN), make_key(), (), now_s)
    _write_party(folder, root, Subject(federation, "coordinator", coordinator), own_key, addresses, now_s)
    return Authorities(root.certificate, issuer, root)


def refuse_second(folder: IdentityFolder) -> None:
    """See that `folder` holds no identity yet.

    Raises:
        ConfigError: it does; a federation's root is never overwritten.
    """
    if folder.holds(key_file.CERTIFICATE):
        raise ConfigError(
            f"{folder.path}: holds an identity already: this coordinator is in a federation. To leave that for good, "
            "move the folder away; devices then have to join again"
        )


def admin_folder(path: Path) -> IdentityFolder:
    """Return where the first operator's identity is, below the identity folder of a coordinator."""
    return IdentityFolder(path / ADMIN)


def _write_party(
    folder: IdentityFolder,
    root: Authority,
    subject: Subject,
    key: ec.EllipticCurvePrivateKey,
    addresses: Sequence[str],
    now_s: float,
) -> None:
    """Write an identity; the certificate last, for with it the identity is there."""
    folder.write_key(key_file.KEY, key)
    folder.write(key_file.ROOT, pem_of(root.certificate))
    folder.write(key_file.CERTIFICATE, pem_of(root.issue(subject, key.public_key(), now_s, addresses=addresses)))
