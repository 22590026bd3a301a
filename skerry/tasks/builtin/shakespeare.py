"""Shakespeare's plays by role: what each role says, character by character; a role is a natural client.

Source of the idea: McMahan et al. 2017 (arXiv:1602.05629) and LEAF, Caldas et al. 2018 (arXiv:1812.01097). The file is
`{"source": ..., "roles": [{"play": ..., "role": ..., "speeches": [...]}]}`, compressed with gzip. The last fifth of
each role's text is held out.
"""

import gzip
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from skerry.errors import DataError
from skerry.tasks.builtin.deal import Deal
from skerry.tasks.builtin.folder import DataFile, Folder, readable
from skerry.tasks.builtin.tokens import UNKNOWN, Tokens, Vocabulary, Windows
from skerry.tasks.manifest import Manifest
from skerry.tasks.partition import Owners

NAME = "shakespeare"
HOME = "the plays at https://www.gutenberg.org/ebooks/100, cut into roles: docs/tasks/shakespeare.md has the format"
FILE = DataFile("shakespeare_roles.json.gz", "sha256:34432212f9b110b3ef85fcbc9c3aa98d6b55ccc28ded18bd17b6ec25a10100de")
ALPHABET = (*"\n !$&'(),-.234568:;?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz", UNKNOWN)
TRAINING_SHARE = 0.8  # of a role's characters, the first ones
JSON_BYTES_MAX = 64 << 20


class _Role(msgspec.Struct):
    play: str
    role: str
    speeches: list[str]


class _File(msgspec.Struct):
    roles: list[msgspec.Raw]  # decoded one by one: all of them at once would take ten times the memory


class Shakespeare:
    """A `skerry.tasks.builtin.source.DataSet`."""

    def __init__(self, folder: Folder, manifest: Manifest, file: DataFile = FILE) -> None:
        self._folder = folder
        self._vocabulary = Vocabulary.of(manifest, NAME)
        self._file = file

    def owners(self, deal: Deal, *, held_out: bool) -> Owners:
        """Deal roles or windows."""
        windows = self._windows[held_out]
        return deal.by_client(windows.clients, windows.client_count)

    def read(self, rows: npt.NDArray[np.int64], *, held_out: bool) -> tuple[Tokens, Tokens]:
        """Return windows and the same windows one character further."""
        return self._windows[held_out].examples(rows)

    @cached_property
    def _windows(self) -> tuple[Windows, Windows]:
        """Training and held-out windows; a role that is too short for a training window is no client."""
        train, held_out = [], []
        for text in role_texts(self._folder.need(self._file)):
            end = int(len(text) * TRAINING_SHARE)
            windows = self._vocabulary.cut(text[:end])
            if len(windows):
                train.append(windows)
                held_out.append(self._vocabulary.cut(text[end:]))
        return Windows.of_clients(train, self._vocabulary), Windows.of_clients(held_out, self._vocabulary)


def role_texts(path: Path) -> Iterator[str]:
    """Yield each role's speeches in the order of the play, a line's end between them.

    Raises:
        DataError: not readable, not intact, too large, or of another form.
    """
    with readable(path):
        try:
            with gzip.open(path) as file:
                content = file.read(JSON_BYTES_MAX + 1)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{path}: is no intact gzip file: {error}") from error
    if len(content) > JSON_BYTES_MAX:
        raise DataError(f"{path}: more than {JSON_BYTES_MAX >> 20} MiB of text")
    try:
        for role in msgspec.json.decode(content, type=_File).roles:
            yield "\n".join(msgspec.json.decode(role, type=_Role).speeches)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is no list of roles with their speeches: {error}") from error
