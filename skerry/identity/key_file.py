"""An identity's files: keys that only their owner reads, certificates beside them. Synchronous."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from skerry.errors import StorageError
from skerry.identity.authority import Authority
from skerry.identity.certificate import MALFORMED, check_key
from skerry.identity.errors import ExposedKeyError, IdentityError, MissingFileError
from skerry.ownership import give, owner_of_the_nearest

KEY, CERTIFICATE, ROOT = "key.pem", "certificate.pem", "root.pem"  # the certificate's issuer stands behind it
ISSUER_KEY, ISSUER = "issuer-key.pem", "issuer.pem"  # of a coordinator
ROOT_KEY = "root-key.pem"  # where the federation was made
FILE_BYTES_MAX = 64 << 10


@dataclass(frozen=True, slots=True)
class IdentityFolder:
    """Where an identity lies; a file in `credentials` (systemd's LoadCredential) goes before one of the same name."""

    path: Path
    credentials: Path | None = None  # $CREDENTIALS_DIRECTORY

    def find(self, name: str) -> Path:
        """Return where the file `name` is, or would be."""
        if self.credentials is not None and (self.credentials / name).exists():
            return self.credentials / name
        return self.path / name

    def is_credential(self, name: str) -> bool:
        """Return whether the file `name` is the service manager's: what is written does not take its place."""
        return self.find(name).parent == self.credentials

    def holds(self, name: str) -> bool:
        """Return whether there is a file `name`."""
        return self.find(name).exists()

    def read(self, name: str) -> bytes:
        """Return what the file `name` holds.

        Raises:
            IdentityError: it is missing, cannot be read or is too large.
        """
        path = self.find(name)
        try:
            with path.open("rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
        except FileNotFoundError:
            raise MissingFileError(path) from None
        except OSError as error:
            raise IdentityError(f"{path}: cannot be read: {error.strerror}") from error
        if len(data) > FILE_BYTES_MAX:
            raise IdentityError(f"{path}: larger than {FILE_BYTES_MAX} bytes: this is not what belongs there")
        return data

    def certificates(self, name: str) -> list[x509.Certificate]:
        """Return the certificates in the file `name`, at least one.

        Raises:
            IdentityError: as `read`, or it holds no certificates.
        """
        data = self.read(name)
        try:
            return x509.load_pem_x509_certificates(data)
        except MALFORMED as error:
            raise IdentityError(f"{self.find(name)}: holds no certificate: join again") from error

    def key(self, name: str) -> ec.EllipticCurvePrivateKey:
        """Return the private key in the file `name`.

        Raises:
            IdentityError: as `read`, others may read it, or it holds no key on P-256.
        """
        self.check_private(name)
        data = self.read(name)
        try:
            key = serialization.load_pem_private_key(data, password=None)
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise TypeError("of another kind")
            check_key(key.public_key())
        except MALFORMED:
            # Without its cause: that one may quote what it read.
            raise IdentityError(f"{self.find(name)}: holds no private key on P-256: join again") from None
        return key

    def authority(self, key_name: str, certificate_name: str) -> Authority:
        """Return the authority whose key and certificate these files hold.

        Raises:
            IdentityError: as `key` and `certificates`, or the two do not belong together.
        """
        key, certificate = self.key(key_name), self.certificates(certificate_name)[0]
        if key.public_key() != certificate.public_key():
            raise IdentityError(f"{self.find(key_name)}: is not the key of {self.find(certificate_name)}")
        return Authority(certificate, key)

    def check_private(self, name: str) -> None:
        """See that nobody but its owner can read the file `name`; of a credential systemd sees to that.

        Raises:
            IdentityError: others can, or the file is missing.
        """
        if self.is_credential(name):
            return
        path = self.find(name)
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except OSError:
            self.read(name)  # says what is wrong
            raise
        if mode & 0o077:
            raise ExposedKeyError(path, mode)

    def write(self, name: str, data: bytes, *, secret: bool = False) -> None:
        """Write the file `name` of the folder: on disk when it returns, and never seen half-written.

        What root writes belongs to whom the state belongs that it is a part of: the service, which is somebody else.

        Raises:
            StorageError: the disk refused.
        """
        path = self.path / name
        beside = path.with_name(path.name + ".tmp")
        try:
            owner = owner_of_the_nearest(self.path)
            if not self.path.exists():
                self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
                give(self.path, owner)
            beside.unlink(missing_ok=True)
            handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o644)
            with os.fdopen(handle, "wb") as file:
                give(handle, owner)
                file.write(data)
                file.flush()
                os.fsync(handle)
            beside.replace(path)
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {error.strerror}") from error

    def write_key(self, name: str, key: ec.EllipticCurvePrivateKey) -> None:
        """Write a private key, for its owner alone.

        Raises:
            StorageError: the disk refused.
        """
        data = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.write(name, data, secret=True)
