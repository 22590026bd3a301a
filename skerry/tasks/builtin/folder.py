"""Where the user keeps a data set: finds its files and makes sure that they are the published ones."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from skerry.errors import DataError

NAME_IT = "as dir= in the data source, as dir in the agent's [data], by --data-dir or in SKERRY_DATA"


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file of a data set, as its publisher gives it."""

    name: str  # may begin with the folder that its archive unpacks to
    checksum: str | None = None  # algorithm:hexadecimal digits; None: none was published
    bytes_max: int = 64 << 20

    def verify(self, path: Path, home: str) -> None:
        """Compare the file at `path` with what is known of it; `home` says where to get a right one.

        Raises:
            DataError: too large, or another checksum.
        """
        size = path.stat().st_size
        if size > self.bytes_max:
            raise DataError(f"{path}: {size} bytes, {self.name} has at most {self.bytes_max}: get it from {home}")
        if self.checksum is None:
            return
        algorithm, _, wanted = self.checksum.partition(":")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
        if found != wanted:
            raise DataError(
                f"{path}: its {algorithm} is {found}, that of {self.name} is {wanted}: "
                f"the file is damaged or another one; get it from {home}"
            )


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder that the user named for a data set, or a parent in which a folder has the data set's name."""

    data_set: str
    home: str  # where its publisher offers it
    path: Path | None  # None: the user named none
    _verified: set[Path] = field(default_factory=set)

    def find(self, *files: DataFile) -> Path | None:
        """Return the first of the files that is there, in the order given, or None.

        Raises:
            DataError: a folder may not be read.
        """
        for file in files:
            for place in self._places():
                with readable(place):
                    if (place / file.name).is_file():
                        return place / file.name
        return None

    def need(self, file: DataFile) -> Path:
        """Return where the file is, after it was verified.

        Raises:
            DataError: it is missing, unreadable, or not the published one; says where to get it.
        """
        path = self.find(file)
        if path is None:
            raise self.missing(file)
        if path not in self._verified:
            with readable(path):
                file.verify(path, self.home)
            self._verified.add(path)
        return path

    def missing(self, *files: DataFile) -> DataError:
        """Return the error to raise where none of `files` is there."""
        if self.path is None or not self.path.is_dir():
            return self.no_folder()
        names = " or ".join(file.name for file in files)
        places = " or ".join(map(str, self._places()))
        return DataError(
            f"data set {self.data_set}: no {names} in {places}: "
            f"get it from {self.home}; see docs/tasks/{self.data_set}.md"
        )

    def no_folder(self) -> DataError:
        """Return the error to raise where there is not even a folder."""
        where = "no folder named" if self.path is None else f"no folder {self.path}"
        return DataError(
            f"data set {self.data_set}: {where}: get the files from {self.home}, and name their folder {NAME_IT}; "
            f"see docs/tasks/{self.data_set}.md"
        )

    def _places(self) -> tuple[Path, ...]:
        return () if self.path is None else (self.path, self.path / self.data_set)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what the system says about reading `path` into a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
