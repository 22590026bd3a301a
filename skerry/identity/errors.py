"""What can be wrong with a party's credentials: our own, or those that another one shows."""

from pathlib import Path

from skerry.errors import ConfigError, SkerryError


class IdentityError(SkerryError):
    """Our own identity is missing, damaged, expired or revoked; the remedy is mostly to join."""

    exit_code = 7


class MissingFileError(IdentityError):
    """A file of our own identity is not there."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path}: is missing: this machine has no identity in the federation yet, or lost it: join it")
        self.path = path


class ExposedKeyError(IdentityError):
    """Others than its owner may read a private key of ours."""

    def __init__(self, path: Path, mode: int) -> None:
        self.remedy = f"chmod 600 {path}"
        super().__init__(f"{path}: others than its owner may read this key (mode {mode:o}): {self.remedy}")


class InvalidJoinTokenError(ConfigError):
    """A text that is no join token. Never holds the text itself: it is a secret."""


class InvalidCertificateError(SkerryError):
    """A certificate, or a request for one, that is malformed or may not say what it says: its sender's fault."""
