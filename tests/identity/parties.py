"""A small federation for tests: its root, one coordinator with an issuer, and folders of its parties."""

import contextlib
import ssl
from pathlib import Path

from cryptography import x509

from skerry.identity import key_file
from skerry.identity.authority import Authority, make_key, make_root
from skerry.identity.certificate import Role, Subject, pem_of
from skerry.identity.key_file import IdentityFolder

FEDERATION = "0123456789abcdef"
OTHER_FEDERATION = "fedcba9876543210"
NOW_S = 1_800_000_000.0


class Federation:
    """Authorities, and what they sign."""

    def __init__(self, now_s: float, name: str = FEDERATION) -> None:
        self.now_s = now_s
        self.root = make_root(name, now_s)
        key, self.issuer_owner = make_key(), make_key().public_key()  # the owner: the key of coordinator eu-1
        self.issuer = Authority(self.root.issue_issuer("eu-1", key.public_key(), now_s, self.issuer_owner), key)

    def party(
        self,
        folder: Path,
        role: Role,
        name: str,
        *,
        authority: Authority | None = None,
        now_s: float | None = None,
        lifetime_s: float | None = None,
    ) -> IdentityFolder:
        """Write an identity, signed by the authority that signs that role, or by another.

        One that is there is renewed: it keeps its key.
        """
        signer = authority or (self.issuer if role == "agent" else self.root)
        identity = IdentityFolder(folder)
        key = identity.key(key_file.KEY) if identity.holds(key_file.KEY) else make_key()
        certificate = signer.issue(
            Subject(self.root.federation, role, name),
            key.public_key(),
            self.now_s if now_s is None else now_s,
            addresses=["localhost", "127.0.0.1"] if role == "coordinator" else (),
            lifetime_s=lifetime_s,
        )
        identity.write_key(key_file.KEY, key)
        above = () if signer is self.root else (signer.certificate,)
        identity.write(key_file.CERTIFICATE, pem_of(certificate, *above))
        identity.write(key_file.ROOT, pem_of(self.root.certificate))
        if role == "coordinator":
            identity.write_key(key_file.ISSUER_KEY, self.issuer.key)
            identity.write(key_file.ISSUER, pem_of(self.issuer.certificate))
        return identity


def certificate_of(identity: IdentityFolder) -> x509.Certificate:
    """Return the certificate that the party shows."""
    return identity.certificates(key_file.CERTIFICATE)[0]


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, host: str = "localhost") -> bytes | None:
    """Let the two connect in memory; return the client's certificate as the server has it.

    Raises:
        ssl.SSLError: one of them refused the other.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname=host),
    ]
    for _ in range(10):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return ends[0].getpeercert(binary_form=True)
