"""Why there is no connection, in the system's words.

Those of the client library name the address again, after the URL that every message names, and speak of TLS where
there is none: "Cannot connect to host 127.0.0.1:8470 ssl:default [Connect call failed ('127.0.0.1', 8470)]".
"""

import os
import ssl

WRONG_ADDRESS = (62, 64)  # OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH
OUT_OF_TIME = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED


def disbelief(error: Exception) -> str:
    """Return why a server whose certificate Python refused with `error` is not believed, and what to do."""
    code, told = getattr(error, "verify_code", None), getattr(error, "verify_message", error)
    if code in WRONG_ADDRESS:
        return f"is not believed: {told}: name the coordinator by an address that `init` or `join` was given"
    if code in OUT_OF_TIME:
        return f"is not believed: {told}: is this machine's clock right?"
    return (
        f"is of another federation than this identity, or of none ({told}): correct the URL, or name an operator of "
        "that federation with --identity"
    )


def reason(error: BaseException) -> str:
    """Return what went wrong, of an error of aiohttp or of the system; never empty."""
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    if not isinstance(cause, OSError) or isinstance(cause, ssl.SSLError):
        return str(cause) or type(cause).__name__
    if cause.errno is not None and cause.errno > 0:  # below: of the resolver, which words it itself
        return os.strerror(cause.errno)
    return cause.strerror or str(cause) or type(cause).__name__
