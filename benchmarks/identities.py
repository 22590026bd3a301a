"""Identities for the coordinators and agents of a benchmark, made at once and without a service that signs them."""

import time
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.enrolment import founding
from coordinator.enrolment.authorities import Authorities
from skerry.identity import key_file
from skerry.identity.authority import make_key
from skerry.identity.certificate import Subject, pem_of
from skerry.identity.key_file import IdentityFolder

FEDERATION = "0123456789abcdef"
ADDRESSES = ("127.0.0.1",)


def make_federation(coordinators: Mapping[str, Path], agents: Mapping[str, Path]) -> IdentityFolder:
    """Write the identity of each party, by name, into its folder; return the operator's.

    The first coordinator holds the root. Every agent's certificate is signed by that one's issuer.
    """
    now_s = time.time()
    first, *others = coordinators
    made = founding.found(
        IdentityFolder(coordinators[first]), federation=FEDERATION, coordinator=first, addresses=ADDRESSES, now_s=now_s
    )
    for name in others:
        folder = IdentityFolder(coordinators[name])
        key = _write(folder, made, Subject(FEDERATION, "coordinator", name), now_s)
        assert made.root is not None
        issuer_key = make_key()
        issuer = made.root.issue_issuer(name, issuer_key.public_key(), now_s, key.public_key())
        folder.write_key(key_file.ISSUER_KEY, issuer_key)
        folder.write(key_file.ISSUER, pem_of(issuer))
    for name, path in agents.items():
        _write(IdentityFolder(path), made, Subject(FEDERATION, "agent", name), now_s)
    return founding.admin_folder(coordinators[first])


def _write(folder: IdentityFolder, made: Authorities, subject: Subject, now_s: float) -> ec.EllipticCurvePrivateKey:
    """Write a party's key and certificate; return the key."""
    key = make_key()
    folder.write_key(key_file.KEY, key)
    addresses = ADDRESSES if subject.role == "coordinator" else ()
    folder.write(key_file.CERTIFICATE, pem_of(*made.sign(subject, key.public_key(), now_s, addresses)))
    folder.write(key_file.ROOT, pem_of(made.root_certificate))
    return key
