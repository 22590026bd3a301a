"""Why there is no connection, in the system's words.

Those of the client library name the address again, after the URL that every message names, and speak of TLS where
there is none: "Cannot connect to host 127.0.0.1:8470 ssl:default [Connect call failed ('127.0.0.1', 8470)]".
"""

import os
import ssl


def reason(error: BaseException) -> str:
    """Return what went wrong, of an error of aiohttp or of the system; never empty."""
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    if not isinstance(cause, OSError) or isinstance(cause, ssl.SSLError):
        return str(cause) or type(cause).__name__
    if cause.errno is not None and cause.errno > 0:  # below: of the resolver, which words it itself
        return os.strerror(cause.errno)
    return cause.strerror or str(cause) or type(cause).__name__
