"""The join token: what an operator hands to whoever sets up a device: the federation's fingerprint and a secret."""

import base64
import binascii
import hashlib
from dataclasses import dataclass, field

import msgpack

from skerry.identity.errors import InvalidJoinTokenError

PREFIX = "skerry1-"
TEXT_CHARS_MAX = 256  # an own one has 92
ROOT_SHA256_BYTES, IDENTIFIER_BYTES, SECRET_BYTES = 32, 8, 16


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A join token; the secret stays out of what is printed of it.

    Raises:
        ValueError: a part has another length.
    """

    root_sha256: bytes  # of the root certificate's DER: 32 bytes
    identifier: bytes  # 8 bytes, no secret: operators name the join token by it
    secret: bytes = field(repr=False)  # 16 bytes

    def __post_init__(self) -> None:
        """Check the lengths."""
        lengths = len(self.root_sha256), len(self.identifier), len(self.secret)
        if lengths != (ROOT_SHA256_BYTES, IDENTIFIER_BYTES, SECRET_BYTES):
            raise ValueError("a part of the join token has another length")

    def text(self) -> str:
        """Return the form that is handed over; whoever has it may join."""
        packed: bytes = msgpack.packb([self.root_sha256, self.identifier, self.secret])
        return PREFIX + base64.urlsafe_b64encode(packed).decode().rstrip("=")


def parse(text: str) -> JoinToken:
    """Read the text of a join token, white space around it aside.

    Raises:
        InvalidJoinTokenError: it is none; the text is not repeated.
    """
    text = text.strip()
    if not text.startswith(PREFIX):
        raise InvalidJoinTokenError(f"the join token is none: it must begin with `{PREFIX}`: copy it whole")
    if len(text) > TEXT_CHARS_MAX:
        raise InvalidJoinTokenError(f"the join token is none: longer than {TEXT_CHARS_MAX} characters")
    encoded = text.removeprefix(PREFIX)
    try:
        packed = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        root_sha256, identifier, secret = msgpack.unpackb(packed, max_array_len=3, max_map_len=0, max_ext_len=0)
        token = JoinToken(*map(_bytes, (root_sha256, identifier, secret)))
    except (binascii.Error, ValueError, TypeError, msgpack.UnpackException):
        # Without its cause: that one may quote what it read.
        raise InvalidJoinTokenError("the join token is damaged or not whole: copy it again") from None
    if token.text() != text:  # base64 has several texts for the same bytes; one is enough
        raise InvalidJoinTokenError("the join token is damaged or not whole: copy it again")
    return token


def secret_sha256(secret: bytes) -> bytes:
    """Return what a coordinator keeps of a secret. 128 random bits need no salt and no slow hash."""
    return hashlib.sha256(secret).digest()


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("not bytes")
    return value
