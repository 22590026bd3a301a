"""TLS between the parties of a federation: version 1.3, and a certificate of the federation on both sides.

Whether the role in a client's certificate may ask for what it asks is decided for each request, not here: see
`certificate.identify`.
"""

import ssl

from skerry.identity.certificate import pem_of
from skerry.identity.errors import IdentityError
from skerry.identity.key_file import CERTIFICATE, KEY, ROOT, IdentityFolder


def server_context(folder: IdentityFolder) -> ssl.SSLContext:
    """Return what a coordinator listens with; a client may come without a certificate, but not with a foreign one.

    Raises:
        IdentityError: a file of the identity is missing or damaged.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.num_tickets = 0  # no session is resumed: every connection shows its certificate, and it is looked at
    return _fill(context, folder)


def client_context(folder: IdentityFolder) -> ssl.SSLContext:
    """Return what agents, coordinators and operators connect with; the server must show what the root has signed.

    Raises:
        IdentityError: a file of the identity is missing or damaged.
    """
    return _fill(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), folder)


def joining_context(root_pem: str) -> ssl.SSLContext:
    """Return what one connects with that has no certificate yet, but a root whose fingerprint it has compared."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=root_pem)
    return context


def unverified_context() -> ssl.SSLContext:
    """Return what fetches the root certificate, and nothing else: it believes any server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def reload(context: ssl.SSLContext, folder: IdentityFolder) -> None:
    """Let connections that are made from now on show the certificate that lies in `folder` now.

    Raises:
        IdentityError: a file is missing or damaged, or the two do not belong together; the context stays as it was.
    """
    folder.check_private(KEY)
    certificate, key = folder.find(CERTIFICATE), folder.find(KEY)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key)
        context.load_cert_chain(certificate, key)
    except FileNotFoundError:
        folder.read(CERTIFICATE)  # says what is missing
        raise
    except (OSError, ssl.SSLError) as error:
        raise IdentityError(f"{certificate}: is no certificate for {key}: {error}: join again") from error


def _fill(context: ssl.SSLContext, folder: IdentityFolder) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=pem_of(*folder.certificates(ROOT)[:1]).decode())
    reload(context, folder)
    return context
