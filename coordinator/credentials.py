"""A coordinator's own certificate, and TLS with it.

It is renewed beneath a running service: connections that are made from then on show the new one.
"""

import ssl
from collections.abc import Callable

from cryptography import x509

from coordinator.config import CoordinatorConfig
from skerry.errors import ConfigError
from skerry.identity import tls
from skerry.identity.certificate import Identified, der_of, identify
from skerry.identity.errors import IdentityError, InvalidCertificateError
from skerry.identity.key_file import CERTIFICATE, ROOT, IdentityFolder


class Credentials:
    """What a coordinator shows, and whom it believes."""

    def __init__(self, folder: IdentityFolder, name: str, now_s: float) -> None:
        """Read and check the files of the identity.

        Raises:
            IdentityError: one is missing or damaged, or the certificate has expired.
            ConfigError: the certificate is another coordinator's.
        """
        self.folder, self._name = folder, name
        self.root: x509.Certificate = folder.certificates(ROOT)[0]
        self.own = self._read(now_s)
        self.server: ssl.SSLContext = tls.server_context(folder)
        self.client: ssl.SSLContext = tls.client_context(folder)

    def reload(self, now_s: float) -> None:
        """Show what lies in the folder now on every connection from now on.

        Raises:
            IdentityError, ConfigError: as when it was read first.
        """
        self.own = self._read(now_s)
        tls.reload(self.server, self.folder)
        tls.reload(self.client, self.folder)

    def peer_trouble(self, name: str, der: bytes, now_s: float, revoked: Callable[[Identified], bool]) -> str | None:
        """Return why a server is not to be taken for coordinator `name`, None if it is that one.

        Args:
            name: of the peer that was asked for.
            der: what the server has shown; TLS has verified that it is a server of the federation.
            now_s: wall clock.
            revoked: whether a certificate counts no more.
        """
        try:
            server = identify(der, self.root)
        except InvalidCertificateError as error:
            return str(error)
        if server.subject.role != "coordinator" or server.subject.name != name:
            return f"the certificate there is of {server.subject.uri}, not of coordinator {name}"
        if revoked(server):
            return f"the certificate of {server.subject.uri} was revoked"
        return None if now_s <= server.not_after_s else f"the certificate of {server.subject.uri} has expired"

    def _read(self, now_s: float) -> Identified:
        path = self.folder.find(CERTIFICATE)
        try:
            own = identify(der_of(self.folder.certificates(CERTIFICATE)[0]), self.root)
        except InvalidCertificateError as error:
            raise IdentityError(f"{path}: {error}: join again") from error
        if own.subject.role != "coordinator" or own.subject.name != self._name:
            raise ConfigError(
                f"name: this coordinator is {self._name!r}, and the certificate {path} is of {own.subject.uri}: "
                "correct the name, or join with it"
            )
        if now_s > own.not_after_s:
            raise IdentityError(f"{path}: the certificate has expired: join again, with a new join token")
        return own


def credentials_of(config: CoordinatorConfig, wall_clock: Callable[[], float]) -> Credentials | None:
    """Return what the configuration's coordinator shows; None where plain HTTP is spelt out.

    Raises:
        IdentityError, ConfigError: see `Credentials`.
    """
    return None if config.insecure else Credentials(config.identity_folder(), config.name, wall_clock())
