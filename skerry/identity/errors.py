"""What can be wrong with a party's credentials: our own, or those that another one shows."""

from skerry.errors import ConfigError, SkerryError


class IdentityError(SkerryError):
    """Our own identity is missing, damaged, expired or revoked; the remedy is mostly to join."""

    exit_code = 7


class InvalidJoinTokenError(ConfigError):
    """A text that is no join token. Never holds the text itself: it is a secret."""


class InvalidCertificateError(SkerryError):
    """A certificate, or a request for one, that is malformed or may not say what it says: its sender's fault."""
