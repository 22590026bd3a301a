"""A coordinator's own certificate, and TLS with it.

It is renewed beneath a running service: connections that are made from then on show the new one.
"""

import ssl
from collections.abc import Callable

from coordinator.config import CoordinatorConfig
from skerry.errors import ConfigError
from skerry.identity import tls
from skerry.identity.certificate import Identified, identify
from skerry.identity.errors import IdentityError, InvalidCertificateError, MissingFileError
from skerry.identity.key_file import CERTIFICATE, IdentityFolder
from skerry.identity.own import own_addresses, read_own


class Credentials:
    """What a coordinator shows, and whom it believes."""

    def __init__(self, folder: IdentityFolder, name: str, now_s: float) -> None:
        """Read and check the files of the identity.

        Raises:
            IdentityError: one is missing or damaged, or the certificate has expired.
            ConfigError: the certificate is another coordinator's.
        """
        self.folder, self._name = folder, name
        self.root, self.own = read_own(folder, "coordinator", name, now_s)
        self.server: ssl.SSLContext = tls.server_context(folder)
        self.client: ssl.SSLContext = tls.client_context(folder)

    def url(self, port: int) -> str:
        """Return the base URL of this coordinator at the first address in its certificate.

        Raises:
            IdentityError: there is none.
        """
        addresses = own_addresses(self.folder)
        if not addresses:
            raise IdentityError(f"{self.folder.find(CERTIFICATE)}: names no address: join again")
        return f"https://{f'[{addresses[0]}]' if ':' in addresses[0] else addresses[0]}:{port}"

    def reload(self, now_s: float) -> None:
        """Show what lies in the folder now on every connection from now on.

        Raises:
            IdentityError, ConfigError: as when it was read first.
        """
        self.root, self.own = read_own(self.folder, "coordinator", self._name, now_s)
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


def credentials_of(config: CoordinatorConfig, wall_clock: Callable[[], float]) -> Credentials | None:
    """Return what the configuration's coordinator shows; None where plain HTTP is spelt out.

    Raises:
        IdentityError, ConfigError: see `Credentials`; also before `init` or `join` has made an identity.
    """
    if config.insecure:
        return None
    try:
        return Credentials(config.identity_folder(), config.name, wall_clock())
    except MissingFileError as error:
        raise IdentityError(
            f"{error.path}: is missing: coordinator {config.name!r} has no identity yet, or lost it. The first of a "
            "federation makes one with `skerry-coordinator init --address HOST`, each other one with "
            "`skerry-coordinator join URL --token-file FILE`"
        ) from error


def check_peers(config: CoordinatorConfig, credentials: Credentials | None) -> None:
    """Refuse a peer that is this coordinator, by the address in its certificate.

    Raises:
        ConfigError: there is one; `url`, where it is spelt out, was compared when the configuration was read.
        IdentityError: the certificate names no address.
    """
    if config.url is not None or credentials is None or config.listen.port == 0:
        return
    try:
        config.check_no_peer_at(credentials.url(config.listen.port))
    except ValueError as error:
        raise ConfigError(str(error)) from None
