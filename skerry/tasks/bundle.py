"""The bundle: a task in one file, named by its hash. A zip of stored entries, the same bytes for the same contents.

Nothing in it is code: graphs, a manifest, parameters. Whatever it says about its own sizes and hashes is checked.
"""

import errno
import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from skerry.errors import DataError
from skerry.tasks import manifest as manifest_module
from skerry.tasks.builtin.catalogue import SHIPPED, build_command, task_of
from skerry.tasks.manifest import MANIFEST_BYTES_MAX, MalformedBundle, Manifest, PartName
from skerry.tasks.model_file import from_safetensors
from skerry.vector import Float32

BUNDLE_BYTES_MAX = 2 << 30
MANIFEST_NAME = "manifest.json"
BUILTIN_PREFIX = "builtin:"

_ENTRIES = (MANIFEST_NAME, *PartName)
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can state: the bytes must not depend on the clock


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk. Parts are read when asked for, and verified again: the file may have changed."""

    path: Path
    manifest: Manifest
    sha256: str  # of the whole file
    file_bytes: int  # size of the whole file

    @classmethod
    def open(cls, path: Path) -> "Bundle":
        """Read and verify the bundle at `path`: its format, every part's hash, and the initial parameters.

        Raises:
            DataError: the file is missing or unreadable.
            MalformedBundle: it is no bundle, or not an intact one.
        """
        try:
            with path.open("rb") as file:
                file_bytes = file.seek(0, io.SEEK_END)
                if file_bytes > BUNDLE_BYTES_MAX:
                    raise MalformedBundle(f"{path}: {file_bytes} bytes, a bundle has at most {BUNDLE_BYTES_MAX}")
                file.seek(0)
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                with _archive(file, path) as archive:
                    head = _read_entry(archive, MANIFEST_NAME, MANIFEST_BYTES_MAX, path)
        except OSError as error:
            raise DataError(f"{path.absolute()}: cannot be read: {error.strerror}") from error
        bundle = cls(path, manifest_module.decode(head, str(path)), sha256, file_bytes)
        for name in PartName:
            bundle.part(name)
        bundle.initial_parameters()
        return bundle

    @classmethod
    def builtin(cls, name: str) -> "Bundle":
        """Return the bundle of a task that is shipped with the product.

        Raises:
            DataError: there is no such task, or its bundle has to be built first; says how.
        """
        task = task_of(name)
        if name not in SHIPPED:
            raise DataError(
                f"builtin:{name}: its bundle is not shipped: where torch is, run `{build_command(task)}`, "
                "and give that file's path"
            )
        return cls.open(Path(__file__).parent / SHIPPED[name])

    def part(self, name: PartName | str) -> bytes:
        """Return one part's bytes, e.g. `step.onnx`.

        Raises:
            DataError: the file is gone.
            MalformedBundle: the part is not what the manifest says.
        """
        name = PartName(name)
        try:
            with self.path.open("rb") as file, _archive(file, self.path) as archive:
                data = _read_entry(archive, name, BUNDLE_BYTES_MAX, self.path)
        except OSError as error:
            raise DataError(f"{self.path.absolute()}: cannot be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != self.manifest.parts[name]:
            raise MalformedBundle(f"{self.path}: {name}: does not match its hash; fetch or build the bundle again")
        return data

    def initial_parameters(self) -> Float32:
        """Return the model that training starts from, float32 of shape (layout.size,)."""
        try:
            return from_safetensors(self.manifest.layout, self.part(PartName.PARAMETERS))
        except MalformedBundle:
            raise
        except DataError as error:
            raise MalformedBundle(f"{self.path}: {PartName.PARAMETERS}: {error}") from error


def resolve(spec: str) -> Bundle:
    """Return the bundle that `spec` names: a path, or `builtin:TASK`.

    Raises:
        DataError: it does not exist, or is no bundle.
    """
    if spec.startswith(BUILTIN_PREFIX):
        return Bundle.builtin(spec.removeprefix(BUILTIN_PREFIX))
    return Bundle.open(Path(spec))


def pack(manifest: Manifest, parts: Mapping[PartName, bytes]) -> bytes:
    """Return the bundle file's bytes: the same for the same contents, whenever and wherever it is packed."""
    assert {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()} == manifest.parts
    contents = {MANIFEST_NAME: manifest_module.encode(manifest)} | {str(name): data for name, data in parts.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in _ENTRIES:
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3  # the same on every platform
            archive.writestr(entry, contents[name])
    return buffer.getvalue()


def _archive(file: io.BufferedReader, path: Path) -> zipfile.ZipFile:
    """Open the zip and refuse whatever is not exactly our own kind of it."""
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise MalformedBundle(f"{path}: is no bundle: {error}") from error
    names = tuple(entry.filename for entry in archive.infolist())
    if names != _ENTRIES:
        raise MalformedBundle(f"{path}: must hold exactly {', '.join(_ENTRIES)}, in this order")
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in archive.infolist()):
        raise MalformedBundle(f"{path}: its entries must be stored, neither compressed nor encrypted")
    return archive


def _read_entry(archive: zipfile.ZipFile, name: str, bytes_max: int, path: Path) -> bytes:
    """Read one stored entry; as it is not compressed, it cannot be larger than the file."""
    entry = archive.getinfo(name)
    if entry.file_size > bytes_max or entry.file_size != entry.compress_size:
        raise MalformedBundle(f"{path}: {name}: states {entry.file_size} bytes, at most {bytes_max} are allowed")
    try:
        return archive.read(entry)
    except OSError as error:
        if error.errno != errno.EINVAL:  # else the archive says that the entry stands before the file's start
            raise
        raise MalformedBundle(f"{path}: {name}: stands outside the file") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError) as error:
        raise MalformedBundle(f"{path}: {name}: {error}") from error
